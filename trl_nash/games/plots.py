# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Figures of runs on a game: the duality gap against rounds, the policy's path on the simplex of three answers."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from ..figures.page import save_report
from ..figures.style import (
    GRID,
    INK,
    PAPER,
    QUIET,
    TIME,
    WIDTH,
    Style,
    figure_settings,
    styles,
    title_height,
    write_title,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


__all__ = ["gap_figure", "save_report", "simplex_figure", "styles"]

FLOOR = 1e-15  # gaps below it are rounding errors of float64


def gap_figure(
    runs: Mapping[str, Sequence[ArrayLike]],
    *,
    rounds: ArrayLike | None = None,
    title: str | None = None,
    targets: Mapping[str, float] | None = None,
    smooth: int = 1,
) -> "Figure":
    """
    The duality gap against rounds, on a logarithmic axis: the median over seeds, in a band from the smallest to the
    largest. Behind a name is its mean gap over the last 20 % of the rounds, as tables have it.

    Args:
        runs (`Mapping[str, Sequence[ArrayLike]]`):
            For each algorithm the gaps of its seeds, each of shape `(T,)`. Gaps below 1e-15 are drawn there.
        rounds (`ArrayLike` of shape `(T,)`, *optional*): when they were measured, 0, 1, 2 ... if left out.
        title (`str`, *optional*): above the figure; its further lines say the settings.
        targets (`Mapping[str, float]`, *optional*):
            For algorithms with an equilibrium of their own its gap, drawn as a dotted line.
        smooth (`int`, *optional*, defaults to `1`):
            For noisy runs: each point is the geometric mean of as many around it. Of a single seed the points
            themselves are a thin line.

    Returns:
        `matplotlib.figure.Figure`: 4.8 x 3.7 inches, for a phone's width too.

    Raises:
        `ImportError`: If matplotlib is missing.
        `ValueError`: If there is no run, or seeds of an algorithm differ in length.
    """
    curves = {label: _seeds(label, seeds) for label, seeds in _nonempty(runs).items()}
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.7))
        axes = figure.add_axes((0.128, 0.135, 0.54, 0.85 - title_height(title, 3.7) - 0.075))
        looks, ends, drawn = styles(list(curves)), {}, []
        for label, gaps in curves.items():
            x = np.arange(gaps.shape[1]) if rounds is None else np.asarray(rounds)
            if x.shape != gaps.shape[1:]:
                raise ValueError(f"`rounds` has {x.size} entries, but the gaps of {label} have {gaps.shape[1]}.")
            color = looks[label].color
            tail = np.median(gaps[:, -max(gaps.shape[1] // 5, 1) :].mean(axis=1))
            gaps = gaps.clip(min=FLOOR)
            smoothed = np.stack([_smoothed(seed, smooth) for seed in gaps])
            if len(gaps) > 1:
                axes.fill_between(x, smoothed.min(axis=0), smoothed.max(axis=0), color=color, alpha=0.2, linewidth=0)
            elif smooth > 1:
                axes.plot(x, gaps[0], color=color, linewidth=0.7, alpha=0.4)
            middle = np.median(smoothed, axis=0)
            axes.plot(x, middle, color=color, linewidth=1.6)
            drawn.append(smoothed)
            ends[label] = middle[-1], tail
            if targets and label in targets:
                axes.axhline(max(targets[label], FLOOR), color=color, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_yscale("log")
        # A dip of a single round, which is a chance of it, may leave the axis.
        lowest = min(min(np.median(gaps, axis=0).min(), np.quantile(gaps, 0.01)) for gaps in drawn)
        highest = max(gaps.max() for gaps in drawn)
        axes.set_ylim(max(lowest, FLOOR) / 1.6, min(max(highest, 10 * FLOOR) * 1.6, 1.25))
        axes.set_xlim(left=0 if rounds is None else np.min(rounds))
        axes.set_xmargin(0)
        axes.autoscale(axis="x", tight=True)
        _decimal_ticks(axes)
        axes.set_xlabel("round")
        axes.grid(axis="y")
        _label_ends(axes, {looks[label]: end for label, end in ends.items()})
        write_title(figure, title)
    return figure


def simplex_figure(
    trajectories: Mapping[str, Sequence[ArrayLike]],
    *,
    equilibrium: ArrayLike,
    actions: Sequence[str],
    start: ArrayLike,
    targets: Mapping[str, ArrayLike] | None = None,
    title: str | None = None,
) -> "Figure":
    """
    The path of each algorithm's policy among the policies of three answers, blue at first and orange at last.

    Args:
        trajectories (`Mapping[str, Sequence[ArrayLike]]`):
            For each algorithm the policies of its seeds, each of shape `(T, 3)`.
        equilibrium (`ArrayLike` of shape `(3,)`): marked with a star.
        actions (`Sequence[str]`): names of the answers.
        start (`ArrayLike` of shape `(3,)`): marked with a ring.
        targets (`Mapping[str, ArrayLike]`, *optional*):
            For algorithms with an equilibrium of their own that policy, marked with an empty diamond.
        title (`str`, *optional*): above the figure; its further lines say the settings.

    Returns:
        `matplotlib.figure.Figure`: a triangle for each algorithm, two in a row, or three if there are more than four.

    Raises:
        `ImportError`: If matplotlib is missing.
        `ValueError`: If there is no trajectory, or one is not about three answers.
    """
    paths = {label: [np.asarray(path, float) for path in seeds] for label, seeds in _nonempty(trajectories).items()}
    for label, seeds in paths.items():
        for path in seeds:
            if path.ndim != 2 or path.shape[1] != 3 or len(actions) != 3:
                raise ValueError(f"A simplex shows policies of 3 answers, but a path of {label} is {path.shape}.")
    columns = 2 if len(paths) <= 4 else 3
    rows = ceil(len(paths) / columns)
    side = WIDTH / columns
    looks = styles(list(paths))
    targets = {label: policy for label, policy in (targets or {}).items() if label in paths}
    foot, head = 0.75, title_height(title, 1.0)
    total = head + side * rows + foot
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, total))
        for index, (label, seeds) in enumerate(paths.items()):
            row, column = divmod(index, columns)
            in_row = min(columns, len(paths) - row * columns)
            left = 0.5 + (column - in_row / 2) / columns
            axes = figure.add_axes((left, (foot + (rows - row - 1) * side) / total, 1 / columns, side / total))
            _triangle(axes, actions)
            for path in seeds:
                _draw_path(axes, path, linewidth=1.1 if len(seeds) == 1 else 0.7)
            _mark(axes, start, marker="o", s=22, facecolor=PAPER, edgecolor=INK, linewidth=1.1)
            if label in targets:
                _mark(axes, targets[label], marker="D", s=26, facecolor="none", edgecolor=INK, linewidth=1.1)
            _mark(axes, equilibrium, marker="*", s=90, facecolor=INK, edgecolor=PAPER, linewidth=0.3)
            look = looks[label]
            axes.text(0.5, 1.11, look.name, color=look.color, fontsize=10, fontweight="bold", ha="center", va="center")
        last = max(len(path) for seeds in paths.values() for path in seeds) - 1
        _simplex_legend(figure, last, own=bool(targets), height=foot)
        write_title(figure, title)
    return figure


def _nonempty(runs: Mapping[str, Sequence[ArrayLike]]) -> Mapping[str, Sequence[ArrayLike]]:
    if not runs or not all(len(seeds) for seeds in runs.values()):
        raise ValueError("There is nothing to draw: every algorithm needs at least one run.")
    return runs


def _seeds(label: str, seeds: Sequence[ArrayLike]) -> np.ndarray:
    """Gaps of shape (seeds, T)."""
    arrays = [np.asarray(gaps, dtype=np.float64) for gaps in seeds]
    if len({array.shape for array in arrays}) > 1 or arrays[0].ndim != 1:
        raise ValueError(f"The runs of {label} differ in length: {[array.shape for array in arrays]}.")
    return np.stack(arrays)


def _decimal_ticks(axes: "Axes") -> None:
    """0.01, 0.02, 0.05, 0.1 ... on an axis of few decades, powers of ten on one of many."""
    from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, LogLocator, NullFormatter

    low, high = axes.get_ylim()
    few = high / low < 1000
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=9))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}") if few else LogFormatterMathtext())
    axes.yaxis.set_minor_formatter(NullFormatter())


