# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the solvers share: the fit to pairs, the list of policies and the checks of settings."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from ..history import History
from ..matrix import MatrixGame, check_positive


# `fit(log_anchor, step_size)` is the log-policy fitted to a set of pairs, all of shape (N,).
Fit = Callable[[np.ndarray, float], np.ndarray]
# `pairs(log_opponent)` draws the pairs of a round from the opponent. Calls of one `fit` share them.
Pairs = Callable[[np.ndarray], Fit]


def exact_pairs(game: MatrixGame) -> Pairs:
    r"""Infinitely many pairs with their true preferences: the fit is `π ∝ exp(a) · exp(η P(· ≻ ν))`."""

    def pairs(log_opponent: np.ndarray) -> Fit:
        advantage = game.advantage @ np.exp(log_opponent)  # P(· ≻ ν) but for a constant, which cancels

        @np.errstate(over="ignore", invalid="ignore")  # reported by `Iterates`
        def fit(log_anchor: np.ndarray, step_size: float) -> np.ndarray:
            return log_softmax(log_anchor + step_size * advantage)

        return fit

    return pairs


class Iterates(list[np.ndarray]):
    """
    The log-policies π_0, π_1 ... of a run.

    Logs go on where probabilities underflow: a method that spirals out passes 1e-308 and comes back.
    """

    def __init__(self, game: MatrixGame, start: ArrayLike):
        super().__init__([log_policy(game, "start", start)])
        self.game = game

    def add(self, policy: np.ndarray, step_size: float) -> None:
        """Adds a log-policy, if it is one: a step of this size may have overflowed."""
        if not np.isfinite(policy).all():
            raise ValueError(f"Round {len(self)} overflows with `step_size` {step_size:g}: make it smaller.")
        self.append(policy)

    @property
    def last(self) -> np.ndarray:
        return self[-1]

    @property
    def history(self) -> History:
        return History(self.game, np.exp(self))


def log_policy(game: MatrixGame, name: str, probabilities: ArrayLike) -> np.ndarray:
    """Log-probabilities of the argument `name`, which must give every answer: no step ever adds one."""
    policy = game.policy(probabilities)
    if not policy.all():
        answer = game.actions[int(policy.argmin())]
        raise ValueError(
            f"`{name}` must give every answer, but {answer!r} has probability 0, and no step changes that."
        )
    return np.log(policy)


def check_rounds(name: str, value: int) -> None:
    """Raises `ValueError` unless `value` counts at least one round."""
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}.")


def check_weight(step_size: float, beta: float) -> None:
    r"""Raises `ValueError` unless `ρ = η τ` is a weight, of the reference in an anchor."""
    check_positive("step_size", step_size)
    check_positive("beta", beta)
    if step_size * beta > 1 + 1e-12:  # 1 itself may be rounded up
        raise ValueError(
            f"`step_size` * `beta` = {step_size * beta:g} must be at most 1, it is the weight of the reference: "
            f"lower `step_size` to {1 / beta:g}."
        )


def scheduled(name: str, schedule: float | Sequence[float], index: int) -> float:
    """A number as it is, or the value of a list at `index`, of which the last repeats."""
    values = np.atleast_1d(schedule)
    if not len(values):
        raise ValueError(f"`{name}` must be a number or a list of numbers, got an empty list.")
    return float(values[min(index, len(values) - 1)])
