# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The methods of `trl_nash.algorithms` on a matrix game: their arguments, and the definition that is played."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ... import algorithms
from ...algorithms.fit import Fit
from ..history import History
from ..matrix import check_positive
from .executor import Game, Pairs, check_rounds, solve


# ---- For the game of preferences itself ----


def mirror_descent(
    game: Game, *, start: ArrayLike, rounds: int, step_size: float, pairs: Pairs | None = None
) -> History:
    r"""
    Iterative IPO, which is multiplicative weights: [`algorithms.iterative_ipo`].

    On a cycle the policies spiral out at any step, by `|1 + iηκ|` a round; their average converges as 1/√T at best.
    """
    return solve(game, algorithms.iterative_ipo, start=start, rounds=rounds, step_size=step_size, pairs=pairs)


def onpo(
    game: Game,
    *,
    start: ArrayLike,
    rounds: int,
    step_size: float,
    fits: str = "one",
    anchor_history: int | None = None,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Optimistic online mirror descent: [`algorithms.onpo`].

    The average policy's gap falls as 1/T; the last policy converges near the equilibrium for `ηκ < 1/√3`.

    Args:
        fits (`str`, *optional*, defaults to `"one"`):
            `"two"` is the paper's algorithm, [`algorithms.onpo_two_fits`], both fits on the same pairs. `"one"` is the
            same in one fit, and both are optimistic multiplicative weights,
            `π_{t+1} ∝ π_t exp(η (2r_t - r_{t-1}))`.
        anchor_history (`int`, *optional*): policies that `fits="one"` remembers; all if left out.
    """
    if fits not in ("one", "two"):
        raise ValueError(f"`fits` must be 'one' or 'two', got {fits!r}.")
    settings = {"start": start, "rounds": rounds, "step_size": step_size, "pairs": pairs}
    if anchor_history is not None:
        check_rounds("anchor_history", anchor_history)
    if fits == "one":
        return solve(game, algorithms.onpo, **settings, anchor_history=anchor_history)
    if anchor_history is not None:
        raise ValueError("`anchor_history` is for `fits='one'`: two fits carry π' from round to round.")
    return solve(game, algorithms.onpo_two_fits, **settings)


def comal(
    game: Game,
    *,
    start: ArrayLike,
    rounds: int,
    step_size: float | Sequence[float],
    beta: float | Sequence[float],
    reference_rounds: int,
    inner: Callable[..., list[Fit]] = algorithms.inpo,
    pairs: Pairs | None = None,
) -> History:
    r"""
    COMAL ([2410.23223](https://huggingface.co/papers/2410.23223)): solve a regularised game around the policy, repeat.

    `ref ← π_t` every K rounds; in between, rounds of `inner`. Converges to an equilibrium of the game itself, and
    `KL(π*‖ref)` never increases, if K is large enough.

    Args:
        rounds (`int`): inner rounds in all, K to an outer loop.
        step_size (`float` or `Sequence[float]`): η, a list being indexed by outer loop (its last repeats).
        beta (`float` or `Sequence[float]`): τ, likewise.
        reference_rounds (`int`): K.
        inner (`Callable`, *optional*): a definition of `trl_nash.algorithms` that has a `beta`; by default INPO's.
    """
    return solve(
        game,
        inner,
        start=start,
        rounds=rounds,
        step_size=step_size,
        beta=beta,
        reference_rounds=reference_rounds,
        pairs=pairs,
    )


def mpo(
    game: Game,
    *,
    start: ArrayLike,
    rounds: int,
    step_size: float,
    beta: float,
    reference_rounds: int,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Magnetic preference optimization: [`algorithms.mpo`], with the magnet `ref ← π_t` every `reference_rounds`.

    It is [`comal`] with a step in which the KL to the magnet is not linearised.
    """
    settings: dict[str, Any] = {"step_size": step_size, "beta": beta, "reference_rounds": reference_rounds}
    return solve(game, algorithms.mpo, start=start, rounds=rounds, **settings, pairs=pairs)


# ---- For the regularised game, in which a policy pays τ per nat of KL from a reference that stays ----


def inpo(
    game: Game,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Iterative Nash policy optimization: [`algorithms.inpo`].

    Stable for `η < 2τ / (τ² + κ²)`, with κ the rotation rate at the regularised equilibrium.
    """
    settings = {"start": start, "reference": reference, "rounds": rounds, "step_size": step_size, "beta": beta}
    return solve(game, algorithms.inpo, **settings, pairs=pairs)


def mnpo(
    game: Game,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    history_weights: Sequence[float] = (0.5, 0.5),
    pairs: Pairs | None = None,
) -> History:
    r"""
    Multiplayer Nash preference optimization: [`algorithms.mnpo`].

    Args:
        history_weights (`Sequence[float]`, *optional*, defaults to `(0.5, 0.5)`):
            λ of the latest policy, the one before ..., which add up to 1. The default is that of the authors' code.
    """
    weights = np.asarray(history_weights, dtype=np.float64)
    if weights.ndim != 1 or not (weights >= 0).all() or not abs(weights.sum() - 1) < 1e-6:
        raise ValueError(f"`history_weights` must be at least 0 and add up to 1, got {history_weights}.")
    settings = {"start": start, "reference": reference, "rounds": rounds, "step_size": step_size, "beta": beta}
    return solve(game, algorithms.mnpo, **settings, history_weights=weights, pairs=pairs)


def nash_md(
    game: Game,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float | None = None,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Nash mirror descent: [`algorithms.nash_md`].

    Without a `step_size`, `η_t = 2 / (τ(t+2))` from t = 0, for which `KL(π_τ*‖π_T) <= 8 / (τ²(T+1))`. A constant step
    has another fixed point than the regularised equilibrium: the policy solves the game against the mixture.
    """
    check_positive("beta", beta)
    steps = [2 / (beta * (t + 2)) for t in range(rounds)] if step_size is None else step_size
    settings = {"start": start, "reference": reference, "rounds": rounds, "step_size": steps, "beta": beta}
    return solve(game, algorithms.nash_md, **settings, pairs=pairs)


def nash_ema(
    game: Game,
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
    Nash-EMA: [`algorithms.nash_ema`], with `log π̄_{t+1} = d log π̄_t + (1-d) log π_{t+1}`.

    Args:
        ema_decay (`float`, *optional*, defaults to `0.9`): d in [0, 1), per round; 0 is [`inpo`].
    """
    if not 0 <= ema_decay < 1:
        raise ValueError(f"`ema_decay` must be at least 0 and below 1, got {ema_decay}.")
    settings = {"start": start, "reference": reference, "rounds": rounds, "step_size": step_size, "beta": beta}
    return solve(game, algorithms.nash_ema, **settings, ema_decay=ema_decay, pairs=pairs)


def egpo(
    game: Game,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Extragradient preference optimization: [`algorithms.egpo`].

    A round draws pairs twice, from π_t and from π_{t+½}.
    """
    settings = {"start": start, "reference": reference, "rounds": rounds, "step_size": step_size, "beta": beta}
    return solve(game, algorithms.egpo, **settings, pairs=pairs)


def nash_mirror_prox(
    game: Game,
    *,
    start: ArrayLike,
    reference: ArrayLike | None = None,
    rounds: int,
    step_size: float,
    beta: float,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Nash mirror prox: [`algorithms.nash_mirror_prox`].

    A round draws pairs twice, from π_t and from π_{t+½}. `KL(π_τ*‖π_t)` shrinks by 1/(1+2τ) a round at η = 2.
    """
    settings = {"start": start, "reference": reference, "rounds": rounds, "step_size": step_size, "beta": beta}
    return solve(game, algorithms.nash_mirror_prox, **settings, pairs=pairs)
