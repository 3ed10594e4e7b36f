# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
Which settings converge, near an equilibrium, and how fast: read off the definitions.

In log space, a small deviation from the equilibrium is turned by `(P-½)(diag π - π πᵀ)`, whose eigenvalues are ±iκ_j:
win rates answer a deviation at a right angle. In the direction of one of them, deviations are complex numbers, and a
fit around policies that deviate by d_k with weights w_k, against an opponent that deviates by d_ν, deviates by

`Σ_k w_k d_k + iηκ d_ν`.

So a round is a linear map of the deviations of the policies that it looks back to, and its spectral radius is what a
round multiplies distances with. A reference that stays does not deviate; one that moves is part of the map, of which
the period is then K rounds. (Deviations that nothing turns, κ_j = 0, make no method diverge: a reference damps them,
without one they lead to other equilibria.)
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .checks import check_positive
from .fit import INITIAL, Method, Past, Policy, needed
from .methods import onpo_two_fits
from .play import play_round
from .table import LATE, METHODS, MOVING, bound, has_reference, takes, weighted


TURNS = {"iterative-dpo": 4, "sppo": 1, "grpo": 1}
"""Methods of another loss, centred at the latest policy: `1 + iε`, of DPO (whose η is 1/β) `1 + 4iε`."""


def minimum_reference_rounds(rho: float) -> int:
    r"""
    The smallest K for which moving the reference every K rounds converges, for a reference of weight ρ = η τ.

    It is the smallest K with `1 - (1-ρ)^{2K} > 2ρK (1-ρ)^{K-1}`: below it the inner game is left so early that the
    outer loop still rotates as plain mirror descent does (which is K = 1).

    Raises:
        `ValueError`: unless `0 < rho <= 1`.
    """
    if not 0 < rho <= 1:
        raise ValueError(f"`rho` must be in (0, 1], got {rho}.")
    rounds = 1
    while 1 - (1 - rho) ** (2 * rounds) <= 2 * rho * rounds * (1 - rho) ** (rounds - 1):
        rounds += 1
    return rounds


def contraction(
    algorithm: str,
    *,
    step_size: float,
    kappa: ArrayLike,
    beta: float = 0.0,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
    anchor_history: int | None = None,
    history_weights: Sequence[float] = (0.5, 0.5),
) -> float:
    r"""
    The number that a round multiplies the distance from the equilibrium with, near it (COMAL and MPO: an outer loop).

    Args:
        algorithm (`str`): a key of `METHODS` or of `TURNS`.
        step_size (`float`): η > 0.
        kappa (`float` or `ArrayLike`):
            κ, or all `games.stability.rotation_rates`, at the equilibrium that the algorithm converges to; for
            nash-md, at the mixture, the equilibrium regularised with `τ/(1-ρ)`; for grpo, those of its gradient. The
            worst of several decides. Fast rotations are the first to spiral out, but slow ones heal slowest in all
            but INPO, Nash-MD and mirror descent.
        beta (`float`, *optional*, defaults to `0.0`): τ, where the algorithm has one.
        reference_rounds (`int`, *optional*): K of COMAL and MPO.
        ema_decay (`float`, *optional*, defaults to `0.9`): d of Nash-EMA.
        anchor_history (`int`, *optional*):
            H of ONPO, whose anchor has the weights w = ½, ¼ ... and the remainder on the oldest; all policies if left
            out.
        history_weights (`Sequence[float]`, *optional*, defaults to `(0.5, 0.5)`): λ of MNPO.

    Returns:
        `float`: Below 1 it converges, above 1 it spirals out. Exactly 1 for algorithms without τ where κ = 0.
    """
    check_positive("step_size", step_size)
    settings: dict[str, Any] = {
        "beta": beta,
        "reference_rounds": reference_rounds,
        "ema_decay": ema_decay,
        "anchor_history": anchor_history,
        "history_weights": history_weights,
    }
    rates = check_arguments(algorithm, kappa, **settings)
    return float(worst_factors(algorithm, np.array([step_size]), rates, **settings)[0])


