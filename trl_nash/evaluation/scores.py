# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What mean win rates say of policies: functions of a matrix of win rates, and of verdicts on a pair."""

import numpy as np
from numpy.typing import ArrayLike


ELO = 400 / np.log(10)  # points of a logit
_DIGITS = 5  # of win rates whose equilibrium is asked for: ties beyond them hide which policies it consists of
# Of the weight of lengths, scikit-learn's 1 / C: without one it is infinite where the longer answer always wins, and
# what is left at equal lengths is chance. AlpacaEval's cross-validation chooses a C of about 20.
_PENALTY = 0.05
_ROUNDS = 100  # of Newton's method, of which about 10 suffice


def equilibrium(rates: np.ndarray) -> np.ndarray:
    """The Nash policy of the highest entropy, of shape `(N,)`, of win rates of shape `(N, N)`."""
    beats_all = (rates.round(_DIGITS) > 0.5).sum(1) == len(rates) - 1
    if beats_all.any():  # then nothing else is an equilibrium, and no linear program is needed
        return beats_all.astype(np.float64)
    # SciPy's solvers take half a second, which `trl-nash arena --help` must not.
    from ..games.equilibria import nash_equilibrium
    from ..games.matrix import MatrixGame

    return nash_equilibrium(MatrixGame(rates.round(_DIGITS)))


def exploitability(rates: np.ndarray) -> np.ndarray:
    """`max_j P(j ≻ i) - ½` of each policy, of shape `(N,)`, of win rates of shape `(N, N)`."""
    return rates.max(0) - 0.5


def known_exploitability(rates: np.ndarray) -> np.ndarray:
    """The same by those that each policy was compared with: `nan` is no win rate."""
    return np.fmax.reduce(rates, 0) - 0.5


def unexplained(rates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """What scores of shape `(N,)` leave of win rates of shape `(N, N)`: `P_ij - σ(s_i - s_j)`."""
    return rates - sigmoid(scores[:, None] - scores)


def bradley_terry(rates: np.ndarray) -> np.ndarray:
    """
    The scores s of shape `(N,)`, with mean 0, that maximise `Σ_ij P_ij log σ(s_i - s_j)`, by Newton's method; infinite
    ones, of policies that always win or lose, are those of a win rate of 1e-6.
    """
    rates = rates.clip(1e-6, 1 - 1e-6)
    scores = np.zeros(len(rates))
    for _ in range(_ROUNDS):
        expected = sigmoid(scores[:, None] - scores)
        gradient = (rates - expected).sum(1)
        weight = expected * (1 - expected)
        hessian = np.diag(weight.sum(1)) - weight
        step = np.linalg.solve(hessian + weight.mean(), gradient)  # which adds up to 0, as the scores do
        scores = scores + step.clip(-1, 1)
        if np.abs(step).max() < 1e-12:
            break
    return scores - scores.mean()


def at_equal_lengths(p: np.ndarray, difference: np.ndarray) -> float:
    """
    The win rate at equal lengths by AlpacaEval's model.

    Args:
        p (`np.ndarray` of shape `(B,)`): verdicts on a pair of policies, `nan` where there is none.
        difference (`np.ndarray` of shape `(B,)`): of the lengths of their answers.
    """
    known = ~np.isnan(p) & ~np.isnan(difference)
    p, difference = p[known], difference[known]
    if not len(p):
        return np.nan
    deviation = difference.std(ddof=1) if len(p) > 1 else 0.0
    if not deviation:  # equal lengths, or all as different: nothing can be told apart
        return float(p.mean())
    features = np.stack([np.ones(len(p)), np.tanh(difference / deviation)], 1)
    weights, penalty = np.zeros(2), np.array([1e-9, _PENALTY])
    for _ in range(_ROUNDS):
        expected = sigmoid(features @ weights)
        hessian = (features * (expected * (1 - expected))[:, None]).T @ features + np.diag(penalty)
        step = np.linalg.solve(hessian, features.T @ (p - expected) - penalty * weights).clip(-1, 1)
        weights = weights + step
        if np.abs(step).max() < 1e-10:
            break
    return float(sigmoid(weights[0]))


def sigmoid(x: ArrayLike) -> np.ndarray:
    """1 / (1 + e^-x), without overflow."""
    return 0.5 + 0.5 * np.tanh(np.asarray(x) / 2)
