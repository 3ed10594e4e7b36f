# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Algorithms for the regularised game, in which a policy pays τ per nat of KL from a reference."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from ..history import History
from ..matrix import MatrixGame, check_positive
from .base import Iterates, Pairs, check_rounds, check_weight, exact_pairs, log_policy, scheduled


# `update(log_policy, log_reference, step_size, beta, pairs)` is the log-policy after one round.
Update = Callable[[np.ndarray, np.ndarray, float, float, Pairs], np.ndarray]


def inpo_update(policy: np.ndarray, reference: np.ndarray, step_size: float, beta: float, pairs: Pairs) -> np.ndarray:
    """A round of [`inpo`], in log space."""
    check_weight(step_size, beta)
    fit = pairs(policy)
    return fit(toward(reference, policy, step_size * beta), step_size)


def nash_md_update(
    policy: np.ndarray, reference: np.ndarray, step_size: float, beta: float, pairs: Pairs
) -> np.ndarray:
    """A round of [`nash_md`], in log space."""
    check_weight(step_size, beta)
    mixture = log_softmax(toward(reference, policy, step_size * beta))
    fit = pairs(mixture)
    return fit(mixture, step_size)


def egpo_update(policy: np.ndarray, reference: np.ndarray, step_size: float, beta: float, pairs: Pairs) -> np.ndarray:
    """A round of [`egpo`], in log space."""
    check_weight(step_size, beta)
    anchor = toward(reference, policy, step_size * beta)
    half = pairs(policy)(anchor, step_size)
    return pairs(half)(anchor, step_size)


def nash_mirror_prox_update(
    policy: np.ndarray, reference: np.ndarray, step_size: float, beta: float, pairs: Pairs
) -> np.ndarray:
    """A round of [`nash_mirror_prox`], in log space."""
    half = proximal_update(policy, reference, step_size, beta, pairs, opponent=policy)
    return proximal_update(policy, reference, step_size, beta, pairs, opponent=half)


def proximal_update(
    policy: np.ndarray,
    reference: np.ndarray,
    step_size: float,
    beta: float,
    pairs: Pairs,
    opponent: np.ndarray | None = None,
) -> np.ndarray:
    r"""`(π ref^{ητ} exp(η P(· ≻ opponent)))^{1/(1+ητ)}` in log space: π is the opponent if none is given."""
    check_positive("step_size", step_size)
    check_positive("beta", beta)
    shrink = 1 + step_size * beta
    fit = pairs(policy if opponent is None else opponent)
    return fit(toward(reference, policy, step_size * beta / shrink), step_size / shrink)


def toward(reference: np.ndarray, policy: np.ndarray, weight: float) -> np.ndarray:
    """The geometric mixture of two log-policies, not normalised."""
    return weight * reference + (1 - weight) * policy


def inpo(
    game: MatrixGame,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Iterative Nash policy optimization ([2407.00617](https://huggingface.co/papers/2407.00617)):

    `π_{t+1} ∝ ref^{ητ} π_t^{1-ητ} exp(η P(· ≻ π_t))`.

    Stable for `η < 2τ / (τ² + κ²)`, with κ the rotation rate at the regularised equilibrium.
    """
    return _iterate(inpo_update, game, start, reference, rounds, step_size, beta, pairs)


def nash_md(
    game: MatrixGame,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float | None = None,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Nash mirror descent ([2312.00886](https://huggingface.co/papers/2312.00886)):

    `μ_t ∝ ref^{η_t τ} π_t^{1-η_t τ}`    and    `π_{t+1} ∝ μ_t exp(η_t P(· ≻ μ_t))`.

    Without a `step_size`, `η_t = 2 / (τ(t+2))` from t = 0, for which `KL(π_τ*‖π_T) <= 8 / (τ²(T+1))`. A constant step
    has another fixed point than the regularised equilibrium: the policy, not μ_t, solves the game against μ_t.
    """
    check_positive("beta", beta)
    steps = [2 / (beta * (t + 2)) for t in range(rounds)] if step_size is None else step_size
    return _iterate(nash_md_update, game, start, reference, rounds, steps, beta, pairs)


def nash_ema(
    game: MatrixGame,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    ema_decay: float = 0.9,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Nash-EMA ([2312.00886](https://huggingface.co/papers/2312.00886)) on a policy of one logit per answer:

    `π_{t+1} ∝ ref^{ητ} π_t^{1-ητ} exp(η P(· ≻ π̄_t))`    and    `log π̄_{t+1} = d log π̄_t + (1-d) log π_{t+1}`.

    The paper averages weights, and gives no tabular form; these are its policy gradient's terms as a mirror step. The
    fixed point is the regularised equilibrium.

    Args:
        ema_decay (`float`, *optional*, defaults to `0.9`): d in [0, 1), per round; 0 is [`inpo`].
    """
    if not 0 <= ema_decay < 1:
        raise ValueError(f"`ema_decay` must be at least 0 and below 1, got {ema_decay}.")
    average = log_policy(game, "start", start)

    def update(policy: np.ndarray, reference: np.ndarray, step_size: float, beta: float, pairs: Pairs) -> np.ndarray:
        nonlocal average
        check_weight(step_size, beta)
        policy = pairs(average)(toward(reference, policy, step_size * beta), step_size)
        average = log_softmax(ema_decay * average + (1 - ema_decay) * policy)
        return policy

    return _iterate(update, game, start, reference, rounds, step_size, beta, pairs)


def egpo(
    game: MatrixGame,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Extragradient preference optimization ([2503.08942](https://huggingface.co/papers/2503.08942)):

    `π_{t+½} ∝ ref^{ητ} π_t^{1-ητ} exp(η P(· ≻ π_t))`    and    `π_{t+1} ∝ ref^{ητ} π_t^{1-ητ} exp(η P(· ≻ π_{t+½}))`.

    A round draws pairs twice, from π_t and from π_{t+½}.
    """
    return _iterate(egpo_update, game, start, reference, rounds, step_size, beta, pairs)


def nash_mirror_prox(
    game: MatrixGame,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Nash mirror prox ([2505.19731](https://huggingface.co/papers/2505.19731)), the KL to the reference not linearised:

    `π_{t+½} ∝ (ref^{ητ} π_t exp(η P(· ≻ π_t)))^{1/(1+ητ)}`    and
    `π_{t+1} ∝ (ref^{ητ} π_t exp(η P(· ≻ π_{t+½})))^{1/(1+ητ)}`.

    A round draws pairs twice, from π_t and from π_{t+½}. `KL(π_τ*‖π_t)` shrinks by 1/(1+2τ) a round at η = 2.
    """
    return _iterate(nash_mirror_prox_update, game, start, reference, rounds, step_size, beta, pairs)


def _iterate(
    update: Update,
    game: MatrixGame,
    start: ArrayLike,
    reference: ArrayLike | None,
    rounds: int,
    step_size: float | list[float],
    beta: float,
    pairs: Pairs | None,
) -> History:
    """Rounds of `update` around a reference that stays. A list of step sizes is indexed by round."""
    check_rounds("rounds", rounds)
    pairs = pairs or exact_pairs(game)
    iterates = Iterates(game, start)
    log_reference = iterates.last if reference is None else log_policy(game, "reference", reference)
    for t in range(rounds):
        step = scheduled("step_size", step_size, t)
        iterates.add(update(iterates.last, log_reference, step, beta, pairs), step)
    return iterates.history
