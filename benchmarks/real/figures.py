# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The curves of win rates against what they cost."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trl_nash.figures.style import QUIET, WIDTH, figure_settings, styles, title_height, write_title


if TYPE_CHECKING:
    from matplotlib.figure import Figure


# What a method costs until a reading (tokens are those that it sampled), and what its axis is called.
COSTS = {"pairs": "judged pairs", "tokens": "tokens", "seconds": "seconds"}


def win_rate_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]], title: str, smooth: int = 3) -> "Figure":
    """
    Win rate against the start over what it cost, a panel for each of `COSTS`: medians over seeds, of costs and of
    means of `smooth` rounds. The answers of a round are those of the policy before it, and cost what came before.

    Args:
        runs (`Mapping`): for each method and seed the `win_rate` of all readings but the first, and each cost until
            each reading. A cost that a trainer does not report is left out.
        title (`str`): above the figure.
        smooth (`int`, *optional*, defaults to `3`): rounds of which a point is the mean, of those up to it.
    """
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.4))
        looks, ends = styles(list(runs)), {}
        height = 0.8 - title_height(title, 3.4)
        first = None
        for place, (cost, label) in enumerate(COSTS.items()):
            axes = figure.add_axes((0.07 + 0.22 * place, 0.15, 0.185, height), sharey=first)
            first = first or axes
            for name, seeds in runs.items():
                if any(cost not in seed for seed in seeds):
                    continue
                spent = np.median([seed[cost][:-1] for seed in seeds], 0)
                middle = 100 * np.median([_smoothed(seed["win_rate"], smooth) for seed in seeds], 0)
                axes.plot(spent, middle, color=looks[name].color, linewidth=1.6)
                ends[name] = middle[-1]
            axes.axhline(50, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.set_xlabel(label)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(2))
            axes.grid(axis="y")
            axes.tick_params(labelleft=place == 0)
        low, high = axes.get_ylim()
        place = -np.inf
        for name, y in sorted(ends.items(), key=lambda end: end[1]):
            place = max((y - low) / (high - low), place + 0.062)
            text = f"{looks[name].name}  {y:.0f} %"
            axes.text(
                1.06, place, text, color=looks[name].color, fontweight="bold", va="center", transform=axes.transAxes
            )
        write_title(figure, title)
    return figure


def _smoothed(values: Sequence[float], rounds: int) -> list[float]:
    """Means of each value and those before it, `rounds` in all."""
    return [float(np.mean(values[max(0, end - rounds) : end])) for end in range(1, len(values) + 1)]
