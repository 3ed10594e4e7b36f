# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Iterative DPO and SPPO: methods whose loss is another one than the regression on pairs, minimised exactly."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logsumexp, wrightomega

from ..history import History
from ..matrix import MatrixGame, check_positive
from .executor import Iterates, check_rounds, check_single_turn


NEWTON_STEPS = 1000  # about ten suffice, but a preference of 1 asks for long ways of .7 a step


@np.errstate(over="ignore", invalid="ignore")  # reported by `Iterates`
def iterative_dpo(game: MatrixGame, *, start: ArrayLike, rounds: int, step_size: float) -> History:
    r"""
    DPO around the latest policy ([2305.18290](https://huggingface.co/papers/2305.18290), its loss on the population):

    `π_{t+1} = argmin_π -E_{y,y'~π_t} P(y≻y') log σ( (log π(y)/π_t(y) - log π(y')/π_t(y')) / η )`.

    `step_size` η is the inverse of DPO's β. Since `σ(u) - ½ ≈ u/4`, near an equilibrium this is mirror descent with a
    step of 4η. It rotates outwards on a cycle.

    Raises:
        `ValueError`: Also if the loss has no minimum, as where an answer always beats all others.
    """
    check_single_turn("iterative DPO", game)
    check_rounds("rounds", rounds)
    check_positive("step_size", step_size)
    iterates = Iterates(game, start)
    for _ in range(rounds):
        log_ratio = step_size * _logistic_scores(game, np.exp(iterates.last), len(iterates))
        iterates.add(log_softmax(iterates.last + log_ratio), step_size)
    return iterates.history


def _logistic_scores(game: MatrixGame, policy: np.ndarray, number: int) -> np.ndarray:
    r"""The scores u whose `σ(u_i - u_j)` fit P best on pairs from the policy: Newton's method, the likeliest at 0."""
    scores = np.zeros(len(game))
    # One score is free. Fixing the likeliest answer's keeps the system well posed at probabilities near 0.
    rest = np.arange(len(game)) != policy.argmax()
    for _ in range(NEWTON_STEPS):
        fitted = expit(scores[:, None] - scores)
        # Gradient and Hessian row by row over π_t(y): a rare answer is fitted as well as a frequent one. As
        # 1 - σ(u) = σ(-u), neither needs a difference of numbers near 1.
        gradient = (fitted * game.preferences.T - fitted.T * game.preferences) @ policy
        hessian = -fitted * fitted.T * policy
        np.fill_diagonal(hessian, 0)  # else it would swamp a small sum
        np.fill_diagonal(hessian, -hessian.sum(axis=1))
        newton = np.zeros(len(game))
        newton[rest] = np.linalg.solve(hessian[np.ix_(rest, rest)], -gradient[rest])
        length = float(np.ptp(newton))
        # The step of this length decreases every logistic loss, from anywhere.
        scores += newton * (np.log1p(length) / length if length > 0 else 1.0)
        if length < 1e-13 * max(1.0, np.abs(scores).max()):
            return scores
    raise ValueError(f"Round {number} of DPO has no minimum: preferences of 0 or 1 ask for infinite log-ratios.")


@np.errstate(over="ignore", invalid="ignore")  # reported by `Iterates`
def sppo(game: MatrixGame, *, start: ArrayLike, rounds: int, step_size: float) -> History:
    r"""
    Self-play preference optimization ([2405.00675](https://huggingface.co/papers/2405.00675)):

    `π_{t+1} = argmin_π E_{y~π_t} ( log π(y)/π_t(y) - η (P(y ≻ π_t) - ½) )²`  over policies π.

    The paper takes the exponent of the target, normalised, for the minimiser, which is mirror descent. This is the
    minimiser itself. It rotates outwards on a cycle.
    """
    check_single_turn("SPPO", game)
    check_rounds("rounds", rounds)
    check_positive("step_size", step_size)
    iterates = Iterates(game, start)
    for _ in range(rounds):
        target = step_size * (game.advantage @ np.exp(iterates.last))
        iterates.add(log_softmax(iterates.last + _closest_log_ratio(iterates.last, target)), step_size)
    return iterates.history


def _closest_log_ratio(log_policy: np.ndarray, target: np.ndarray) -> np.ndarray:
    r"""
    The h that minimises `E_π (h - target)²` subject to `E_π exp(h) = 1`.

    It solves `h + λ exp(h) = target` for a multiplier λ, so that `h = target - W(λ exp(target))` with Lambert's W. As
    `E_π target = 0`, the target itself has `E_π exp(target) >= 1`, and 0 <= λ <= max target.
    """

    def log_ratio(log_multiplier: float) -> np.ndarray:
        return target - wrightomega(log_multiplier + target)

    def excess(log_multiplier: float) -> float:
        return logsumexp(log_policy + log_ratio(log_multiplier))

    surplus = excess(-np.inf)
    if not surplus >= 1e-15:  # already normalised, as at an equilibrium, or not a number
        return target
    highest = target.max()
    # W(x) <= x, so that at the lower end more than half of the surplus is left.
    low, high = np.log(surplus / 2) - highest, np.log(2 * highest)
    root, result = brentq(excess, low, high, xtol=1e-14, rtol=1e-15, full_output=True, disp=False)
    return log_ratio(root) if result.converged else np.full_like(target, np.nan)
