# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Preference games with finitely many answers: `P[i, j]` is the probability that answer i is preferred to answer j.

A policy π is a distribution over the N answers. Its opponent plays the same game, so that `P(π ≻ π) = ½` and a Nash
policy is one that no answer beats: `P(y ≻ π*) <= ½` for every y.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import kl_div, log_softmax, logsumexp, rel_entr, softmax

from ..algorithms.checks import check_positive


TOLERANCE = 1e-6  # how far rounded input may be from adding up to one


class MatrixGame:
    r"""
    A symmetric constant-sum game of preferences.

    Args:
        preferences (`ArrayLike` of shape `(N, N)`):
            `P(i ≻ j)`, rows beat columns: `P + Pᵀ = 1`, so that the diagonal is ½.
        actions (`Sequence[str]`, *optional*):
            Names of the N answers, "a", "b", "c" ... if left out.

    Attributes:
        preferences (`np.ndarray`): float64 of shape (N, N), read-only; `P + Pᵀ = 1` to the last bit.
        actions (`tuple[str, ...]`): N names.

    Raises:
        `ValueError`: If the matrix is not square, has fewer than two answers, holds anything but probabilities, or is
        inconsistent.

    Example:

    ```python
    >>> game = MatrixGame([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
    >>> round(game.duality_gap([0.2, 0.5, 0.3]), 3)  # "c" beats this policy 64 % of the time
    0.28
    ```
    """

    def __init__(self, preferences: ArrayLike, actions: Sequence[str] | None = None):
        try:
            matrix = _as_floats(preferences)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"A game is a square matrix of numbers P(row ≻ column): {error}.") from None
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"A game is a square matrix P(row ≻ column), got shape {matrix.shape}.")
        if len(matrix) < 2:
            raise ValueError("A game needs at least two answers: with one there is nothing to prefer.")
        if not np.isfinite(matrix).all():
            row, column = np.argwhere(~np.isfinite(matrix))[0]
            raise ValueError(f"P[{row}, {column}] is {matrix[row, column]}: every preference must be a number.")
        if matrix.min() < 0 or matrix.max() > 1:
            row, column = np.argwhere((matrix < 0) | (matrix > 1))[0]
            raise ValueError(f"P[{row}, {column}] = {matrix[row, column]:g} is no probability from 0 to 1.")
        total = matrix + matrix.T
        if np.abs(total - 1).max() > TOLERANCE:
            row, column = np.unravel_index(np.abs(total - 1).argmax(), matrix.shape)
            raise ValueError(
                f"P[{row}, {row}] = {matrix[row, row]:g} must be 0.5: an answer ties with itself."
                if row == column
                else f"P[{row}, {column}] + P[{column}, {row}] = {total[row, column]:g} must be 1: either the one "
                "answer is preferred or the other."
            )
        try:
            names = tuple(actions) if actions is not None else default_names(len(matrix))
        except TypeError:
            names = ()
        if len(names) != len(matrix) or {str} != set(map(type, names)) or len(set(names)) != len(names):
            raise ValueError(f"`actions` must name the {len(matrix)} answers, each once; got {actions!r}.")
        # P - ½ is kept too: near an equilibrium win rates differ from ½ by less than P can say.
        self.advantage = (matrix - matrix.T) / 2
        self.preferences = self.advantage + 0.5
        self.actions = names
        for array in (self.advantage, self.preferences):
            array.flags.writeable = False

    def __len__(self) -> int:
        return len(self.preferences)

    def __repr__(self) -> str:
        return f"MatrixGame({self.preferences.round(10).tolist()}, actions={list(self.actions)})"

    def policy(self, probabilities: ArrayLike) -> np.ndarray:
        """
        Checks that `probabilities` is a distribution over the N answers and returns it, normalised, as float64.

        Raises:
            `ValueError`: If it is none.
        """
        try:
            policy = _as_floats(probabilities)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"A policy is a list of {len(self)} probabilities: {error}.") from None
        if policy.shape != (len(self),):
            raise ValueError(f"A policy of this game has {len(self)} probabilities, got shape {policy.shape}.")
        if not np.isfinite(policy).all() or policy.min() < 0 or abs(policy.sum() - 1) > TOLERANCE:
            raise ValueError(f"A policy is made of probabilities that add up to 1, got {policy.tolist()}.")
        return policy / policy.sum()

    @property
    def whole(self) -> "MatrixGame":
        """The game of whole answers, itself: those of a [`DialogueGame`] are put together from several turns."""
        return self

    @property
    def uniform(self) -> np.ndarray:
        """The policy that gives all answers alike, shape `(N,)`."""
        return np.full(len(self), 1 / len(self))

    def distribution(self, policy: np.ndarray) -> np.ndarray:
        """The probabilities of whole answers, shape `(N,)`: the policy itself."""
        return policy

    def normalized(self, logits: np.ndarray) -> np.ndarray:
        """Log-probabilities of shape `(N,)`."""
        return log_softmax(logits)

    def gains(self, policy: np.ndarray) -> np.ndarray:
        r"""`P(y ≻ π) - ½` of each answer, shape `(N,)`, of a policy that is not checked."""
        return self.advantage @ policy

    def tilted(self, log_centre: np.ndarray, gains: np.ndarray) -> np.ndarray:
        """The log-probabilities of `π(y) ∝ exp(centre(y) + gain(y))`, shape `(N,)`."""
        return log_softmax(log_centre + gains)

    def fitted(self, log_centre: np.ndarray, step_size: float, weights: np.ndarray, wins: np.ndarray) -> np.ndarray:
        """The policy that minimises `½ hᵀ L h - η hᵀ w`, h its log-ratios to the centre: [`SampledPairs`]."""
        # Of many minimisers the smallest: an answer that is in no pair keeps its centre.
        return self.tilted(log_centre, step_size * (np.linalg.pinv(weights, hermitian=True) @ wins))

    def win_rates(self, policy: ArrayLike) -> np.ndarray:
        r"""`P(y ≻ π) = E_{y'~π} P(y ≻ y')` of each answer y, shape `(N,)`."""
        return 0.5 + self.advantage @ self.policy(policy)

    def win_rate(self, first: ArrayLike, second: ArrayLike) -> float:
        r"""`P(π₁ ≻ π₂)`."""
        return float(self.policy(first) @ self.win_rates(second))

    def best_response(self, policy: ArrayLike) -> np.ndarray:
        r"""The policy, of shape `(N,)`, that always gives the answer of highest win rate against π (the first)."""
        return np.eye(len(self))[(self.advantage @ self.policy(policy)).argmax()]

    def duality_gap(self, policy: ArrayLike) -> float:
        r"""`gap(π) = 2 (max_y P(y ≻ π) - ½)`, in [0, 1]: zero exactly at a Nash policy."""
        return float(2 * (self.advantage @ self.policy(policy)).max())

    def duality_gaps(self, policies: np.ndarray) -> np.ndarray:
        """[`~MatrixGame.duality_gap`] of each row, shape `(T,)`."""
        return 2 * (policies @ self.advantage.T).max(axis=1)

    def averages(self, policies: np.ndarray) -> np.ndarray:
        """The mean of each row and those before it, shape `(T, N)`."""
        return policies.cumsum(axis=0) / np.arange(1, len(policies) + 1)[:, None]

    def kl_divergences(self, target: ArrayLike, policies: np.ndarray) -> np.ndarray:
        """`KL(target‖π)` in nats for each row π, shape `(T,)`."""
        # In contrast to `rel_entr`, no term is negative: rounding keeps a divergence of 0 at 0.
        return kl_div(self.policy(target), policies).sum(axis=1)

    def tangent(self, policy: np.ndarray) -> np.ndarray:
        r"""F of shape `(N, N)` with `FᵀF = diag π - π πᵀ`: log-ratios of mean 0 that policies near π have to it."""
        root = np.sqrt(policy)
        return np.diag(root) - np.outer(root, policy)

    def regularized_best_response(self, policy: ArrayLike, reference: ArrayLike, beta: float) -> np.ndarray:
        r"""
        `ref · exp(P(· ≻ π)/τ)`, normalised: the best response when straying from the reference costs `τ KL(·‖ref)`.

        Args:
            policy (`ArrayLike` of shape `(N,)`): π, the opponent.
            reference (`ArrayLike` of shape `(N,)`): ref.
            beta (`float`): τ > 0.
        """
        check_positive("beta", beta)
        with np.errstate(divide="ignore"):
            logits = np.log(self.policy(reference)) + self.advantage @ self.policy(policy) / beta
        return softmax(logits)

    def regularized_duality_gap(self, policy: ArrayLike, reference: ArrayLike, beta: float) -> float:
        r"""
        `gap_τ(π) = 2 [τ log E_ref exp(P(y ≻ π)/τ) - ½ + τ KL(π‖ref)]`: zero exactly at the regularised equilibrium.

        Takes the arguments of [`~MatrixGame.regularized_best_response`].
        """
        check_positive("beta", beta)
        policy, reference = self.policy(policy), self.policy(reference)
        gain = beta * logsumexp(self.advantage @ policy / beta, b=reference)
        return float(2 * (gain + beta * kl_divergence(policy, reference)))


def kl_divergence(first: ArrayLike, second: ArrayLike) -> float:
    """`KL(first‖second)` in nats; infinite where `second` never gives an answer that `first` gives."""
    return float(rel_entr(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)).sum())


def _as_floats(values: ArrayLike) -> np.ndarray:
    """A copy as float64. Of complex numbers NumPy would drop a part."""
    values = np.asarray(values)
    if np.iscomplexobj(values):
        raise TypeError("they are complex")
    return np.array(values, dtype=np.float64)


def default_names(count: int) -> tuple[str, ...]:
    """`a`, `b`, `c` ... for up to 26 answers, else `a1`, `a2` ..."""
    return tuple("abcdefghijklmnopqrstuvwxyz"[:count]) if count <= 26 else tuple(f"a{i + 1}" for i in range(count))
