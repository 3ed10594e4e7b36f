# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
Which settings converge, near an equilibrium, and how fast.

In log space, a small deviation from the equilibrium is turned by `(P-½)(diag π - π πᵀ)`, whose eigenvalues are ±iκ_j:
win rates answer a deviation at a right angle. There, every algorithm multiplies the deviation by a number that depends
on ε = ηκ_j and ρ = ητ alone, and converges if it is less than 1 in modulus for every κ_j. (Deviations that nothing
turns, κ_j = 0, make no algorithm diverge: a reference damps them, without one they lead to other equilibria.)
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from .equilibria import nash_equilibrium, regularized_equilibrium
from .matrix import MatrixGame, check_positive


_NONE = 1e-9  # rates below are rounding


def rotation_rates(game: MatrixGame, policy: ArrayLike) -> np.ndarray:
    r"""
    The κ_j > 0, largest first: ±iκ_j are the eigenvalues of `(P-½)(diag π - π πᵀ)` that are not zero.

    There are at most N/2. An equilibrium of one answer has none.
    """
    policy = game.policy(policy)
    root = np.sqrt(policy)
    # diag π - π πᵀ = FᵀF, and F (P-½) Fᵀ is skew: its eigenvalues are exactly imaginary, those of a Hermitian matrix.
    factor = np.diag(root) - np.outer(root, policy)
    rates = np.linalg.eigvalsh(1j * (factor @ game.advantage @ factor.T))
    return rates[rates > _NONE][::-1]


def rotation_rate(game: MatrixGame, policy: ArrayLike) -> float:
    r"""`κ = max_j κ_j` of [`rotation_rates`], in radians a round and unit of step; 0 if nothing rotates."""
    return float(rotation_rates(game, policy).max(initial=0.0))


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
) -> float:
    r"""
    The number that a round multiplies the distance from the equilibrium with, near it (COMAL and MPO: an outer loop).

    With ε = ηκ, ρ = ητ, c = 1/(1+ρ), d = `ema_decay` and K = `reference_rounds`, it is the modulus of

    | algorithm | factor |
    |---|---|
    | iterative-ipo, sppo | `1 + iε` |
    | iterative-dpo (η = 1/β of DPO) | `1 + 4iε` |
    | onpo (the whole history) | roots of `z² = (1 + 2iε) z - iε` |
    | inpo | `1 - ρ + iε` |
    | nash-md (constant step) | `(1-ρ)(1 + iε)` |
    | nash-ema | roots of `z² = (1 - ρ + d + (1-d) iε) z - (1-ρ) d` |
    | egpo | `(1-ρ)(1 + iε) - ε²` |
    | nash-mp | `c (1 + iεc (1 + iε))` |
    | comal, mpo | `z^K + (1 - z^K) ρ/(ρ - iε)` with `z = 1 - ρ + iε`, `z = c (1 + iε)` |

    Args:
        algorithm (`str`): a key of `SOLVERS`.
        step_size (`float`): η > 0.
        kappa (`float` or `ArrayLike`):
            κ, or all [`rotation_rates`], at the equilibrium that the algorithm converges to; for nash-md, at the
            mixture, the equilibrium regularised with `τ/(1-ρ)`. The worst of several decides. Fast rotations are the
            first to spiral out, but slow ones heal slowest in all but INPO, Nash-MD and mirror descent.
        beta (`float`, *optional*, defaults to `0.0`): τ, where the algorithm has one.
        reference_rounds (`int`, *optional*): K of COMAL and MPO.
        ema_decay (`float`, *optional*, defaults to `0.9`): d of Nash-EMA.

    Returns:
        `float`: Below 1 it converges, above 1 it spirals out. Exactly 1 for algorithms without τ where κ = 0.
    """
    check_positive("step_size", step_size)
    rates = _check(algorithm, kappa, beta, reference_rounds)
    return float(_worst(algorithm, np.array([step_size]), rates, beta, reference_rounds, ema_decay)[0])