def _label_ends(axes: "Axes", ends: Mapping[Style, tuple[float, float]]) -> None:
    """Each name where its line ends, moved apart where they would touch, with a thread back to the line, and a gap."""
    low, high = np.log(axes.get_ylim())
    order = sorted(ends, key=lambda style: ends[style])
    heights = np.array([(np.log(ends[style][0]) - low) / (high - low) for style in order])
    form = {"va": "center", "fontsize": 9, "transform": axes.transAxes}
    for style, height, place in zip(order, heights, _apart(heights, distance=0.062), strict=True):
        axes.plot(
            (1.005, 1.045), (height, place), color=style.color, linewidth=0.8, transform=axes.transAxes, clip_on=False
        )
        axes.text(1.055, place, style.name, color=style.color, fontweight="bold", **form)
        axes.text(1.595, place, _short(ends[style][1]), color=style.color, ha="right", **form)
    axes.text(1.595, 1.075, "mean of last 20 %", color=QUIET, ha="right", **form)
    axes.text(-0.2, 1.075, "duality gap, lower is better", **form)


def _short(gap: float) -> str:
    """Two digits, `0.030`, or one of a small gap, `3e-10`."""
    return f"{gap:#.2g}" if gap >= 1e-3 else f"{gap:.0e}".replace("e-0", "e-")


