# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Algorithms for the game of preferences itself: mirror descent, its optimistic form, and references that move."""

from collections import deque
from collections.abc import Sequence
from functools import reduce

from numpy.typing import ArrayLike

from ..history import History
from ..matrix import MatrixGame, check_positive
from .base import Iterates, Pairs, check_rounds, exact_pairs, scheduled
from .regularized import Update, inpo_update, proximal_update


def mirror_descent(
    game: MatrixGame, *, start: ArrayLike, rounds: int, step_size: float, pairs: Pairs | None = None
) -> History:
    r"""
    Iterative IPO ([2310.12036](https://huggingface.co/papers/2310.12036), around the latest policy), which is
    multiplicative weights:

    `π_{t+1} ∝ π_t exp(η P(· ≻ π_t))`.

    On a cycle the policies spiral out at any step, by `|1 + iηκ|` a round; their average converges as 1/√T at best.
    """
    check_rounds("rounds", rounds)
    check_positive("step_size", step_size)
    pairs = pairs or exact_pairs(game)
    iterates = Iterates(game, start)
    for _ in range(rounds):
        fit = pairs(iterates.last)
        iterates.add(fit(iterates.last, step_size), step_size)
    return iterates.history


def onpo(
    game: MatrixGame,
    *,
    start: ArrayLike,
    rounds: int,
    step_size: float,
    fits: str = "one",
    anchor_history: int | None = None,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Optimistic online mirror descent ([2502.16852](https://huggingface.co/papers/2502.16852)), from `π'_0 = π_0`:

    `π'_{t+1} ∝ π'_t exp(η r_t)`    and    `π_{t+1} ∝ π'_{t+1} exp(η r_t)`    with    `r_t = P(· ≻ π_t)`.

    The average policy's gap falls as 1/T; the last policy converges near the equilibrium for `ηκ < 1/√3`.

    Args:
        fits (`str`, *optional*, defaults to `"one"`):
            `"two"` is the paper's algorithm, both fits on the same pairs. `"one"` is the same in one fit:
            `π_{t+1} ∝ π'_t exp(2η r_t)`, then `log π'_{t+1} = ½ log π'_t + ½ log π_{t+1}`, so that π' holds past
            policies with weights ½, ¼, ⅛ ..., the remainder on the oldest.
        anchor_history (`int`, *optional*): policies that `fits="one"` remembers; all if left out.
    """
    check_rounds("rounds", rounds)
    check_positive("step_size", step_size)
    if fits not in ("one", "two"):
        raise ValueError(f"`fits` must be 'one' or 'two', got {fits!r}.")
    if anchor_history is not None:
        check_rounds("anchor_history", anchor_history)
        if fits == "two":
            raise ValueError("`anchor_history` is for `fits='one'`: two fits carry π' from round to round.")
    pairs = pairs or exact_pairs(game)
    iterates = Iterates(game, start)
    if fits == "two":
        auxiliary = iterates.last  # π'
        for _ in range(rounds):
            fit = pairs(iterates.last)
            auxiliary = fit(auxiliary, step_size)
            iterates.add(fit(auxiliary, step_size), step_size)
        return iterates.history
    past = deque([iterates.last], maxlen=anchor_history)
    for _ in range(rounds):
        anchor = reduce(lambda older, newer: (older + newer) / 2, past)
        fit = pairs(iterates.last)
        iterates.add(fit(anchor, 2 * step_size), step_size)
        if anchor_history is None:
            past = deque([anchor])  # stands for all before it, in the same halves
        past.append(iterates.last)
    return iterates.history


def comal(
    game: MatrixGame,
    *,
    start: ArrayLike,
    rounds: int,
    step_size: float | Sequence[float],
    beta: float | Sequence[float],
    reference_rounds: int,
    inner: Update = inpo_update,
    pairs: Pairs | None = None,
) -> History:
    r"""
    COMAL ([2410.23223](https://huggingface.co/papers/2410.23223)): solve a regularised game around the policy, repeat.

    `ref ← π_t` every K rounds; in between, rounds of `inner`, by default INPO's
    `π_{t+1} ∝ ref^{ητ} π_t^{1-ητ} exp(η P(· ≻ π_t))`.

    Converges to an equilibrium of the game itself, and `KL(π*‖ref)` never increases, if K is large enough.

    Args:
        rounds (`int`): inner rounds in all, K to an outer loop.
        step_size (`float` or `Sequence[float]`): η, a list being indexed by outer loop (its last repeats).
        beta (`float` or `Sequence[float]`): τ, likewise.
        reference_rounds (`int`): K.
        inner (`Update`, *optional*):
            Any solver of the regularised game: `inner(log_policy, log_reference, step_size, beta, pairs)` returns the
            log-policy after one of its rounds. Such are `inpo_update`, `nash_md_update`, `egpo_update` and
            `nash_mirror_prox_update`; one that returns the equilibrium itself goes with `reference_rounds=1`.
    """
    check_rounds("rounds", rounds)
    check_rounds("reference_rounds", reference_rounds)
    pairs = pairs or exact_pairs(game)
    iterates = Iterates(game, start)
    for t in range(rounds):
        outer, k = divmod(t, reference_rounds)
        if k == 0:
            reference = iterates.last
        step, price = scheduled("step_size", step_size, outer), scheduled("beta", beta, outer)
        iterates.add(inner(iterates.last, reference, step, price, pairs), step)
    return iterates.history


def mpo(
    game: MatrixGame,
    *,
    start: ArrayLike,
    rounds: int,
    step_size: float,
    beta: float,
    reference_rounds: int,
    pairs: Pairs | None = None,
) -> History:
    r"""
    Magnetic preference optimization ([2410.16714](https://huggingface.co/papers/2410.16714)):

    `π_{t+1} ∝ (μ^{ητ} π_t exp(η P(· ≻ π_t)))^{1/(1+ητ)}`,    with the magnet `μ ← π_t` every `reference_rounds`.

    It is [`comal`] with a step in which the KL to the magnet is not linearised.
    """
    return comal(
        game,
        start=start,
        rounds=rounds,
        step_size=step_size,
        beta=beta,
        reference_rounds=reference_rounds,
        inner=proximal_update,
        pairs=pairs,
    )
