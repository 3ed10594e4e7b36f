# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What a trainer does with finitely many pairs: sample answers, label pairs of them, fit a policy by least squares.

It takes the place of the exact fits of `trl_nash.games.solvers`. A policy has a parameter for each answer, so that all
that differs is sampling: the number of pairs, their labels, their selection and the temperature.
"""

from collections.abc import Callable
from math import ceil

import numpy as np

from ..rounds.pairings import Groups, pairing_of
from .dialogues.game import Game
from .matrix import check_positive


PREFERENCE_LABELS = ("soft", "sampled", "argmax")


class SampledPairs:
    r"""
    Fits to sampled pairs, for the argument `pairs` of a solver.

    `sampler(log_opponent)` draws the pairs of a round and returns `fit`. `fit(log_anchor, step_size)` is the policy
    that minimises, over those pairs,

    `Σ w ( (log π(y₁) - a(y₁)) - (log π(y₂) - a(y₂)) - η (label - ½) )²`,

    which tends to `π ∝ exp(a + η P(· ≻ ν))` as the number of pairs grows, ν the policy that they were drawn from.

    Args:
        game ([`MatrixGame`] or [`DialogueGame`]):
            Whose preferences judge the pairs. Of dialogues each is rolled out from the root, and h is summed over
            turns.
        pairs (`int`): pairs in a round that are trained on, rounded up to whole prompts.
        preference_label (`str`, *optional*, defaults to `"soft"`):
            `"soft"` is P, `"sampled"` a draw from Bernoulli(P), `"argmax"` is 1[P > ½], which solves the game of
            majorities in place of P.
        pair_selection (`str`, *optional*, defaults to `"all"`):
            Which pairs of the K answers to a prompt are compared, as in the trainers. Those whose pairing is not
            `exact` do not make the step that was asked for where preferences cycle.
        pairs_per_prompt (`int`, *optional*): M of `pair_selection="random"` and `"active"`.
        num_generations (`int`, *optional*, defaults to `2`): K, independent answers per prompt.
        temperature (`float`, *optional*, defaults to `1.0`):
            T: each answer is drawn from `ν^{1/T}`, and the step is then taken against that policy.
        seed (`int`, *optional*, defaults to `0`): of all rounds together.

    Attributes:
        judge_calls (`int`): pairs that were asked so far, without those of an answer with itself.

    Raises:
        `ValueError`: If a setting is out of its range.
    """

    def __init__(
        self,
        game: Game,
        *,
        pairs: int,
        preference_label: str = "soft",
        pair_selection: str = "all",
        pairs_per_prompt: int | None = None,
        num_generations: int = 2,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        import torch  # labels are the trainers' own

        if pairs < 1:
            raise ValueError(f"`pairs` must be at least 1 a round, got {pairs}.")
        if num_generations < 2:
            raise ValueError(f"`num_generations` must be at least 2 to make a pair, got {num_generations}.")
        if preference_label not in PREFERENCE_LABELS:
            known = ", ".join(PREFERENCE_LABELS)
            raise ValueError(f"`preference_label` must be one of {known}; got {preference_label!r}.")
        check_positive("temperature", temperature)
        self.game = game
        self.preference_label = preference_label
        self.pairing = pairing_of(pair_selection, pairs_per_prompt)
        self.pairing.check(num_generations)
        self.temperature = temperature
        self.judge_calls = 0
        self.shape = ceil(pairs / self.pairing.trained(num_generations)), num_generations
        self.generator = np.random.default_rng(seed)
        self.label_generator = torch.Generator().manual_seed(seed)

    def sample(self, log_opponent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """
        Draws, compares and labels the pairs of one round.

        Args:
            log_opponent (`np.ndarray` of shape `(N,)`): log-probabilities of the policy to draw from.

        Returns:
            `first` and `second`, answers as indices below N, `label`, P(first ≻ second) as it is trained on, and
            `weight`, of the pair in the fit; each of shape (M,).
        """
        import torch

        from ..objectives import hard_label

        policy = self.game.distribution(np.exp(self.game.normalized(log_opponent / self.temperature)))
        answers = self.generator.choice(len(policy), size=self.shape, p=policy)

        def of(pairs: np.ndarray) -> list[np.ndarray]:
            return [np.take_along_axis(answers, pairs[..., side], axis=1) for side in (0, 1)]

        def ask(pairs: np.ndarray) -> np.ndarray:
            first, second = of(pairs)
            self.judge_calls += int((first != second).sum())
            return self.game.preferences[first, second]

        groups = Groups(*self.shape, seed=int(self.generator.integers(2**63)), keys=answers)
        compared = self.pairing.compare(ask, groups)
        trained = self.pairing.select(compared, self.shape[1])
        label = hard_label(torch.as_tensor(trained.preference), self.preference_label, self.label_generator)
        return (
            *(side[trained.asked] for side in of(trained.pairs)),
            label.numpy()[trained.asked],
            trained.weights[trained.asked],
        )

    def __call__(self, log_opponent: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
        first, second, label, weight = self.sample(log_opponent)
        size = len(self.game.whole)
        # Normal equations of Σ w (h_i - h_j - (label - ½))²: the Laplacian of the graph whose edges are the pairs.
        counts = np.bincount(first * size + second, weight, minlength=size * size).reshape(size, size)
        counts = counts + counts.T
        laplacian = np.diag(counts.sum(axis=1)) - counts
        target = weight * (label - 0.5)
        wins = np.bincount(first, target, size) - np.bincount(second, target, size)
        return lambda log_anchor, step_size: self.game.fitted(log_anchor, step_size, laplacian, wins)
