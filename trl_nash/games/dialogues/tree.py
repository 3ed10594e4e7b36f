# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What may be said in a dialogue: answers of a policy and replies of a user, turn after turn, and policies on it."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax, logsumexp

from ..matrix import TOLERANCE


Turn = Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""`turn(h, q)`: what to keep of the answers of a turn, whose values are q, and the values of its states."""


class DialogueTree:
    """
    Dialogues of H turns. A state is what a policy has before it when it answers: the dialogue so far.

    Turn h has N_h answers in every state, and after all but the last the user gives one of M_h replies. So there are
    `Z = N_1 M_1 N_2 ... N_H` dialogues, counted with the last answer fastest. A policy is a distribution over answers
    in each state: a vector of the S numbers `π(a | s)`, turn after turn, states in the order of dialogues.

    Args:
        answers (`Sequence[Sequence[str]]`):
            H lists of names.
        replies (`Sequence[Sequence[str]]`, *optional*):
            H-1 lists of names of what the user says; `"more"` each time if left out.
        user (`Sequence[ArrayLike]`, *optional*):
            H-1 arrays of probabilities of replies, each of a shape that broadcasts to `(N_1, M_1, ..., N_h, M_h)`: a
            user may go by all that was said. To be left out only where there is one reply a turn.

    Attributes:
        turns (`int`): H.
        shape (`tuple[int, ...]`): `(N_1, M_1, ..., N_H)`.
        actions (`tuple[str, ...]`): S names: the dialogue up to and with an answer.
        dialogues (`tuple[str, ...]`): Z names.
        deterministic (`bool`): whether every reply of the user is certain.
        chance (`np.ndarray` of shape `(Z,)`): what the user contributes to the probability of a dialogue.
        passes (`np.ndarray` of shape `(Z, S)`): 1 where a dialogue contains an answer, else 0.
        state_of (`np.ndarray` of shape `(S,)`): the number of each answer's state.
        answer_before (`np.ndarray`): for each state the index of the last answer before it, -1 for the root.

    Raises:
        `ValueError`: If the sizes do not fit together, or these are no probabilities.
    """

    def __init__(
        self,
        answers: Sequence[Sequence[str]],
        replies: Sequence[Sequence[str]] | None = None,
        user: Sequence[ArrayLike] | None = None,
    ):
        self.answers = tuple(map(tuple, answers))
        self.turns = len(self.answers)
        self.replies = tuple(map(tuple, [["more"]] * (self.turns - 1) if replies is None else replies))
        if not self.turns or len(self.replies) != self.turns - 1 or not all(self.answers + self.replies):
            raise ValueError(
                "`answers` must be lists of names, one a turn, and `replies` one fewer, none of them empty; got "
                f"{len(self.answers)} lists of answers and {len(self.replies)} of replies."
            )
        words = [self.answers[0]]
        for said, then in zip(self.replies, self.answers[1:], strict=True):
            words += [said, then]
        self.shape = tuple(map(len, words))
        self._shapes = [self.shape[: 2 * turn + 1] for turn in range(self.turns)]
        self._ends = np.cumsum([prod(shape) for shape in self._shapes])
        self.user = self._check_user([np.ones(1)] * (self.turns - 1) if user is None else user)
        self.deterministic = all(((table == 0) | (table == 1)).all() for table in self.user)
        texts = [[""]]
        for choices in words:
            texts.append([f"{text} {word}".strip() for text in texts[-1] for word in choices])
        self.actions = tuple(text for after_answer in texts[1::2] for text in after_answer)
        self.dialogues = tuple(texts[-1])
        self.chance = self._along(self.user, first=1)
        places = np.arange(prod(self.shape))[:, None]
        self.passes = np.concatenate(
            [places // (prod(self.shape) // prod(shape)) == np.arange(prod(shape)) for shape in self._shapes], axis=1
        ).astype(np.float64)
        self.state_of, self.answer_before = self._states()
        self._same_state = (self.state_of[:, None] == self.state_of).astype(np.float64)
        self._visits = self._state_sums(self.passes)  # 1 where a dialogue passes an answer's state

    def _check_user(self, user: Sequence[ArrayLike]) -> list[np.ndarray]:
        if len(user) != self.turns - 1:
            raise ValueError(f"`user` must have {self.turns - 1} arrays, one after each turn but the last.")
        tables = []
        for turn, given in enumerate(user):
            shape = self.shape[: 2 * turn + 2]
            try:
                table = np.array(np.broadcast_to(np.asarray(given, dtype=np.float64), shape))
            except ValueError:
                raise ValueError(
                    f"`user[{turn}]` must broadcast to {shape}, answers and replies so far; got shape "
                    f"{np.shape(given)}."
                ) from None
            if not (table >= 0).all() or np.abs(table.sum(axis=-1) - 1).max() > TOLERANCE:
                raise ValueError(f"`user[{turn}]` must be probabilities that add up to 1 over its last axis.")
            tables.append(table / table.sum(axis=-1, keepdims=True))
        return tables

    def __len__(self) -> int:
        return len(self.actions)

    def blocks(self, vector: np.ndarray) -> list[np.ndarray]:
        """A vector of shape `(S,)` by turn: arrays of the shapes `(N_1,)`, `(N_1, M_1, N_2)`, ..."""
        parts = np.split(vector, self._ends[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def policy(self, probabilities: ArrayLike) -> np.ndarray:
        """
        Checks that `probabilities` is a distribution over answers in each state and returns it, normalised, as float64
        of shape `(S,)`.

        Raises:
            `ValueError`: If it is none.
        """
        try:
            policy = np.array(probabilities, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"A policy is a list of {len(self)} probabilities: {error}.") from None
        if policy.shape != (len(self),):
            raise ValueError(f"A policy of this game has {len(self)} probabilities, got shape {policy.shape}.")
        sums = self._state_sums(policy)
        if not (policy >= 0).all() or np.abs(sums - 1).max() > TOLERANCE:
            raise ValueError("A policy of dialogues is made of probabilities that add up to 1 in each state.")
        return policy / sums

    @property
    def uniform(self) -> np.ndarray:
        """The policy that gives all answers of a turn alike, shape `(S,)`."""
        return np.exp(self.normalized(np.zeros(len(self))))

    def normalized(self, logits: np.ndarray) -> np.ndarray:
        """Log-probabilities of shape `(S,)`, normalised in each state: as mixtures of policies are sampled."""
        return _flat([log_softmax(block, axis=-1) for block in self.blocks(logits)])

    def distribution(self, policy: np.ndarray) -> np.ndarray:
        """The probability of each dialogue, shape `(Z,)`."""
        return self.chance * self._along(self.blocks(policy), first=0)

    def plan(self, policy: np.ndarray) -> np.ndarray:
        """The sequence form: of each answer the product of `π` along the dialogue up to and with it, shape `(S,)`."""
        return policy * self._before(policy)

    def behaviour(self, plan: np.ndarray) -> np.ndarray:
        """The policy, shape `(S,)`, of a sequence form in any units; uniform in states to which it does not come."""
        sums = self._state_sums(plan)
        return np.divide(plan, sums, out=self.uniform, where=sums > 0)

    def reach(self, policy: np.ndarray) -> np.ndarray:
        """The probability of coming to the state of each answer, shape `(S,)`."""
        return self._state_chances() * self._before(policy)

    def averages(self, policies: np.ndarray) -> np.ndarray:
        """
        For each row the policy whose dialogues are the mean of those of it and of the rows before, shape `(T, S)`.

        Means are of the sequence form: a mean of `π(a | s)` forgets how often each policy comes to s.
        """
        plans = np.array([self.plan(policy) for policy in policies]).cumsum(axis=0)
        return np.array([self.behaviour(plan) for plan in plans])

    def scores(self, policy: np.ndarray) -> np.ndarray:
        """The derivative of `Σ_h log π(a_h | s_h)` by the logit of each answer, shape `(Z, S)`."""
        return self.passes - self._visits * policy

    def answer_covariance(self, policy: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """`Σ_s w(s) (diag π(·|s) - π(·|s) π(·|s)ᵀ)`, w being the sum of `weights` of dialogues through s; `(S, S)`."""
        weighted = self._state_sums(self.passes.T @ weights) * policy
        return np.diag(weighted) - weighted[:, None] * policy * self._same_state

    def backward(self, values: np.ndarray, turn: Turn) -> tuple[np.ndarray, float]:
        """
        Backward induction, in which the user's replies are averaged.

        Args:
            values (`np.ndarray` of shape `(Z,)`): of dialogues.
            turn (`Turn`): what is done where the policy answers; all arrays have the shape of the turn's block.

        Returns:
            What was kept, shape `(S,)`, and the value of the root.
        """
        q, kept = values.reshape(self.shape), []
        for number in reversed(range(self.turns)):
            keep, value = turn(number, q)
            kept.append(keep)
            if number:
                q = (self.user[number - 1] * value).sum(axis=-1)
        return _flat(kept[::-1]), float(value)

    def tilted(self, log_centre: np.ndarray, gains: np.ndarray) -> np.ndarray:
        r"""
        The policy, as log-probabilities of shape `(S,)`, with most `E_π[gain(z)] - Σ_k w_k KL(π‖p_k)` over dialogues,
        around the centre `Σ_k w_k log p_k`.

        It is `π(a|s) ∝ exp(centre(s,a) + W(s,a))`. W is the gain of the dialogue at the last answer, and before that
        the mean over the user's replies of `log Σ_a exp(centre + W)` in the state that they lead to. If the user is
        deterministic, it is `π(z) ∝ exp(centre(z) + gain(z))`.

        Args:
            log_centre (`np.ndarray` of shape `(S,)`): need not be normalised.
            gains (`np.ndarray` of shape `(Z,)`): in nats.
        """
        centres = self.blocks(log_centre)

        def soft(turn: int, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            logits = centres[turn] + q
            return log_softmax(logits, axis=-1), logsumexp(logits, axis=-1)

        return self.backward(gains, soft)[0]

    def _along(self, factors: Sequence[np.ndarray], first: int) -> np.ndarray:
        """The product along each dialogue of factors that go by what was said so far, shape `(Z,)`."""
        total = np.ones(self.shape)
        for number, factor in enumerate(factors):
            length = 2 * number + first + 1
            total = total * factor.reshape(self.shape[:length] + (1,) * (len(self.shape) - length))
        return total.ravel()

    def _before(self, policy: np.ndarray) -> np.ndarray:
        """The product of `π` along the dialogue before each answer, shape `(S,)`."""
        before, found = np.ones(1), []
        for number, block in enumerate(self.blocks(policy)):
            found.append(np.broadcast_to(before, block.shape))
            if number + 1 < self.turns:
                before = np.repeat((found[-1] * block)[..., None], self.shape[2 * number + 1], axis=-1)[..., None]
        return _flat(found)

    def _state_chances(self) -> np.ndarray:
        """What the user contributes to the probability of each answer's state, shape `(S,)`."""
        chance, found = np.ones(1), []
        for number, shape in enumerate(self._shapes):
            found.append(np.broadcast_to(chance, shape))
            if number + 1 < self.turns:
                chance = (found[-1][..., None] * self.user[number])[..., None]
        return _flat(found)

    def _state_sums(self, vector: np.ndarray) -> np.ndarray:
        """The sum over the answers of its state, for each answer; of shape `(S,)`, or for each row of it."""
        return vector @ self._same_state

    def _states(self) -> tuple[np.ndarray, np.ndarray]:
        """Attributes `state_of` and `answer_before`."""
        state_of, before, states = [], [np.array([-1])], 0
        for turn, shape in enumerate(self._shapes):
            count = prod(shape[:-1])
            state_of.append(states + np.repeat(np.arange(count), shape[-1]))
            states += count
            if turn:
                begin = self._ends[turn - 1] - prod(self._shapes[turn - 1])
                before.append(begin + np.arange(count) // shape[-2])
        return np.concatenate(state_of), np.concatenate(before)


def _flat(blocks: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([block.ravel() for block in blocks])