def _smoothed(gaps: np.ndarray, width: int) -> np.ndarray:
    """Geometric means of `width` points, of fewer at the ends."""
    if width == 1:
        return gaps
    window = np.ones(min(width, len(gaps)))
    counts = np.convolve(np.ones_like(gaps), window, "same")
    return np.exp(np.convolve(np.log(gaps), window, "same") / counts)


def _apart(heights: np.ndarray, distance: float) -> np.ndarray:
    """The nearest heights up to 1 that keep their order and are `distance` apart, for ascending `heights`."""
    from scipy.optimize import isotonic_regression

    steps = distance * np.arange(len(heights))
    return isotonic_regression(heights - steps).x.clip(max=1 - steps[-1]) + steps


_CORNERS = np.array([(0.0, 0.0), (1.0, 0.0), (0.5, np.sqrt(3) / 2)])


def _triangle(axes: "Axes", actions: Sequence[str]) -> None:
    axes.set(aspect="equal", xlim=(-0.14, 1.14), ylim=(-0.15, 1.18))
    axes.axis("off")
    for share in (0.25, 0.5, 0.75):
        for corner in range(3):
            ends = np.full((2, 3), 1 - share)
            ends[:, corner] = share
            ends[0, (corner + 1) % 3] = ends[1, (corner + 2) % 3] = 0
            axes.plot(*(ends @ _CORNERS).T, color=GRID, linewidth=0.6, zorder=1)
    axes.plot(*_CORNERS[[0, 1, 2, 0]].T, color=INK, linewidth=0.8, zorder=2)
    # Outer names begin and end at the edge of the panel, so that long ones do not reach into the next.
    for name, x, y, side in zip(
        actions, (-0.08, 1.08, 0.5), (-0.08, -0.08, 0.94), ("left", "right", "center"), strict=True
    ):
        axes.text(x, y, name, ha=side, va="center", fontsize=9)


def _draw_path(axes: "Axes", path: np.ndarray, linewidth: float) -> None:
    """A line whose colour is the root of time, as paths slow down; at most 200 pieces, each begins where one ends."""
    from matplotlib.collections import LineCollection

    points = path @ _CORNERS
    last = max(len(points) - 1, 1)
    cuts = np.unique((last * np.linspace(0, 1, 201) ** 2).round().astype(int))
    pieces = [points[a : b + 1] for a, b in zip(cuts[:-1], cuts[1:], strict=True)]
    colors = [TIME[int(root * (len(TIME) - 1) + 0.5)] for root in np.sqrt(cuts[:-1] / last)]
    axes.add_collection(
        LineCollection(pieces, colors=colors, linewidths=linewidth, zorder=3, capstyle="round", clip_on=False)
    )
    # Above the star, so that a path is seen to end in it.
    axes.scatter(points[-1, 0], points[-1, 1], s=11, color=TIME[-1], zorder=6, linewidth=0, clip_on=False)


def _mark(axes: "Axes", policy: ArrayLike, **marker) -> None:
    axes.scatter(*(np.asarray(policy, dtype=np.float64) @ _CORNERS), zorder=5, clip_on=False, **marker)


def _simplex_legend(figure: "Figure", last: int, own: bool, height: float) -> None:
    """Two lines at the foot, in inches: the ramp of time, whose middle is a quarter of it, and the marks."""
    from matplotlib.patches import Rectangle

    axes = figure.add_axes((0, 0, 1, height / figure.get_figheight()))
    axes.set(xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    left, right = (WIDTH - 1.6) / 2, (WIDTH + 1.6) / 2
    axes.text(left - 0.12, 0.62, "round", va="center", ha="right", fontsize=9)
    for start, color in zip(np.linspace(left, right, len(TIME), endpoint=False), TIME, strict=True):
        axes.add_patch(Rectangle((start, 0.57), right - start, 0.1, color=color, linewidth=0))  # over the one before
    for place, count in zip(np.linspace(left, right, 3), (0, last / 4, last), strict=True):
        axes.text(place, 0.44, f"{count:.0f}", ha="center", va="center", fontsize=9)
    marks = [("o", PAPER, 22, "start", 0.8), ("*", INK, 90, "equilibrium", 1.25)]
    marks += [("D", "none", 26, "its own equilibrium", 1.7)] if own else []
    x = (WIDTH - sum(mark[-1] for mark in marks)) / 2 + 0.1
    for marker, face, size, text, width in marks:
        axes.scatter(x, 0.17, marker=marker, s=size, facecolor=face, edgecolor=INK if marker != "*" else PAPER)
        axes.text(x + 0.14, 0.17, text, va="center", fontsize=9)
        x += width