def largest_stable_step(algorithm: str, *, kappa: ArrayLike, **settings) -> float:
    r"""
    The step from which on [`contraction`] is no longer below 1: the first one, as steps grow.

    It is 0 where no step converges, infinite where every step does, and at most 1/τ for algorithms in which the
    reference has the weight ητ. COMAL and MPO also need steps to be large enough for their K.

    Takes the arguments of [`contraction`] but the step.
    """
    rates = check_arguments(algorithm, kappa, **settings)
    beta = settings.get("beta", 0.0)
    fastest = rates.max(initial=0.0)
    largest = 1 / beta if beta and weighted(algorithm) else np.inf
    if fastest == 0:
        return largest
    scanned = 4001
    if not has_reference(algorithm):
        rates, scanned = np.array([fastest]), 401  # there is no other unit than κ: the limit is one of ηκ

    def stable(steps: np.ndarray) -> np.ndarray:
        return worst_factors(algorithm, steps, rates, **settings) < 1

    unit = 1 / max(beta, fastest)
    steps = np.geomspace(1e-4 * unit, min(largest, 1e6 * unit), scanned)
    inside = stable(steps)
    if not inside.any():
        return 0.0
    first = int(inside.argmax())
    if inside[first:].all():
        return largest
    last = first + int(inside[first:].argmin())
    low, high = steps[last - 1], steps[last]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stable(np.array([middle]))[0] else (low, middle)
    return float(low)


def check_arguments(
    algorithm: str, kappa: ArrayLike, *, beta: float = 0.0, reference_rounds: int | None = None, **others
) -> np.ndarray:
    """Raises `ValueError` on settings that the algorithm has no factor for; returns the rates, shape (J,)."""
    if algorithm not in METHODS and algorithm not in TURNS:
        raise ValueError(f"There is no algorithm {algorithm!r}: there are {', '.join((*METHODS, *TURNS))}.")
    rates = np.atleast_1d(np.asarray(kappa, dtype=np.float64))
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(f"`kappa` must be made of numbers from 0, got {kappa}.")
    if algorithm in METHODS and takes(algorithm, "beta"):
        check_positive("beta", beta)
    if algorithm in MOVING and (reference_rounds is None or reference_rounds < 1):
        raise ValueError(f"`reference_rounds` of {algorithm} must be at least 1, got {reference_rounds}.")
    return rates


def worst_factors(
    algorithm: str,
    steps: np.ndarray,
    rates: np.ndarray,
    *,
    beta: float = 0.0,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
    anchor_history: int | None = None,
    history_weights: Sequence[float] = (0.5, 0.5),
) -> np.ndarray:
    """[`contraction`] of each step, shape (S,)."""
    turn = 1j * (rates if len(rates) else np.zeros(1))
    with np.errstate(over="ignore", invalid="ignore"):
        if algorithm in TURNS:
            return np.abs(1 + TURNS[algorithm] * steps[:, None] * turn).max(axis=1)
        settings = {"beta": beta, "anchor_history": anchor_history, "history_weights": history_weights}
        method = bound(algorithm, step_size=steps[:, None], **settings)
        if algorithm == "onpo" and anchor_history is None:  # two fits carry the whole history as one policy
            method = partial(onpo_two_fits, step_size=steps[:, None])
        names, maps = _round_map(method, turn, len(steps), ema_decay)
        if INITIAL in names:
            maps = _without_reference(names, maps, reference_rounds if algorithm in MOVING else None)
        return _spectral_radius(maps).max(axis=1)


def _round_map(method: Method, turn: np.ndarray, steps: int, ema_decay: float) -> tuple[list[Policy], np.ndarray]:
    """The policies that a round looks back to, and the map of their deviations, of shape (S, J, n, n)."""
    before = Past(LATE.round - 1)
    names = sorted({LATE.now} | needed(method, before, len(method(before)) - 1))
    size = len(names)
    deviations = dict(zip(names, np.eye(size)[:, :, None, None], strict=True))
    play_round(
        method,
        LATE,
        deviations,
        lambda opponent: lambda centre, step_size: centre + turn * step_size * opponent,
        ema_decay,
    )
    after = [policy._replace(round=policy.round + 1) if policy.round >= 0 else policy for policy in names]
    rows = [np.broadcast_to(deviations[policy], (size, steps, len(turn))) for policy in after]
    return names, np.moveaxis(np.array(rows), (0, 1), (2, 3))


def _without_reference(names: list[Policy], maps: np.ndarray, reference_rounds: int | None) -> np.ndarray:
    """The map of the other deviations: those of a reference are 0, or those of the policy K rounds ago."""
    reference, now = names.index(INITIAL), names.index(LATE.now)
    others = [index for index in range(len(names)) if index != reference]
    if reference_rounds is None:
        return maps[..., others, :][..., others]
    period = np.linalg.matrix_power(maps, reference_rounds)
    period[..., now] += period[..., reference]
    return period[..., others, :][..., others]


def _spectral_radius(maps: np.ndarray) -> np.ndarray:
    """The largest modulus of an eigenvalue; infinite where the map overflowed."""
    finite = np.isfinite(maps).all(axis=(-2, -1))
    maps = np.where(finite[..., None, None], maps, 0)
    eigenvalues = maps[..., 0] if maps.shape[-1] == 1 else np.linalg.eigvals(maps)
    radius = np.abs(eigenvalues).max(axis=-1)
    return np.where(finite, radius, np.inf)
