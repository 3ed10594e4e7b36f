# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The curves of win rates against what they cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trl_nash.figures.style import QUIET, WIDTH, figure_settings, styles, title_height, write_title


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def win_rate_figure(
    runs: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]], title: str, smooth: int = 3
) -> "Figure":
    """
    Win rate against the start over judged pairs: the median over seeds of means of `smooth` rounds.

    Args:
        runs (`Mapping`): for each method and seed the pairs judged until each reading, and the rates of all but the
            first reading.
        title (`str`): above the figure.
        smooth (`int`, *optional*, defaults to `3`): rounds of which a point is the mean, of those up to it.
    """
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.4))
        axes = figure.add_axes((0.1, 0.15, 0.62, 0.8 - title_height(title, 3.4)))
        looks, ends = styles(list(runs)), {}
        for name, seeds in runs.items():
            pairs = np.asarray(seeds[0][0][1:], float)
            rates = np.stack([[np.mean(r[max(0, k - smooth + 1) : k + 1]) for k in range(len(r))] for _, r in seeds])
            middle = 100 * np.median(rates, 0)
            axes.plot(pairs, middle, color=looks[name].color, linewidth=1.6)
            ends[name] = pairs[-1], middle[-1]
        axes.axhline(50, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.set_xlabel("judged pairs")
        axes.set_xlim(left=0)
        axes.grid(axis="y")
        low, high = axes.get_ylim()
        place = -np.inf
        for name, (_, y) in sorted(ends.items(), key=lambda end: end[1][1]):
            place = max((y - low) / (high - low), place + 0.062)
            text = f"{looks[name].name}  {y:.0f} %"
            axes.text(
                1.03, place, text, color=looks[name].color, fontweight="bold", va="center", transform=axes.transAxes
            )
        write_title(figure, title)
    return figure
