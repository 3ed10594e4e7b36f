# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Algorithms on a matrix game: their settings and limits before they run, and what came out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...algorithms.stability import largest_stable_step
from ...algorithms.table import regularized
from ...figures.style import styles
from ..dialogues.game import DialogueGame, Game
from ..equilibria import nash_equilibrium, regularized_equilibrium
from ..history import History
from ..sampled import SampledPairs
from ..settings import check_stability
from ..solvers import SOLVERS
from ..stability import own_rates, rotation_rate


@dataclass
class Outcome:
    """
    The runs of an algorithm.

    Attributes:
        algorithm (`str`): a key of `SOLVERS`.
        settings (`dict[str, Any]`): arguments of its solver.
        target (`np.ndarray` of shape `(N,)`, *optional*): the regularised equilibrium, if it converges to that.
        largest_step (`float`, *optional*): steps below it converge from nearby; `None` if they decay.
        kappa (`float`): how fast it turns around its equilibrium; 0 if nothing turns, or if its steps decay.
        warnings (`list[str]`): the limits that its settings pass.
        histories (`list[History]`): one for each seed.
    """

    algorithm: str
    settings: dict[str, Any]
    target: np.ndarray | None
    largest_step: float | None
    kappa: float
    warnings: list[str]
    histories: list[History] = field(default_factory=list)

    @property
    def name(self) -> str:
        return styles([self.algorithm])[self.algorithm].name

    def median(self, value: Callable[[History], float]) -> float:
        """The median over seeds of a function of a history."""
        return float(np.median([value(history) for history in self.histories]))


