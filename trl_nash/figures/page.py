# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A page of figures and a table in one file: it needs no other file and no network, by day or in dark mode."""

import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from .style import GRID, INK, PAPER, figure_settings


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
:root {{ color-scheme: light dark; --ink: #262626; --quiet: #666; --paper: #fff; --grid: #ddd; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #e6e6e6; --quiet: #9a9a9a; --paper: #17191d; --grid: #3a3d43; }}
}}
body {{
  max-width: 56rem; margin: 3rem auto; padding: 0 1.5rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
}}
h1 {{ font-size: 1.6rem; line-height: 1.2; margin: 0 0 1rem; }}
dl {{ display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.25rem; margin: 0 0 2rem; }}
dt {{ color: var(--quiet); }}
dd {{ margin: 0; overflow-wrap: anywhere; }}
figure {{ margin: 2.5rem 0; }}
figure svg {{ display: block; width: 100%; height: auto; margin: 0 auto; }}
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


def save_report(
    directory: str | Path,
    figures: Mapping[str, "Figure"],
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
        figures (`Mapping[str, matplotlib.figure.Figure]`): by the name of their file, without ending.
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
    for name, figure in figures.items():
        with figure_settings():
            figure.savefig(directory / f"{name}.png", dpi=300, facecolor=PAPER)
        caption = f"<figcaption>{escape(captions[name])}</figcaption>\n" if name in captions else ""
        drawn += f"<figure>\n{_svg(name, figure)}{caption}</figure>\n"
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(fact)}</dd>\n" for term, fact in (facts or {}).items())
    page = directory / "report.html"
    page.write_text(
        _PAGE.format(
            title=escape(title),
            facts=f"<dl>\n{terms}</dl>\n" if terms else "",
            figures=drawn,
            table=_table(table) if table else "",
        ),
        encoding="utf-8",
    )
    return page


def _svg(name: str, figure: "Figure") -> str:
    """The figure as an element of the page, in the page's colours."""
    file = io.StringIO()
    with figure_settings() as matplotlib, matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    for color, variable in ((INK, "--ink"), (PAPER, "--paper"), (GRID, "--grid")):
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    # Names of parts are those of this figure alone: a page holds several.
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    width = figure.get_figwidth() * 96 * 1.15
    size = f'role="img" aria-label="{escape(name)}" style="max-width: {width:.0f}px"'
    return re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"|^<svg ', rf"<svg {size} \g<1>", svg, count=1) + "\n"


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
