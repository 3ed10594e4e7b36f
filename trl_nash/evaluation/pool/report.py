# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What comes of a pool: the arena's tables and page, and how the policy did against its opponents, round by round."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...figures.style import INK, TIME, WIDTH, figure_settings, figures_missing, write_title
from ...figures.svg import save_schemes
from ...rounds.metrics import win_rate_interval
from ..arena.contestants import Contestant
from ..arena.report import write_files
from ..arena.standings import Standings
from .game import _WIN_RATE, WIN_RATE_WORST, PoolGame


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save_report(
    game: PoolGame, members: Sequence[str], folder: Path, prefix: str, judge: str, state: Any, steps: int
) -> tuple[Path, Standings] | None:
    """
    Writes the files of a pool.

    Args:
        game ([`PoolGame`]): what was played.
        members (`Sequence[str]`): the pool. The policy that was evaluated last is compared, too.
        folder (`Path`): where the files go.
        prefix (`str`): of the evaluation's metrics.
        judge (`str`): who judged.
        state ([`~transformers.TrainerState`]): whose `log_history` has the evaluations.
        steps (`int`): optimizer steps of a round.

    Returns:
        `tuple[Path, Standings]`: The page and its figures; `None` of fewer than two policies or two prompts.
    """
    names = list(dict.fromkeys([*members, *filter(None, [game.current])]))
    if len(names) < 2 or len(game.rows) < 2:
        return None
    result = game.result(names, judge)
    standings = Standings.of(result)
    folder.mkdir(parents=True, exist_ok=True)
    contestants = [Contestant(name, "frozen", name) for name in names]
    page = write_files(result, standings, contestants, folder, "The opponent pool")
    points = evaluations(state.log_history, prefix, steps)
    if points and figures_missing() is None:
        save_schemes(folder, "win_rates", win_rate_figure(points))
    return page, standings


def evaluations(log_history: Sequence[dict], prefix: str, steps: int) -> list[dict[str, Any]]:
    """
    What evaluations have found, the last one of each step.

    Returns:
        `list[dict]`: Each with `round` (a fraction within one), `worst`, its interval `low` and `high` (`None` of one
        prompt), and `opponents`, the win rate against each by name.
    """
    worst, found = f"{prefix}_{WIN_RATE_WORST}", {}
    for entry in log_history:
        start = f"{prefix}_{_WIN_RATE}"
        opponents = {name.removeprefix(start): value for name, value in entry.items() if name.startswith(start)}
        if worst in entry and opponents:
            low, high = _interval_of_worst(
                entry[worst], entry.get(f"{worst}_se"), entry.get(f"{worst}_n"), len(opponents)
            )
            found[entry["step"]] = {
                "round": entry["step"] / steps,
                "worst": entry[worst],
                "low": low,
                "high": high,
                "opponents": opponents,
            }
    return [found[step] for step in sorted(found)]


def _interval_of_worst(
    rate: float, error: float | None, count: float | None, opponents: int
) -> tuple[float | None, float | None]:
    """The worst of several win rates is an unlucky one: the upper end is that of all of them at once (Bonferroni)."""
    if error is None or count is None:
        return None, None
    low, _ = win_rate_interval(rate, error, int(count))
    _, high = win_rate_interval(rate, error, int(count), 1 - 0.05 / opponents)
    return low, high


def win_rate_figure(points: Sequence[dict[str, Any]]) -> "Figure":
    """
    The win rate of the policy against each opponent, by how far the run has come.

    Args:
        points (`Sequence[dict]`): what [`evaluations`] returns.

    Returns:
        `matplotlib.figure.Figure`: 4.8 x 3.6 inches.

    Raises:
        `ImportError`: If matplotlib is missing.
    """
    names = list(dict.fromkeys(name for point in points for name in point["opponents"]))
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.6))
        axes = figure.add_axes((0.16, 0.14, 0.81, 0.62))
        write_title(figure, "The policy against its own past\nwin rate on held-out prompts, with 95 % intervals")
        axes.axhline(0.5, color=INK, linewidth=0.7, linestyle=(0, (1, 3)))
        for index, name in enumerate(names):
            there = [(point["round"], point["opponents"][name]) for point in points if name in point["opponents"]]
            axes.plot(
                *zip(*there, strict=True),
                color=TIME[index * (len(TIME) - 1) // max(len(names) - 1, 1)],
                linewidth=1.1,
                marker="o",
                markersize=2.5,
                # Between the first and the last are the colours of the course of time.
                label=f"against {name.replace('_', ' ')}" if index in (0, len(names) - 1) else None,
            )
        rounds = [point["round"] for point in points]
        worst = [point["worst"] for point in points]
        axes.plot(rounds, worst, color=INK, linewidth=1.8, marker="o", markersize=3.5, label="worst", zorder=3)
        for point in points:
            if point["low"] is not None:
                axes.vlines(point["round"], point["low"], point["high"], color=INK, linewidth=0.8, zorder=3)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderaxespad=0.2)
        axes.set(xlim=(min(rounds) - 0.4, max(rounds) + 0.4), xlabel="rounds", ylabel="win rate of the policy")
        axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y")
    return figure
