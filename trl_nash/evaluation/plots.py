# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Figures of `trl-nash judge`: how sure judges are, and whether they may be."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..figures.style import INK, PAPER, STYLES, WIDTH, figure_settings, write_title


if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = (STYLES["comal"].color, STYLES["onpo"].color)  # far apart


def histogram_figure(preferences: Mapping[str, np.ndarray]) -> "Figure":
    """
    How often which preference was given, of up to two judges.

    Args:
        preferences (`Mapping[str, np.ndarray]`): P(first wins) by the name of the judge, without `nan`.

    Returns:
        `matplotlib.figure.Figure`: 4.8 x 3.4 inches.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    edges = np.linspace(0, 1, 22)  # an odd number of bins: ties are in the middle of one
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.4))
        axes = figure.add_axes((0.16, 0.15, 0.81, 0.66))
        write_title(figure, "Preferences of the judge" + "s" * (len(preferences) > 1))
        for (name, values), color in zip(preferences.items(), COLORS, strict=False):
            shares = np.histogram(values, edges)[0] / max(len(values), 1)
            axes.stairs(shares, edges, fill=True, color=color, alpha=0.25, zorder=2)
            axes.stairs(shares, edges, color=color, linewidth=1.5, label=name, zorder=3)
        axes.axvline(0.5, color=INK, linewidth=0.7, linestyle=(0, (1, 3)))
        axes.set(xlim=(0, 1), xlabel="preference, P(first wins)", ylabel="share of the pairs")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axes.grid(axis="y")
        _legend(axes, preferences)
    return figure


def reliability_figure(tables: Mapping[str, Sequence[Mapping[str, float]]], against: str) -> "Figure":
    """
    How often judges were right, by how sure they were.

    Args:
        tables (`Mapping[str, Sequence]`): what [`calibration`] found, by the name of the judge.
        against (`str`): what right means, such as `"the label"`.

    Returns:
        `matplotlib.figure.Figure`: 4.8 x 4.8 inches.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 4.8))
        axes = figure.add_axes((0.15, 0.11, 0.81, 0.75))
        write_title(figure, f"Confidence and agreement with {against}")
        axes.plot((0.5, 1), (0.5, 1), color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        most = max((b["pairs"] for table in tables.values() for b in table), default=1)
        lowest = 0.45
        for index, (name, table) in enumerate(tables.items()):
            x, y, pairs = (np.array([b[key] for b in table]) for key in ("confidence", "right", "pairs"))
            low, high = wilson(y, pairs)
            lowest = min([lowest, *(low - 0.03)])
            color, shift = COLORS[index % 2], 0.003 * index  # so that intervals do not hide each other
            axes.vlines(x + shift, low, high, color=color, linewidth=1)
            axes.plot(x + shift, y, color=color, linewidth=0.8, alpha=0.6)
            sizes = 12 + 70 * pairs / most
            axes.scatter(
                x + shift, y, s=sizes, color=color, edgecolor=PAPER, linewidth=0.6, zorder=3, label=name, clip_on=False
            )
        axes.set(xlim=(0.49, 1.01), ylim=(max(lowest, -0.02), 1.02))
        axes.set(xlabel="confidence, max(P, 1 - P)", ylabel=f"agrees with {against}")
        axes.grid()
        _legend(axes, tables)
    return figure


def wilson(share: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % interval of a share of `count` cases."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half


def _legend(axes, names: Mapping[str, object]) -> None:
    """Above the axes, in the judges' colours; a single judge needs none."""
    if len(names) > 1:
        legend = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderaxespad=0.2)
        for handle in legend.legend_handles:
            if hasattr(handle, "set_sizes"):
                handle.set_sizes([30])
