# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Preference games whose answers are dialogues.

Two players hold a dialogue each, with a user of their own, and a judge compares the two when both are over. Neither
sees the other's dialogue, and the two users throw their own dice: both dialogues are independent rollouts from the
root.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import orth
from scipy.special import kl_div

from ..matrix import MatrixGame, check_positive
from .regression import regression
from .tree import DialogueTree


class DialogueGame(DialogueTree):
    r"""
    A symmetric constant-sum game of dialogues.

    Args:
        preferences (`ArrayLike` of shape `(Z, Z)`):
            `P(z ≻ z')` of whole dialogues, `P + Pᵀ = 1`. They may be cyclic.
        answers, replies, user: what may be said, see [`DialogueTree`].

    Attributes:
        whole ([`MatrixGame`]):
            The game of the Z dialogues as if each were one answer. It is the same game if the user is deterministic;
            if not, it is that of a player who may choose the user's replies, too.
        advantage, preferences (`np.ndarray` of shape `(Z, Z)`): those of `whole`.

    Raises:
        `ValueError`: If the sizes do not fit together, or these are no probabilities.

    Example:

    ```python
    >>> game = DialogueGame(
    ...     [[0.5, 0.9, 0.1, 0.6], [0.1, 0.5, 0.9, 0.6], [0.9, 0.1, 0.5, 0.6], [0.4, 0.4, 0.4, 0.5]],
    ...     answers=[["yes", "no"], ["why", "bye"]],
    ... )
    >>> game.actions
    ('yes', 'no', 'yes more why', 'yes more bye', 'no more why', 'no more bye')
    >>> policy = [2 / 3, 1 / 3, 0.5, 0.5, 1, 0]
    >>> round(game.duality_gap(policy), 3)
    0.0
    ```
    """

    def __init__(
        self,
        preferences: ArrayLike,
        answers: Sequence[Sequence[str]],
        replies: Sequence[Sequence[str]] | None = None,
        user: Sequence[ArrayLike] | None = None,
    ):
        super().__init__(answers, replies, user)
        count = len(self.dialogues)
        if np.shape(preferences) != (count, count):
            raise ValueError(
                f"`preferences` must be of shape {(count, count)}, as there are {count} dialogues; got "
                f"{np.shape(preferences)}."
            )
        self.whole = MatrixGame(preferences, self.dialogues)
        self.advantage, self.preferences = self.whole.advantage, self.whole.preferences

    def gains(self, policy: np.ndarray) -> np.ndarray:
        r"""`P(z ≻ π) - ½` of each dialogue against the dialogues of a policy from the root, shape `(Z,)`."""
        return self.advantage @ self.distribution(policy)

    def answer_gains(self, policy: np.ndarray) -> np.ndarray:
        r"""
        `Q(s, a) - ½` with `Q = E[P(z ≻ z') | s, a, π; z' ~ π from the root]`, shape `(S,)`, as in the multi-turn part
        of ONPO's paper ([2502.16852](https://huggingface.co/papers/2502.16852)).
        """
        blocks = self.blocks(policy)
        return self.backward(self.gains(policy), lambda turn, q: (q, (blocks[turn] * q).sum(axis=-1)))[0]

    def win_rate(self, first: ArrayLike, second: ArrayLike) -> float:
        r"""`P(π₁ ≻ π₂)`."""
        return 0.5 + float(self.distribution(self.policy(first)) @ self.gains(self.policy(second)))

    def best_response(self, policy: ArrayLike) -> np.ndarray:
        r"""The policy, of shape `(S,)`, that always gives the answer of highest value against π (the first)."""
        return self.backward(self.gains(self.policy(policy)), _greedy)[0]

    def duality_gap(self, policy: ArrayLike) -> float:
        r"""`gap(π) = 2 (max_π' P(π' ≻ π) - ½)`, by backward induction: zero exactly at a Nash policy."""
        return 2 * self.backward(self.gains(self.policy(policy)), _greedy)[1]

    def duality_gaps(self, policies: np.ndarray) -> np.ndarray:
        """[`~DialogueGame.duality_gap`] of each row, shape `(T,)`."""
        return np.array([2 * self.backward(self.gains(policy), _greedy)[1] for policy in policies])

    def fitted(self, log_centre: np.ndarray, step_size: float, weights: np.ndarray, wins: np.ndarray) -> np.ndarray:
        """The policy that pairs of dialogues are fitted with, see [`regression`]."""
        return regression(self, log_centre, step_size, weights, wins)

    def regularized_best_response(self, policy: ArrayLike, reference: ArrayLike, beta: float) -> np.ndarray:
        r"""
        The best response to π, of shape `(S,)`, when straying from the reference costs `τ KL(·‖ref)` of dialogues,
        which is that of answers, summed over turns.
        """
        check_positive("beta", beta)
        with np.errstate(divide="ignore"):
            log_reference = np.log(self.policy(reference))
        return np.exp(self.tilted(log_reference, self.gains(self.policy(policy)) / beta))

    def kl_divergences(self, target: ArrayLike, policies: np.ndarray) -> np.ndarray:
        """`KL(target‖π)` of dialogues in nats for each row π, shape `(T,)`: the user's part of it cancels."""
        target = self.policy(target)
        reach = self.reach(target)
        return (reach * np.where(reach > 0, kl_div(target, policies), 0)).sum(axis=1).clip(min=0)

    def tangent(self, policy: np.ndarray) -> np.ndarray:
        r"""
        An orthonormal basis, each times `√π(z)`, of the log-ratios that policies near π have to it: sums
        `Σ_h δ(s_h, a_h)` with `E_π[δ | s] = 0`. Shape `(k, Z)`.

        They are all functions of dialogues with mean 0 if the user is deterministic, and fewer if not.
        """
        root = np.sqrt(self.distribution(policy))[:, None]
        return (root * orth(root * self.scores(policy), rcond=1e-9)).T


def _greedy(turn: int, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.eye(q.shape[-1])[q.argmax(axis=-1)], q.max(axis=-1)


Game = MatrixGame | DialogueGame
"""What methods are played on."""
