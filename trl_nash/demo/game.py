# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash demo --game`: the real trainers on a game whose equilibrium is known, and how near each of them gets."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..usage import UsageError, did_you_mean
from .game_report import name_of, rows, show_policy, write_files
from .report import waiting


if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from ..games.callback import GameCallback
    from ..games.matrix import MatrixGame

# What `games.players.PLAYERS` knows, which takes seconds to import.
ALGORITHMS = (
    "comal",
    "mpo",
    "onpo",
    "nash-prox",
    "inpo",
    "egpo",
    "nash-mp",
    "mnpo",
    "nash-md",
    "online-ipo",
    "iterative-ipo",
    "sppo",
    "online-dpo",
    "grpo",
)
DEFAULT_ALGORITHMS = ("comal", "onpo", "nash-md", "online-dpo")
LINES = 4  # of a run, where there is no terminal
_BARS = "▁▂▃▄▅▆▇█"


@dataclass
class Contest:
    """
    Algorithms on one game, and what was read of their models so far.

    Attributes:
        name (`str`): of the game.
        game ([`MatrixGame`]): that is played.
        start (`np.ndarray` of shape `(N,)`): every model's first policy.
        rounds (`int`): of each run.
        gaps (`dict[str, list[list[float]]]`): by algorithm and seed, one before training and one after each round.
        policies (`dict[str, list[list[np.ndarray]]]`): likewise, the distributions over the N answers.
        seconds (`dict[str, float]`): that all seeds of an algorithm took.
        targets (`dict[str, np.ndarray]`): the equilibria of those algorithms that have one of their own.
    """

    name: str
    game: "MatrixGame"
    start: np.ndarray
    rounds: int
    gaps: dict[str, list[list[float]]] = field(default_factory=dict)
    policies: dict[str, list[list[np.ndarray]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    targets: dict[str, np.ndarray] = field(default_factory=dict)

    def tail(self, gaps: Sequence[float]) -> float:
        """The mean gap of the last 20 % of a run."""
        return float(np.mean(gaps[-max(len(gaps) // 5, 1) :]))

    @property
    def smoothing(self) -> int:
        """Of how many rounds a point of a figure's curve is the mean."""
        return max(self.rounds // 16, 1)


def check(game: str, algorithms: Sequence[str], rounds: int, seeds: int) -> Contest:
    """
    The contest that the options ask for.

    Raises:
        UsageError: If an algorithm is unknown or a number out of range.
        ValueError: If the game is.
    """
    for algorithm in algorithms:
        if algorithm not in ALGORITHMS:
            hint = did_you_mean(algorithm, ALGORITHMS) or f": there are {', '.join(ALGORITHMS)}."
            raise UsageError(f"unknown algorithm {algorithm}{hint}")
    for name, value in {"rounds": rounds, "seeds": seeds}.items():
        if value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}.")
    from ..games.named import default_start, load_game

    matrix = load_game(game)
    return Contest(Path(game).stem, matrix, matrix.policy(default_start(len(matrix))), rounds)


def run_demo(contest: Contest, algorithms: Sequence[str], seeds: int, output_dir: str) -> None:
    """Trains, shows and saves the contest."""
    from rich.console import Console

    console = Console(highlight=False)
    with waiting(console, "Loading PyTorch, transformers and TRL ..."):
        import torch

        from ..games.players import PLAYERS
    absent = [algorithm for algorithm in algorithms if algorithm not in PLAYERS]
    algorithms = [algorithm for algorithm in algorithms if algorithm in PLAYERS]
    if not algorithms:
        raise UsageError(f"the installed TRL has no trainer for {', '.join(absent)}: name another algorithm.")
    if absent:
        console.print(f"Left out, because the installed TRL has no trainer for it: {', '.join(absent)}.")
    torch.set_num_threads(1)  # as fast for models this small, and ten times as fast on a busy machine
    console.print(
        f"\n[bold]Language models on the game {contest.name}[/bold]: {len(algorithms)} algorithms x {seeds} seeds x "
        f"{contest.rounds} rounds"
    )
    run_contest(console, contest, algorithms, seeds, output_dir)


def run_contest(console: "Console", contest: Contest, algorithms: Sequence[str], seeds: int, output_dir: str) -> None:
    """
    Trains every algorithm with every seed under a live table, or where there is no terminal line by line, and writes
    `game.json`, figures and `report.html`.
    """
    from rich.live import Live

    from ..games.equilibria import nash_equilibrium

    game, equilibrium = contest.game, nash_equilibrium(contest.game)
    console.print(
        f"  {len(game)} answers; the Nash policy is {show_policy(equilibrium)}, and the models start from "
        f"{show_policy(contest.start)}. Every gap below is exact: read from the model's own probabilities.",
        style="dim",
    )
    with Live(console=console, auto_refresh=False) as live:

        def show() -> None:
            if console.is_terminal:
                live.update(progress_table(contest), refresh=True)
            elif (line := progress_line(contest)) is not None:
                console.print(line, style="dim")

        for algorithm in dict.fromkeys(algorithms):
            contest.gaps[algorithm], contest.policies[algorithm] = [], []
            began = time.monotonic()
            for seed in range(seeds):
                _train(contest, algorithm, seed, show=show)
            contest.seconds[algorithm] = time.monotonic() - began
        live.update(result_table(contest, equilibrium), refresh=True)
    console.print(
        "\n  The gap is twice what the best response wins beyond one half: 0 only at a Nash policy. Tail: mean of the "
        "last 20 % of rounds. KL: from the Nash policy to the last one, in nats.",
        style="dim",
    )
    write_files(console, contest, equilibrium, Path(output_dir))


def _train(contest: Contest, algorithm: str, seed: int, show) -> None:
    """Adds a run to the contest, reading after reading."""
    from ..games.language import LanguageGame
    from ..games.players import own_equilibrium, play

    game = LanguageGame(contest.game)
    own = own_equilibrium(game, algorithm, contest.start)
    if own is not None:
        (contest.targets[algorithm],) = own.values()
    gaps, policies = [], []
    contest.gaps[algorithm].append(gaps)
    contest.policies[algorithm].append(policies)

    def read(watch: "GameCallback") -> None:
        (policy,) = watch.policies[-1].values()
        gaps.append(watch.gaps[-1])
        policies.append(policy[:-1] / policy[:-1].sum())
        show()

    play(game, algorithm, start=contest.start, rounds=contest.rounds, seed=seed, on_reading=read)


def progress_table(contest: Contest) -> "Table":
    """What is shown while models train: a line for each algorithm, of its last seed."""
    table = _table("algorithm", "seed", "round", "gap", "", "policy")
    for algorithm, seeds in contest.gaps.items():
        if not seeds or not seeds[-1]:
            continue
        gaps = seeds[-1]
        policy = contest.policies[algorithm][-1][-1]
        table.add_row(
            name_of(algorithm),
            str(len(seeds)),
            f"{len(gaps) - 1}/{contest.rounds}",
            f"{gaps[-1]:.3f}",
            sparkline(gaps),
            show_policy(policy),
        )
    return table


def progress_line(contest: Contest) -> str | None:
    """The last reading of the run that is under way, if it is one of some four at equal distances."""
    algorithm, seeds = list(contest.gaps.items())[-1]
    done = len(seeds[-1]) - 1
    if done * LINES // contest.rounds == (done - 1) * LINES // contest.rounds:
        return None
    policy = show_policy(contest.policies[algorithm][-1][-1])
    place = f"seed {len(seeds)}, round {done}/{contest.rounds}"
    return f"  {name_of(algorithm)}, {place}: gap {seeds[-1][-1]:.3f}, policy {policy}"


def result_table(contest: Contest, equilibrium: np.ndarray) -> "Table":
    """What is left at the end: the gaps of each algorithm, by seed and in the median."""
    table = _table("algorithm", "tail gap", "by seed", "KL", "last policy", "seconds a run")
    for row in rows(contest, equilibrium):
        table.add_row(
            row["algorithm"],
            f"{row['tail gap']:.3f}",
            row["by seed"],
            f"{row['KL from Nash']:.3f}",
            row["last policy"],
            f"{row['seconds']:.0f}",
        )
    return table


def sparkline(gaps: Sequence[float], width: int = 24) -> str:
    """Gaps as a line of blocks: a full one is 1, an empty one .003 or less (as far apart as the logarithm is)."""
    chosen = [gaps[index] for index in np.linspace(0, len(gaps) - 1, min(width, len(gaps))).astype(int)]
    heights = 1 + np.log10(np.clip(chosen, 10**-2.5, 1)) / 2.5
    return "".join(_BARS[int(round(height * (len(_BARS) - 1)))] for height in heights)


def _table(*columns: str) -> "Table":
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in ("tail gap", "KL", "gap", "seconds a run") else "left")
    return table
