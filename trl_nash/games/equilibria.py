# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Equilibria of preference games to machine precision: the truth that algorithms and models are compared with.

The value of every game is ½, so that a Nash policy is a distribution p with `A p <= 0`, where `A = P - ½` is skew.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import null_space
from scipy.optimize import linprog, minimize, root
from scipy.special import log_softmax, logsumexp, softmax

from .dialogues.equilibria import regularized_dialogue_equilibrium, sequence_form_equilibrium
from .dialogues.game import DialogueGame, Game
from .matrix import MatrixGame, check_positive


# `mixture(policy, reference, mixture_coef)` is a policy, all of shape (N,).
Mixture = Callable[[np.ndarray, np.ndarray, float], np.ndarray]

_ROUNDS = 500  # of Newton's method, of which about 10 suffice


class RegularizedEquilibrium(NamedTuple):
    """
    What [`regularized_equilibrium`] finds.

    Attributes:
        policy (`np.ndarray` of shape `(N,)`): π_τ*.
        residual (`float`): `max_y |log π(y) - log BR(π)(y)|` in nats, over the answers that the reference gives.
    """

    policy: np.ndarray
    residual: float


def nash_equilibrium(game: Game) -> np.ndarray:
    r"""
    The Nash policy p with the highest entropy, of shape `(N,)`; most games have but one.

    A linear program finds a strictly complementary solution: every answer is either given or loses against it
    (Goldman and Tucker, 1956). So all Nash policies live on its support S, and solve `A_SS p = 0`, by which p is then
    determined to machine precision. Of a game of dialogues it is [`sequence_form_equilibrium`], of shape `(S,)`.

    Raises:
        `ValueError`: If ties up to less than about 1e-6 hide the support.
    """
    if isinstance(game, DialogueGame):
        return sequence_form_equilibrium(game)
    scale = np.abs(game.advantage).max()
    if scale == 0:
        return np.full(len(game), 1 / len(game))
    for tolerance in (1e-10, 1e-9, 1e-7):  # the solver gives up on some games if it is to be too precise
        support = _largest_support(game.advantage / scale, tolerance)
        if support is not None:
            policy = _on_support(game.advantage / scale, support)
            if policy.min() >= 0 and game.duality_gap(policy) <= 1e-12:
                return policy
    raise ValueError(
        "The equilibrium hangs on differences between preferences that are too small to resolve: round `preferences` "
        "to 5 digits."
    )


def _largest_support(advantage: np.ndarray, tolerance: float) -> np.ndarray | None:
    """Which answers some Nash policy gives, bool of shape (N,): those that lose by nothing against a p that tells."""
    size = len(advantage)
    column = np.ones((size, 1))
    # Variables p and ε: maximise ε subject to A p <= 0 and p - A p >= ε.
    result = linprog(
        -np.eye(size + 1)[size],
        A_ub=np.block([[advantage, 0 * column], [advantage - np.eye(size), column]]),
        b_ub=np.zeros(2 * size),
        A_eq=np.append(np.ones(size), 0.0)[None],
        b_eq=[1.0],
        bounds=(0, None),
        method="highs",
        options={"primal_feasibility_tolerance": tolerance, "dual_feasibility_tolerance": tolerance},
    )
    if result.x is None:
        return None
    policy = result.x[:size]
    return policy > -advantage @ policy


def _on_support(advantage: np.ndarray, support: np.ndarray) -> np.ndarray:
    """The Nash policy of highest entropy on its support, shape (N,)."""
    inner, outer = advantage[np.ix_(support, support)], advantage[np.ix_(~support, support)]
    kernel = null_space(inner, rcond=1e-11)
    policy = np.zeros(len(advantage))
    if kernel.shape[1] == 1:
        policy[support] = kernel[:, 0] / kernel[:, 0].sum()
    elif kernel.shape[1] > 1:
        policy[support] = _maximum_entropy(kernel, outer)
    else:  # no policy at all: the support is wrong
        policy[support] = 1 / support.sum()
    return policy


