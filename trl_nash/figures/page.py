# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A page of figures and a table in one file: it needs no other file and no network, by day or in dark mode."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .style import DARK, GRID, INK, PAPER, QUIET, figure_settings, figures_missing
from .svg import recolor, svg


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; {light} }}
@media (prefers-color-scheme: dark) {{
  :root {{ {dark} }}
}}
body {{
  max-width: 44rem; margin: 3rem auto; padding: 0 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
}}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 0 0 2rem; }}
dt {{ color: var(--quiet); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
figure {{ margin: 2.5rem 0; }}
figure svg {{ display: block; width: 100%; height: auto; max-width: 36rem; }}
figcaption {{ color: var(--quiet); font-size: .9rem; max-width: 44rem; margin-top: .5rem; }}
.table {{ overflow-x: auto; margin: 2rem 0; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }}
th, td {{ padding: .35rem 1.25rem .35rem 0; text-align: left; vertical-align: baseline; }}
th {{ color: var(--quiet); font-weight: 500; border-bottom: 1px solid var(--ink); }}
td {{ border-bottom: 1px solid var(--grid); }}
td:first-child {{ font-weight: 600; }}
.number {{ text-align: right; white-space: nowrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
{facts}{figures}{table}</body>
</html>
"""


_NAMES = {INK: "--ink", QUIET: "--quiet", PAPER: "--paper", GRID: "--grid"}
_VARIABLES = {color: _NAMES.get(color, f"--{color[1:]}") for color in DARK}


def save_report(
    directory: str | Path,
    figures: "Mapping[str, Figure] | Callable[[], Mapping[str, Figure]]",
    table: Sequence[Mapping[str, object]],
    title: str,
    *,
    facts: Mapping[str, str] | None = None,
    captions: Mapping[str, str] | None = None,
) -> Path:
    """
    Writes each figure as a PNG of 300 dpi, and `report.html` with all of them and the table.

    Args:
        directory (`str` or `Path`): is made if there is none.
        figures (`Mapping[str, matplotlib.figure.Figure]` or `Callable`):
            Figures by the name of their file, without ending; or a function that draws them. Without matplotlib the
            function is not called: the page has the facts and the table, and says how to get the figures.
        table (`Sequence[Mapping[str, object]]`):
            Rows of equal columns; floats are shown with three digits.
        title (`str`): of the page.
        facts (`Mapping[str, str]`, *optional*): a list of terms and what they are, above the figures.
        captions (`Mapping[str, str]`, *optional*): a text below a figure, by the figure's name.

    Returns:
        `Path`: The page.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    captions, drawn = captions or {}, ""
    if callable(figures):
        missing = figures_missing()
        figures = {} if missing else figures()
        drawn = f"<p>{escape(missing)}</p>\n" if missing else ""
    for name, figure in figures.items():
        with figure_settings():
            figure.savefig(directory / f"{name}.png", dpi=300, facecolor=PAPER)
        caption = f"<figcaption>{escape(captions[name])}</figcaption>\n" if name in captions else ""
        in_colors_of_page = recolor(svg(name, figure), {color: f"var({v})" for color, v in _VARIABLES.items()})
        drawn += f"<figure>\n{in_colors_of_page}{caption}</figure>\n"
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(fact)}</dd>\n" for term, fact in (facts or {}).items())
    page = directory / "report.html"
    page.write_text(
        _PAGE.format(
            title=escape(title),
            light=" ".join(f"{variable}: {color};" for color, variable in _VARIABLES.items()),
            dark=" ".join(f"{_VARIABLES[color]}: {dark};" for color, dark in DARK.items()),
            facts=f"<dl>\n{terms}</dl>\n" if terms else "",
            figures=drawn,
            table=_table(table) if table else "",
        ),
        encoding="utf-8",
    )
    return page


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    def cells(tag: str, texts: Sequence[str]) -> str:
        marked = zip(texts, numeric, strict=True)
        return "".join(f"<{tag}{' class=number' * number}>{escape(text)}</{tag}>" for text, number in marked)

    columns = list(rows[0])
    numeric = [all(isinstance(row[column], (int, float)) for row in rows) for column in columns]
    body = "".join(f"<tr>{cells('td', [_text(row[column]) for column in columns])}</tr>\n" for row in rows)
    return f'<div class="table"><table>\n<tr>{cells("th", columns)}</tr>\n{body}</table></div>\n'


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
