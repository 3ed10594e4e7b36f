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
    anchor_history: int | None = None,
) -> float:
    r"""
    The number that a round multiplies the distance from the equilibrium with, near it (COMAL and MPO: an outer loop).

    With ε = ηκ, ρ = ητ, c = 1/(1+ρ), d = `ema_decay` and K = `reference_rounds`, it is the modulus of

    | algorithm | factor |
    |---|---|
    | iterative-ipo, sppo | `1 + iε` |
    | iterative-dpo (η = 1/β of DPO) | `1 + 4iε` |
    | onpo | roots of `z² = (1 + 2iε) z - iε`; with H past policies of `z^H = (w_1 + 2iε) z^{H-1} + ... + w_H` |
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
        anchor_history (`int`, *optional*):
            H of ONPO, whose anchor has the weights w = ½, ¼ ... and the remainder on the oldest; all policies if left
            out.

    Returns:
        `float`: Below 1 it converges, above 1 it spirals out. Exactly 1 for algorithms without τ where κ = 0.
    """
    check_positive("step_size", step_size)
    rates = check_arguments(algorithm, kappa, beta, reference_rounds)
    rounds = anchor_history if algorithm == "onpo" else reference_rounds
    return float(worst_factor(algorithm, np.array([step_size]), rates, beta, rounds, ema_decay)[0])


def largest_stable_step(
    algorithm: str,
    *,
    kappa: ArrayLike,
    beta: float = 0.0,
    reference_rounds: int | None = None,
    ema_decay: float = 0.9,
    anchor_history: int | None = None,
) -> float:
    r"""
    The step from which on [`contraction`] is no longer below 1: the first one, as steps grow.

    It is 0 where no step converges, infinite where every step does, and at most 1/τ for algorithms in which the
    reference has the weight ητ. Closed forms: 0 for mirror descent and its like, `2τ/(τ²+κ²)` for INPO, `1/(√3 κ)` for
    ONPO (.65/κ, .60/κ and .57/κ if it remembers 3, 4 and 5 policies, 0 below that). COMAL and MPO also need steps
    to be large enough for their K.

    Takes the arguments of [`contraction`] but the step.
    """
    rates = check_arguments(algorithm, kappa, beta, reference_rounds)
    fastest = rates.max(initial=0.0)
    if fastest == 0:
        return 1 / beta if algorithm in WEIGHTED and beta else np.inf
    if algorithm in SPIRALS:
        return 0.0
    if algorithm == "onpo":
        return _largest_turn(anchor_history) / fastest
    if algorithm == "inpo":
        return min(2 * beta / (beta**2 + fastest**2), 1 / beta)

    def stable(steps: np.ndarray) -> np.ndarray:
        return worst_factor(algorithm, steps, rates, beta, reference_rounds, ema_decay) < 1

    unit = 1 / max(beta, fastest)
    steps = np.geomspace(1e-4 * unit, 1 / beta if algorithm in WEIGHTED else 1e6 * unit, 4001)
    inside = stable(steps)
    if not inside.any():
        return 0.0
    first = int(inside.argmax())
    if inside[first:].all():
        return 1 / beta if algorithm in WEIGHTED else np.inf
    last = first + int(inside[first:].argmin())
    low, high = steps[last - 1], steps[last]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if stable(np.array([middle]))[0] else (low, middle)
    return float(low)


def own_equilibrium(
    algorithm: str, game: MatrixGame, step_size: float, beta: float, reference: ArrayLike | None
) -> np.ndarray:
    """What the algorithm's deviations are deviations from."""
    if algorithm in SPIRALS or algorithm in MAGNETS or algorithm == "onpo":
        return nash_equilibrium(game)
    reference = np.full(len(game), 1 / len(game)) if reference is None else game.policy(reference)
    if algorithm == "nash-md":  # with a constant step the mixture settles, at a larger τ
        if step_size * beta >= 1 - 1e-12:
            return reference
        beta = beta / (1 - step_size * beta)
    return regularized_equilibrium(game, reference, beta).policy