def largest_stable_step(
    algorithm: str,
    *,
    kappa: ArrayLike,
    beta: float = 0.0,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
) -> float:
    r"""
    The step from which on [`contraction`] is no longer below 1: the first one, as steps grow.

    It is 0 where no step converges, infinite where every step does, and at most 1/τ for algorithms in which the
    reference has the weight ητ. Closed forms: 0 for mirror descent and its like, `1/(√3 κ)` for ONPO,
    `2τ/(τ²+κ²)` for INPO. COMAL and MPO also need steps to be large enough for their K.

    Takes the arguments of [`contraction`] but the step.
    """
    rates = _check(algorithm, kappa, beta, reference_rounds)
    fastest = rates.max(initial=0.0)
    if fastest == 0:
        return 1 / beta if algorithm in _WEIGHTED and beta else np.inf
    if algorithm in _SPIRALS:
        return 0.0
    if algorithm == "onpo":
        return 1 / (np.sqrt(3) * fastest)
    if algorithm == "inpo":
        return min(2 * beta / (beta**2 + fastest**2), 1 / beta)

    def stable(steps: np.ndarray) -> np.ndarray:
        return _worst(algorithm, steps, rates, beta, reference_rounds, ema_decay) < 1

    unit = 1 / max(beta, fastest)
    steps = np.geomspace(1e-4 * unit, 1 / beta if algorithm in _WEIGHTED else 1e6 * unit, 4001)
    inside = stable(steps)
    if not inside.any():
        return 0.0
    first = int(inside.argmax())
    if inside[first:].all():
        return 1 / beta if algorithm in _WEIGHTED else np.inf
    last = first + int(inside[first:].argmin())
    low, high = steps[last - 1], steps[last]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stable(np.array([middle]))[0] else (low, middle)
    return float(low)


def check_stability(
    algorithm: str,
    game: MatrixGame,
    *,
    step_size: float,
    beta: float = 0.0,
    reference: ArrayLike | None = None,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
    anchor_history: int | None = None,
) -> list[str]:
    """
    What is wrong with a setting on a game: a sentence for every limit that it passes, none if it converges.

    Args:
        reference (`ArrayLike` of shape `(N,)`, *optional*): of the regularised game; uniform if left out.
        anchor_history (`int`, *optional*):
            Of ONPO. From 3 on its largest ηκ is that of the whole history or a little more (3: .65, 4: .60, 5: .57).

    The other arguments are those of [`contraction`].
    """
    check_positive("step_size", step_size)
    _check(algorithm, 0.0, beta, reference_rounds)
    rho = step_size * beta
    if algorithm in _WEIGHTED and rho > 1 + 1e-12:
        return [
            f"`step_size` * `beta` = {rho:.3g} must be at most 1, it is the weight of the reference: lower "
            f"`step_size` to {1 / beta:.3g}."
        ]
    rates = rotation_rates(game, _equilibrium(algorithm, game, step_size, beta, reference))
    if not len(rates):
        return []
    fastest = rates[0]
    if algorithm == "onpo" and anchor_history is not None and anchor_history < 3:
        return [
            f"`anchor_history` {anchor_history} converges at no `step_size`: use at least 3 (from 5 on it is "
            "nearly as good as the whole history)."
        ]
    limits = {"beta": beta, "reference_rounds": reference_rounds, "ema_decay": ema_decay}
    factor = contraction(algorithm, step_size=step_size, kappa=rates, **limits)
    if factor < 1:
        return []
    if algorithm in _SPIRALS:
        return [
            f"No `step_size` converges: with {step_size:g} the policies spiral out of this game's cycle (rotation "
            f"rate {fastest:.3g}), by a factor of {factor:.3g} a round."
        ]
    if algorithm in _MAGNETS:
        return _check_magnet(algorithm, step_size, rates, beta, reference_rounds)
    largest = largest_stable_step(algorithm, kappa=rates, **limits)
    return [
        f"`step_size` {step_size:g} is past the largest that converges on this game, {largest:.3g} (rotation rate "
        f"{fastest:.3g}): the policies spiral out, by a factor of {factor:.3g} a round."
    ]


def _check_magnet(algorithm: str, step_size: float, rates: np.ndarray, beta: float, rounds: int) -> list[str]:
    """Why COMAL or MPO does not converge: too few rounds for slow rotations, too large a step for fast ones."""
    rho, messages = step_size * beta, []
    slow = np.array([1e-3 / step_size])  # the limit of slow rotations, where the smallest K is defined
    needed = rounds
    while _worst(algorithm, np.array([step_size]), slow, beta, needed, 0.0)[0] >= 1:
        needed += 1
    if needed > rounds:
        messages.append(
            f"`reference_rounds` {rounds} is below {needed}, the smallest that converges for `step_size` * `beta` = "
            f"{rho:.3g} (better {max(needed, int(np.ceil(2 / rho)))})."
        )
    largest = largest_stable_step(algorithm, kappa=rates, beta=beta, reference_rounds=max(needed, rounds))
    if step_size >= largest:
        messages.append(
            f"`step_size` {step_size:g} is past the largest that converges on this game with `reference_rounds` "
            f"{max(needed, rounds)}, {largest:.3g} (rotation rate {rates[0]:.3g})."
        )
    return messages


