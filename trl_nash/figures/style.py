# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
How figures look. An algorithm has the same colour in all of them: one on a light and one on a dark ground, each with a
contrast of 4.5 to 1 against it, as text has to have. The colours of the algorithms that are compared most often are
told apart with any colour vision, and a name stands beside its line.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ..extras import pip_install


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# Figures are drawn in the colours of a light ground; DARK, below, has that of a dark one for each.
INK, QUIET, PAPER, GRID = "#262626", "#666666", "#ffffff", "#dddddd"
WIDTH = 4.8  # inches: at the width of a phone letters are as high as they are here


class Style(NamedTuple):
    """How an algorithm is called and drawn, on a light and on a dark ground."""

    name: str
    color: str
    dark: str


STYLES = {
    "comal": Style("COMAL", "#2753bf", "#699cff"),
    "onpo": Style("ONPO", "#8b0300", "#ea6134"),
    "inpo": Style("INPO", "#004a26", "#46f7a9"),
    "nash-md": Style("Nash-MD", "#682061", "#cc63c6"),
    "iterative-ipo": Style("iterative IPO", "#525a5e", "#95928b"),
    "online-dpo": Style("online DPO", "#875101", "#f8ab1f"),
    "grpo": Style("GRPO", "#518050", "#89c699"),
    "iterative-dpo": Style("iterative DPO", "#946f20", "#c39d41"),
    "sppo": Style("SPPO", "#224c83", "#85bbfe"),
    "nash-ema": Style("Nash-EMA", "#550884", "#ad95d5"),
    "egpo": Style("EGPO", "#1c693a", "#1dbe79"),
    "nash-mp": Style("Nash-MP", "#058093", "#7ad7e1"),
    "mpo": Style("MPO", "#c44086", "#df9fc5"),
    "mnpo": Style("MNPO", "#812b99", "#f7bdfb"),
    "nash-prox": Style("Nash Prox", "#685bd5", "#907bf8"),
    "online-ipo": Style("online IPO", "#ab285b", "#f86da9"),
}
_OTHERS = ("online-dpo", "nash-ema", "sppo", "iterative-dpo", "mpo", "nash-mp", "egpo")  # lend their colours


def _ramp(*stops: str, steps: int = 24) -> list[str]:
    """Colours at equal steps on the way from stop to stop."""
    channels = [[int(stop[i : i + 2], 16) for stop in stops] for i in (1, 3, 5)]
    places = [step * (len(stops) - 1) / (steps - 1) for step in range(steps)]

    def at(values: list[int], place: float) -> int:
        left = min(int(place), len(stops) - 2)
        return round(values[left] + (values[left + 1] - values[left]) * (place - left))

    return ["#" + "".join(f"{at(values, place):02x}" for values in channels) for place in places]


TIME = _ramp("#2065b8", "#7a55b0", "#c2410c")  # from the first round to the last: as light as each other
DARK = {INK: "#e6e6e6", QUIET: "#a8a8a8", PAPER: "#1e2129", GRID: "#3d414b"}
DARK |= dict(zip(TIME, _ramp("#6aa9f0", "#b79cf0", "#ff9a5c"), strict=True))
DARK |= {style.color: style.dark for style in STYLES.values()}


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """The [`Style`] of each label. A label that is no algorithm of `STYLES` keeps its name and gets a free colour."""
    known = {label: STYLES[key] for label in labels if (key := label.lower().replace("_", "-")) in STYLES}
    lent = [STYLES[key] for key in _OTHERS]
    free = [style for style in lent if style not in known.values()] or lent
    others = [label for label in labels if label not in known]
    known |= {label: free[index % len(free)]._replace(name=label) for index, label in enumerate(others)}
    return {label: known[label] for label in labels}


def figures_missing() -> str | None:
    """What to install for figures, in a sentence, or `None` if they can be drawn."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return f"Figures need matplotlib: {pip_install('plots')}."
    return None


@contextmanager
def figure_settings():
    """matplotlib with this module's settings; figures are made without pyplot, so that nothing global changes."""
    missing = figures_missing()
    if missing:
        raise ImportError(missing)
    import matplotlib
    import matplotlib.collections
    import matplotlib.colors
    import matplotlib.figure

    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9.5,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.linewidth": 0.7,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": GRID,
        "grid.linewidth": 0.6,
        "xtick.color": INK,
        "ytick.color": INK,
        "xtick.major.width": 0.7,
        "ytick.major.width": 0.7,
        "ytick.minor.size": 0,
        "lines.solid_capstyle": "round",
        "lines.solid_joinstyle": "round",
    }
    with matplotlib.rc_context(settings):
        yield matplotlib


def title_height(title: str | None, height: float) -> float:
    """The share of a figure `height` inches high which its title takes: a line in bold, and lines of settings."""
    return (0.14 + 0.19 * len(title.split("\n"))) / height if title else 0.0


def write_title(figure: "Figure", title: str | None) -> None:
    """At the upper left: the first line in bold, the others, which say the settings, below it and quiet."""
    for line, text in enumerate(title.split("\n") if title else ()):
        form = {"fontsize": 9, "color": QUIET} if line else {"fontsize": 11, "fontweight": "bold"}
        figure.text(0.02, 1 - (0.17 + 0.19 * line) / figure.get_figheight(), text, va="center", **form)