def check_arguments(algorithm: str, kappa: ArrayLike, beta: float, reference_rounds: int | None) -> np.ndarray:
    """Raises `ValueError` on settings that the algorithm has no factor for; returns the rates, shape (J,)."""
    if algorithm not in _FACTORS:
        raise ValueError(f"There is no algorithm {algorithm!r}: there are {', '.join(_FACTORS)}.")
    rates = np.atleast_1d(np.asarray(kappa, dtype=np.float64))
    if not (np.isfinite(rates).all() and (rates >= 0).all()):
        raise ValueError(f"`kappa` must be made of numbers from 0, got {kappa}.")
    if algorithm not in SPIRALS and algorithm != "onpo":
        check_positive("beta", beta)
    if algorithm in MAGNETS and (reference_rounds is None or reference_rounds < 1):
        raise ValueError(f"`reference_rounds` of {algorithm} must be at least 1, got {reference_rounds}.")
    return rates


def worst_factor(
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


def _optimism(turn: np.ndarray, history: int | None) -> np.ndarray:
    """The roots of ONPO's recursion, stacked along a new first axis."""
    if history is None:
        return _roots(1 + 2 * turn, turn)
    weights = 0.5 ** np.arange(1, history + 1)
    weights[-1] *= 2  # the remainder
    polynomials = np.tile(np.concatenate([[1], -weights]).astype(complex), (turn.size, 1))
    polynomials[:, 1] -= 2 * turn.ravel()
    return np.stack([np.roots(row) for row in polynomials], axis=-1).reshape(history, *turn.shape)


def _largest_turn(history: int | None) -> float:
    """The largest ηκ of ONPO: `1/√3` with the whole history."""
    if history is None:
        return 1 / np.sqrt(3)
    low, high = 0.3, 1.0  # from 3 policies on it converges at .3, whatever the number, and spirals out at 1

    def stable(turn: float) -> bool:
        return bool(np.abs(_optimism(np.array([1j * turn]), history)).max() < 1)

    if not stable(low):
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if stable(middle) else (low, middle)
    return low


def _magnet(inner: np.ndarray, turn: np.ndarray, weight: np.ndarray, rounds: int) -> np.ndarray:
    """K rounds of `inner` from the reference, towards the equilibrium around it at `ρ/(ρ - iε)`."""
    power = inner**rounds
    return power + (1 - power) * weight / (weight - turn)


# Of iε, ρ, K (of ONPO the number of policies that it remembers) and d.
_FACTORS: dict[str, Callable[..., np.ndarray]] = {
    "iterative-ipo": lambda turn, weight, rounds, decay: 1 + turn,
    "iterative-dpo": lambda turn, weight, rounds, decay: 1 + 4 * turn,
    "sppo": lambda turn, weight, rounds, decay: 1 + turn,
    "inpo": lambda turn, weight, rounds, decay: 1 - weight + turn,
    "onpo": lambda turn, weight, rounds, decay: _optimism(turn, rounds),
    "comal": lambda turn, weight, rounds, decay: _magnet(1 - weight + turn, turn, weight, rounds),
    "nash-md": lambda turn, weight, rounds, decay: (1 - weight) * (1 + turn),
    "nash-ema": lambda turn, weight, rounds, decay: _roots(
        1 - weight + decay + (1 - decay) * turn, (1 - weight) * decay
    ),
    "egpo": lambda turn, weight, rounds, decay: (1 - weight) * (1 + turn) + turn**2,
    "nash-mp": lambda turn, weight, rounds, decay: (1 + turn * (1 + turn) / (1 + weight)) / (1 + weight),
    "mpo": lambda turn, weight, rounds, decay: _magnet((1 + turn) / (1 + weight), turn, weight, rounds),
}
SPIRALS = ("iterative-ipo", "iterative-dpo", "sppo")  # mirror descent and its like: out of every cycle at any step
MAGNETS = ("comal", "mpo")  # whose reference follows
WEIGHTED = ("inpo", "comal", "nash-md", "nash-ema", "egpo")  # whose reference has the weight ητ <= 1
