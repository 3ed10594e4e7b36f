# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
How figures look. An algorithm has the same colour in all of them; the colours are told apart with any colour vision
and stand out from a light and from a dark page.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from typing import NamedTuple

from ..extras import pip_install


INK, PAPER, GRID = "#262626", "#ffffff", "#dddddd"  # a report replaces them by the colours of its page


class Style(NamedTuple):
    """How an algorithm is called and drawn."""

    name: str
    color: str


STYLES = {
    "comal": Style("COMAL", "#0072b2"),
    "onpo": Style("ONPO", "#d55e00"),
    "inpo": Style("INPO", "#009e73"),
    "nash-md": Style("Nash-MD", "#cc79a7"),
    "iterative-ipo": Style("iterative IPO", "#808080"),
    "online-dpo": Style("online DPO", "#e69f00"),
    "iterative-dpo": Style("iterative DPO", "#a6761d"),
    "sppo": Style("SPPO", "#56b4e9"),
    "nash-ema": Style("Nash-EMA", "#9467bd"),
    "egpo": Style("EGPO", "#6baa1e"),
    "nash-mp": Style("Nash-MP", "#17a2a2"),
    "mpo": Style("MPO", "#c2447a"),
    "mnpo": Style("MNPO", "#ba49f2"),
    "grpo": Style("GRPO", "#557350"),
    "nash-prox": Style("Nash Prox", "#5b6ee1"),
    "online-ipo": Style("online IPO", "#b5525c"),
}
_OTHER_COLORS = ("#e69f00", "#9467bd", "#56b4e9", "#a6761d", "#c2447a", "#17a2a2", "#6baa1e")
TIME = ("#2f7ed8", "#8a6fc0", "#e8590c")  # from the first round to the last: as light as each other


def styles(labels: Sequence[str]) -> dict[str, Style]:
    """The [`Style`] of each label. A label that is no algorithm of `STYLES` keeps its name and gets a free colour."""
    known = {label: STYLES[key] for label in labels if (key := label.lower().replace("_", "-")) in STYLES}
    taken = {style.color for style in known.values()}
    free = [color for color in _OTHER_COLORS if color not in taken] or list(_OTHER_COLORS)
    others = [label for label in labels if label not in known]
    known |= {label: Style(label, free[index % len(free)]) for index, label in enumerate(others)}
    return {label: known[label] for label in labels}


@contextmanager
def figure_settings():
    """matplotlib with this module's settings; figures are made without pyplot, so that nothing global changes."""
    try:
        import matplotlib
        import matplotlib.collections
        import matplotlib.colors
        import matplotlib.figure
    except ImportError as error:
        raise ImportError(f"Figures need matplotlib: {pip_install('plots')}.") from error
    settings = {
        "font.family": "DejaVu Sans",
        "font.size": 9,
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