def _maximum_entropy(kernel: np.ndarray, outer: np.ndarray) -> np.ndarray:
    r"""
    The p in the span of `kernel` with the highest entropy subject to `outer p <= 0`.

    It is `p ∝ exp(-Rᵀλ)`, with a multiplier for each row of R, the constraints, and λ minimises `log Σ exp(-Rᵀλ)`.
    """
    equalities = null_space(kernel.T).T  # rows that are orthogonal to the span
    rows = np.concatenate([equalities, outer])

    def dual(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        logits = -multipliers @ rows
        return logsumexp(logits), -rows @ softmax(logits)

    bounds = [(None, None)] * len(equalities) + [(0, None)] * len(outer)
    options = {"maxiter": 10_000, "maxfun": 100_000, "ftol": 0, "gtol": 1e-12}
    multipliers = minimize(dual, np.zeros(len(rows)), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    binding = np.arange(len(rows)) < len(equalities)
    binding |= multipliers > 1e-6
    rows, multipliers = rows[binding], multipliers[binding]
    for _ in range(20):  # Newton's method: from 1e-8, where the values of `dual` no longer change, to 1e-16
        policy = softmax(-multipliers @ rows)
        weighted = rows * policy
        hessian = weighted @ rows.T - np.outer(rows @ policy, rows @ policy)
        multipliers = multipliers + np.linalg.lstsq(hessian, rows @ policy)[0]
    return softmax(-multipliers @ rows)


def regularized_equilibrium(game: Game, reference: ArrayLike, beta: float) -> RegularizedEquilibrium:
    r"""
    The equilibrium of the game in which straying from the reference costs `τ KL(·‖ref)`:

    `π_τ* ∝ ref · exp(P(· ≻ π_τ*)/τ)`.

    Solves `u = A softmax(log ref + u) / τ` by Newton's method, for a τ that is halved down to the one asked for. The
    derivative of the difference has the eigenvalues `1 ± iκ/τ` whatever u is, so that a short step makes it smaller.

    Args:
        reference (`ArrayLike` of shape `(N,)`): ref. Answers that it never gives stay at 0.
        beta (`float`): τ > 0; 1e-3 is no problem, 1e-5 may be.

    Raises:
        `ValueError`: If `reference` is no policy, `beta` is not positive, or the residual stays above 1e-10 / τ.
    """
    check_positive("beta", beta)
    if isinstance(game, DialogueGame):
        return RegularizedEquilibrium(*regularized_dialogue_equilibrium(game, reference, beta))
    reference = game.policy(reference)
    given = reference > 0
    advantage = game.advantage[np.ix_(given, given)] / beta
    log_reference = np.log(reference[given])
    # From a τ at which the reference is nearly the answer: each equilibrium is the start for the next.
    policy = reference[given]
    for ease in 2.0 ** np.arange(max(0, int(np.ceil(np.log2(1 / beta)))), -1, -1):
        gain = _newton(advantage / ease, log_reference, policy)
        policy = softmax(log_reference + gain)
    log_policy = log_softmax(log_reference + gain)
    response = log_softmax(log_reference + advantage @ np.exp(log_policy))
    residual = float(np.abs(log_policy - response).max())
    if residual > 1e-10 * max(1, 1 / beta):
        raise ValueError(
            f"The equilibrium for `beta` {beta:g} was not found (residual {residual:.1g} nats): make `beta` larger."
        )
    policy = np.zeros(len(game))
    policy[given] = np.exp(log_policy)
    return RegularizedEquilibrium(policy, residual)


def _newton(advantage: np.ndarray, log_reference: np.ndarray, policy: np.ndarray) -> np.ndarray:
    """The u for which `u = advantage softmax(log_reference + u)`, found from a policy close to the solution's."""

    def difference(gain: np.ndarray) -> np.ndarray:
        return gain - advantage @ softmax(log_reference + gain)

    gain = advantage @ policy
    error = difference(gain)
    for _ in range(_ROUNDS):
        policy = softmax(log_reference + gain)
        jacobian = np.eye(len(gain)) - advantage * policy + np.outer(advantage @ policy, policy)
        step = np.linalg.solve(jacobian, -error)
        length = 1.0
        while length > 1e-6 and not np.linalg.norm(difference(gain + length * step)) < np.linalg.norm(error):
            length /= 2
        if length <= 1e-6:  # as small as rounding lets it be
            break
        gain = gain + length * step
        error = difference(gain)
    return gain


def geometric_mixture(policy: ArrayLike, reference: ArrayLike, mixture_coef: float) -> np.ndarray:
    r"""`π^{1-c} μ^c`, normalised, of shape `(N,)`: c = 0 is the policy, c = 1 the reference."""
    policy, reference = np.asarray(policy, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    mixture = policy ** (1 - mixture_coef) * reference**mixture_coef
    return mixture / mixture.sum()


def nash_md_fixed_point(
    game: MatrixGame,
    reference: ArrayLike,
    beta: float,
    mixture_coef: float,
    mixture: Mixture = geometric_mixture,
) -> np.ndarray:
    r"""
    Where Nash-MD's policy gradient ([2312.00886](https://huggingface.co/papers/2312.00886)) comes to rest:

    `π ∝ μ exp(P(· ≻ mix)/τ)`    with    `mix = mixture(π, μ, c)`.

    With the geometric mixture, `mix = π^{1-c} μ^c` is the regularised equilibrium for `τ/(1-c)`. The tabular algorithm
    with a constant step is this with `c = ητ`.

    Args:
        reference (`ArrayLike` of shape `(N,)`): μ.
        beta (`float`): τ > 0.
        mixture_coef (`float`): c in [0, 1].
        mixture (`Mixture`, *optional*): for answers of several tokens, their mixture token by token.

    Returns:
        `np.ndarray` of shape `(N,)`: π, not the mixture.

    Raises:
        `ValueError`: On a setting out of its range, or if there is no such policy close to the geometric mixture's.
    """
    check_positive("beta", beta)
    if not 0 <= mixture_coef <= 1:
        raise ValueError(f"`mixture_coef` must be between 0 and 1, got {mixture_coef}.")
    reference = game.policy(reference)
    mixed = reference
    if mixture_coef < 1:
        mixed = regularized_equilibrium(game, reference, beta / (1 - mixture_coef)).policy
    policy = game.regularized_best_response(mixed, reference, beta)
    if mixture is geometric_mixture:
        return policy
    given = reference > 0
    log_reference = np.log(reference[given])

    def policy_of(gain: np.ndarray) -> np.ndarray:
        policy = np.zeros(len(game))
        policy[given] = softmax(log_reference + gain)
        return policy

    def difference(gain: np.ndarray) -> np.ndarray:
        opponent = mixture(policy_of(gain), reference, mixture_coef)
        return gain - (game.advantage @ opponent)[given] / beta

    result = root(difference, (game.advantage @ mixed)[given] / beta, tol=1e-13)
    residual = np.abs(difference(result.x)).max()
    if not residual <= 1e-10 * max(1, 1 / beta):
        raise ValueError(
            f"Nash-MD's fixed point for `beta` {beta:g} was not found (residual {residual:.1g} nats): make it larger."
        )
    return policy_of(result.x)