class Simulation:
    """
    Algorithms on a game.

    Args:
        name (`str`): of the game, or of its file.
        game ([`MatrixGame`] or [`DialogueGame`]): that is played.
        start (`np.ndarray` of shape `(N,)`): every algorithm's first policy.
        rounds (`int`): T.
        sampling (`dict[str, Any]`, *optional*): arguments of [`SampledPairs`]; exact fits if left out.
        plans (`dict[str, dict[str, Any]]`): the arguments of each algorithm's solver.
        seeds (`int`, *optional*, defaults to `1`): runs of each algorithm.

    Raises:
        `ValueError`: If a solver refuses its settings: a round of each is played at once.
    """

    def __init__(
        self,
        name: str,
        game: Game,
        start: np.ndarray,
        rounds: int,
        sampling: dict[str, Any] | None,
        plans: dict[str, dict[str, Any]],
        seeds: int = 1,
    ):
        self.name = name
        self.game = game
        self.start = start
        self.rounds = rounds
        self.sampling = sampling
        self.seeds = seeds
        for algorithm, settings in plans.items():
            self._solve(algorithm, 1, settings)
        if sampling is not None:
            SampledPairs(game, **sampling)
        self.equilibrium = nash_equilibrium(game)
        self.kappa = rotation_rate(game, self.equilibrium)
        self.outcomes = [self._plan(algorithm, settings) for algorithm, settings in plans.items()]

    def _plan(self, algorithm: str, settings: dict[str, Any]) -> Outcome:
        """The algorithm before it runs: where it should arrive, and which limits its settings pass."""
        target = None
        last = last_values(settings)  # a run ends with them, and they decide
        reference, beta = last.get("reference", self.start), last.get("beta", 0.0)
        if regularized(algorithm):
            target = regularized_equilibrium(self.game, reference, beta).policy
        if "step_size" not in last:  # Nash-MD's decaying step has no limit
            return Outcome(algorithm, settings, target, None, 0.0, [])
        step_size = last["step_size"]
        names = ("reference_rounds", "anchor_history", "history_weights")
        limits = {"beta": beta} | {name: last[name] for name in names if name in last}
        warnings = check_stability(algorithm, self.game, step_size=step_size, reference=reference, **limits)
        rates = own_rates(algorithm, self.game, step_size, beta, reference)
        largest = largest_stable_step(algorithm, kappa=rates, **limits)
        return Outcome(algorithm, settings, target, largest, float(rates.max(initial=0.0)), warnings)

    def run(self, outcome: Outcome, seed: int) -> None:
        """Adds a run to `outcome.histories`."""
        sampler = {}
        if self.sampling is not None:
            sampler["pairs"] = SampledPairs(self.game, seed=seed, **self.sampling)
        outcome.histories.append(self._solve(outcome.algorithm, self.rounds, outcome.settings | sampler))

    def _solve(self, algorithm: str, rounds: int, settings: dict[str, Any]) -> History:
        try:
            return SOLVERS[algorithm](self.game, start=self.start, rounds=rounds, **settings)
        except ValueError as error:
            raise ValueError(f"{algorithm}: {error}") from error

    def verdict(self, outcome: Outcome) -> str:
        """
        Whether the runs reach where they should: by the KL from the equilibrium, of the algorithm's own if it has one.

        The KL, unlike the gap, changes little within a turn around the equilibrium. Its largest value in the last
        quarter of the rounds is compared with that in the second quarter. Fits to samples stop where their noise
        begins: they are asked for a quarter of the first distance.
        """
        if self.rounds < 20:
            return "too few rounds to tell"
        target = self.equilibrium if outcome.target is None else outcome.target
        where = "" if outcome.target is None else ", regularised"
        distance = np.mean([history.kl_to(target) for history in outcome.histories], axis=0)
        quarter = len(distance) // 4
        early, late = distance[quarter : 2 * quarter].max(), distance[-quarter:]
        step_size = last_values(outcome.settings).get("step_size", np.inf)
        # Rounds of less than about a turn show progress only where it is large.
        turned = outcome.kappa < 1e-9 or step_size * outcome.kappa * self.rounds > 8
        if self.sampling is not None and late.mean() < max(0.25 * distance[0], 0.02):
            return f"hovers near{where}"
        nearer = late.max() < min((0.98 if turned else 0.5) * early, distance[0])
        if late.max() < 1e-12 or (nearer and not outcome.warnings):
            return f"converges{where}"
        if not turned:
            return "too few rounds to tell"
        moved = np.ptp(outcome.histories[0].policies[-quarter:], axis=0).max()
        # Where there are several equilibria, another one than the KL is measured from is as good.
        if outcome.target is None and outcome.median(lambda history: history.gaps[-quarter:].max()) < 1e-6:
            return "converges"
        if moved < 1e-6:
            return "settles elsewhere"
        return "cycles" if outcome.warnings or late.max() > 1.1 * early else "no progress"

    def rows(self) -> list[dict[str, Any]]:
        """The table of results: medians over seeds."""
        return [
            {
                "algorithm": outcome.name,
                "last gap": outcome.median(lambda history: history.gaps[-1]),
                "mean gap of the last 20 %": outcome.median(lambda history: tail(history.gaps).mean()),
                "gap of the average policy": outcome.median(lambda history: history.average_gaps[-1]),
                "KL to the equilibrium": outcome.median(lambda history: history.kl_to(self.equilibrium)[-1]),
                "verdict": self.verdict(outcome),
            }
            for outcome in self.outcomes
        ]

    def facts(self) -> dict[str, str]:
        """The game, its equilibrium and how the fits are made."""
        facts = {
            "game": f"{self.name}, {self._size()}",
            "equilibrium": show_policy(self.game, self.equilibrium),
            "rotation rate κ": f"{self.kappa:.3g}",
            "start": self._show(self.start),
        }
        if self.kappa < 1e-9:
            facts["rotation rate κ"] = "0: nothing turns around the equilibrium"
        # There is one beta and one reference, so that all who solve the regularised game solve the same.
        own = {outcome.name: outcome.target for outcome in self.outcomes if outcome.target is not None}
        if own:
            references = [
                outcome.settings["reference"] for outcome in self.outcomes if "reference" in outcome.settings
            ]
            if references:
                facts["reference"] = show_policy(self.game, np.array(references[0]))
            facts["regularised one"] = f"{self._show(next(iter(own.values())))}, of {', '.join(own)}"
        return facts | {"fits": self._fits()}

    def _size(self) -> str:
        """How many answers there are, or of what dialogues are made."""
        game = self.game
        if not isinstance(game, DialogueGame):
            return f"{len(game)} answers"
        user = "a deterministic" if game.deterministic else "a random"
        return f"{len(game.dialogues)} dialogues of {game.turns} turns with {user} user"

    def _show(self, policy: np.ndarray) -> str:
        return f"{show_policy(self.game, policy)} (gap {self.game.duality_gap(policy):.2g})"

    def _fits(self) -> str:
        if self.sampling is None:
            return f"exact, {self.rounds} rounds"
        others = "".join(f", {name} {value}" for name, value in self.sampling.items() if name != "pairs")
        seeds = f", medians of {self.seeds} seeds" if self.seeds > 1 else ""
        return f"{self.sampling['pairs']} sampled pairs a round{others}, {self.rounds} rounds{seeds}"


def show_policy(game: Game, policy: np.ndarray) -> str:
    """Its likeliest answers, or whole dialogues, up to six, with their probabilities."""
    names, policy = game.whole.actions, game.distribution(policy)
    order = range(len(names)) if len(names) <= 6 else np.argsort(-policy, kind="stable")[:6]
    shown = ", ".join(f"{names[index]} {policy[index]:.3f}" for index in order)
    return shown if len(names) <= 6 else f"{shown}, ..."


def last_values(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with the last entry of schedules, which is the one that repeats."""
    return {
        name: value[-1] if name in ("step_size", "beta") and isinstance(value, list) else value
        for name, value in settings.items()
    }


def tail(values: np.ndarray) -> np.ndarray:
    """The last fifth."""
    return values[-max(1, len(values) // 5) :]
