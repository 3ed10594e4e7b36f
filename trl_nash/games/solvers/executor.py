# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Plays any method of `trl_nash.algorithms` on a game, and checks what it is given."""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from ...algorithms.fit import AVERAGE, INITIAL, START, Fit, Method, Past, named
from ...algorithms.play import play_round
from ..dialogues.game import Game
from ..history import History
from ..matrix import check_positive


# `pairs(log_opponent)` draws the pairs of a round, and `pairs(log_opponent)(log_centre, step_size)` is the log-policy
# fitted to them, all of shape (N,), or (S,) for dialogues.
Pairs = Callable[[np.ndarray], Callable[[np.ndarray, float], np.ndarray]]


def exact_pairs(game: Game) -> Pairs:
    r"""
    Infinitely many pairs with their true preferences: the fit is `π ∝ exp(centre) · exp(η P(· ≻ ν))`. Of dialogues it
    is the policy next to that, see `trl_nash.games.dialogues.fits`.
    """

    def pairs(log_opponent: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
        gains = game.gains(np.exp(log_opponent))  # P(· ≻ ν) but for a constant, which cancels
        return lambda log_centre, step_size: game.tilted(log_centre, step_size * gains)

    return pairs


def iterate(
    game: Game,
    method: Method,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
    pairs: Pairs | None = None,
) -> Iterator[np.ndarray]:
    """
    Plays a method for as long as it is asked to.

    Args:
        game ([`MatrixGame`] or [`DialogueGame`]): that is played.
        method (`Method`): a definition of `trl_nash.algorithms`, or your own, with its settings bound.
        start, reference (`ArrayLike` of shape `(N,)`): π_0, and ref if it is another policy.
        reference_rounds (`int`, *optional*): K, rounds after which the reference moves; it stays if left out.
        ema_decay (`float`, *optional*, defaults to `0.9`): d of the average policy.
        pairs (`Pairs`, *optional*): how fits are made; exactly if left out, or [`SampledPairs`].

    Returns:
        `Iterator[np.ndarray]`: the log-policy after each round, shape `(N,)`; not finite once a step overflowed.
    """
    pairs = pairs or exact_pairs(game)
    log_start = log_policy(game, "start", start)
    log_reference = log_start if reference is None else log_policy(game, "reference", reference)
    policies = {START: log_start, INITIAL: log_reference, AVERAGE: log_start}
    past = Past(0, reference_rounds)
    policies = {policy: policies[policy] for policy in {START} | named(method(past)) if policy in policies}
    while True:
        with np.errstate(over="ignore", invalid="ignore"):  # reported by `Iterates`
            play_round(method, past, policies, lambda opponent: pairs(game.normalized(opponent)), ema_decay)
        past = past.next
        yield policies[past.now]


def solve(
    game: Game,
    define: Callable[..., list[Fit]],
    *,
    start: ArrayLike,
    rounds: int,
    step_size: float | Sequence[float],
    reference: ArrayLike | None = None,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
    pairs: Pairs | None = None,
    **settings,
) -> History:
    """
    Plays a definition, `define(past, step_size=..., **settings)`, for so many rounds.

    Lists, of `step_size` and of `beta`, are indexed by how often the reference has moved, or by round if it stays; the
    last one repeats. (Trainers index `step_size` by round and `beta` by epoch.) The others are those of [`iterate`].
    """
    check_rounds("rounds", rounds)
    if reference_rounds is not None:
        check_rounds("reference_rounds", reference_rounds)
    settings["step_size"] = step_size
    scheduled = {name: settings[name] for name in ("step_size", "beta") if name in settings}

    def values_of(number: int) -> dict[str, float]:
        index = min(number, rounds - 1) // (reference_rounds or 1)  # what is needed looks past the last round
        return {name: value_at(name, schedule, index) for name, schedule in scheduled.items()}

    @lru_cache(maxsize=2)
    def method(past: Past) -> list[Fit]:
        values = values_of(past.round)
        for name, value in values.items():
            check_positive(name, value)
        fits = define(past, **settings | values)
        lowest = min(weight for fit in fits for weight in fit.centre.values())
        if "beta" in values and lowest < -1e-12:  # 1 itself may be rounded up
            raise ValueError(
                f"`step_size` * `beta` = {values['step_size'] * values['beta']:g} must be at most 1, it is the weight "
                f"of the reference: lower `step_size` to {1 / values['beta']:g}."
            )
        return fits

    iterates = Iterates(game, start)
    policies = iterate(
        game,
        method,
        start=start,
        reference=reference,
        reference_rounds=reference_rounds,
        ema_decay=ema_decay,
        pairs=pairs,
    )
    for number, policy in enumerate(islice(policies, rounds)):
        iterates.add(policy, values_of(number)["step_size"])
    return iterates.history


class Iterates(list[np.ndarray]):
    """
    The log-policies π_0, π_1 ... of a run.

    Logs go on where probabilities underflow: a method that spirals out passes 1e-308 and comes back.
    """

    def __init__(self, game: Game, start: ArrayLike):
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


def log_policy(game: Game, name: str, probabilities: ArrayLike) -> np.ndarray:
    """Log-probabilities of the argument `name`, which must give every answer: no step ever adds one."""
    policy = game.policy(probabilities)
    if not policy.all():
        answer = game.actions[int(policy.argmin())]
        raise ValueError(
            f"`{name}` must give every answer, but {answer!r} has probability 0, and no step changes that."
        )
    return np.log(policy)


def check_single_turn(name: str, game: Game) -> None:
    """Raises `ValueError` on a game of dialogues, for a method that is written down for answers of one turn."""
    if game.whole is not game:
        raise ValueError(f"{name} is played on games of one turn; `game.whole` has each dialogue as one answer.")


def check_rounds(name: str, value: int) -> None:
    """Raises `ValueError` unless `value` counts at least one round."""
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}.")


def value_at(name: str, schedule: float | Sequence[float], index: int) -> float:
    """A number as it is, or the value of a list at `index`, of which the last repeats."""
    if np.ndim(schedule) == 0:
        return cast(float, schedule)
    values = cast(Sequence[float], schedule)
    if not len(values):
        raise ValueError(f"`{name}` must be a number or a list of numbers, got an empty list.")
    return float(values[min(index, len(values) - 1)])