def _equilibrium(
    algorithm: str, game: MatrixGame, step_size: float, beta: float, reference: ArrayLike | None
) -> np.ndarray:
    """What the algorithm's deviations are deviations from."""
    if algorithm in _SPIRALS or algorithm in _MAGNETS or algorithm == "onpo":
        return nash_equilibrium(game)
    reference = np.full(len(game), 1 / len(game)) if reference is None else game.policy(reference)
    if algorithm == "nash-md":  # with a constant step the mixture settles, at a larger τ
        if step_size * beta >= 1 - 1e-12:
            return reference
        beta = beta / (1 - step_size * beta)
    return regularized_equilibrium(game, reference, beta).policy


def _check(algorithm: str, kappa: ArrayLike, beta: float, reference_rounds: int | None) -> np.ndarray:
    """Raises `ValueError` on settings that the algorithm has no factor for; returns the rates, shape (J,)."""
    if algorithm not in _FACTORS:
        raise ValueError(f"There is no algorithm {algorithm!r}: there are {', '.join(_FACTORS)}.")
    rates = np.atleast_1d(np.asarray(kappa, dtype=np.float64))
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(f"`kappa` must be made of numbers from 0, got {kappa}.")
    if algorithm not in _SPIRALS and algorithm != "onpo":
        check_positive("beta", beta)
    if algorithm in _MAGNETS and (reference_rounds is None or reference_rounds < 1):
        raise ValueError(f"`reference_rounds` of {algorithm} must be at least 1, got {reference_rounds}.")
    return rates


def _worst(
    algorithm: str, steps: np.ndarray, rates: np.ndarray, beta: float, rounds: int | None, decay: float
) -> np.ndarray:
    """The largest modulus over the rates for each step, shape (S,)."""
    turn = 1j * steps[:, None] * (rates if len(rates) else np.zeros(1))  # iε
    weight = steps[:, None] * beta + 0 * turn.real  # ρ
    with np.errstate(over="ignore", invalid="ignore"):
        factors = np.abs(_FACTORS[algorithm](turn, weight, rounds, decay))
    return np.nan_to_num(factors, nan=np.inf).max(axis=tuple(i for i in range(factors.ndim) if i != factors.ndim - 2))


def _roots(linear: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Both roots of `z² = linear z - constant`, stacked along a new first axis."""
    width = np.sqrt(linear**2 - 4 * constant + 0j)
    return np.stack([linear + width, linear - width]) / 2


def _magnet(inner: np.ndarray, turn: np.ndarray, weight: np.ndarray, rounds: int) -> np.ndarray:
    """K rounds of `inner` from the reference, towards the equilibrium around it at `ρ/(ρ - iε)`."""
    power = inner**rounds
    return power + (1 - power) * weight / (weight - turn)


# Of iε, ρ, K and d.
_FACTORS: dict[str, Callable[..., np.ndarray]] = {
    "iterative-ipo": lambda turn, weight, rounds, decay: 1 + turn,
    "iterative-dpo": lambda turn, weight, rounds, decay: 1 + 4 * turn,
    "sppo": lambda turn, weight, rounds, decay: 1 + turn,
    "inpo": lambda turn, weight, rounds, decay: 1 - weight + turn,
    "onpo": lambda turn, weight, rounds, decay: _roots(1 + 2 * turn, turn),
    "comal": lambda turn, weight, rounds, decay: _magnet(1 - weight + turn, turn, weight, rounds),
    "nash-md": lambda turn, weight, rounds, decay: (1 - weight) * (1 + turn),
    "nash-ema": lambda turn, weight, rounds, decay: _roots(
        1 - weight + decay + (1 - decay) * turn, (1 - weight) * decay
    ),
    "egpo": lambda turn, weight, rounds, decay: (1 - weight) * (1 + turn) + turn**2,
    "nash-mp": lambda turn, weight, rounds, decay: (1 + turn * (1 + turn) / (1 + weight)) / (1 + weight),
    "mpo": lambda turn, weight, rounds, decay: _magnet((1 + turn) / (1 + weight), turn, weight, rounds),
}
_SPIRALS = ("iterative-ipo", "iterative-dpo", "sppo")  # mirror descent and its like: out of every cycle at any step
_MAGNETS = ("comal", "mpo")  # whose reference follows
_WEIGHTED = ("inpo", "comal", "nash-md", "nash-ema", "egpo")  # whose reference has the weight ητ <= 1
