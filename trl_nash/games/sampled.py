# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What a trainer does with finitely many pairs: sample answers, label pairs of them, fit a policy by least squares.

It takes the place of the exact fits of `trl_nash.games.solvers`. A policy has a parameter for each answer, so that all
that differs is sampling: the number of pairs, their labels, their selection and the temperature.
"""

from collections.abc import Callable
from itertools import combinations
from math import ceil

import numpy as np

from .dialogues.game import Game
from .matrix import check_positive


PREFERENCE_LABELS = ("soft", "sampled", "argmax")
PAIR_SELECTIONS = ("all", "iid", "best_worst")


class SampledPairs:
    r"""
    Fits to sampled pairs, for the argument `pairs` of a solver.

    `sampler(log_opponent)` draws the pairs of a round and returns `fit`. `fit(log_anchor, step_size)` is the policy
    that minimises, over those pairs,

    `Σ ( (log π(y₁) - a(y₁)) - (log π(y₂) - a(y₂)) - η (label - ½) )²`,

    which tends to `π ∝ exp(a + η P(· ≻ ν))` as the number of pairs grows, ν the policy that they were drawn from.

    Args:
        game ([`MatrixGame`] or [`DialogueGame`]):
            Whose preferences judge the pairs. Of dialogues each is rolled out from the root, and h is summed over
            turns.
        pairs (`int`): pairs in a round, rounded up to whole prompts.
        preference_label (`str`, *optional*, defaults to `"soft"`):
            `"soft"` is P, `"sampled"` a draw from Bernoulli(P), `"argmax"` is 1[P > ½], which solves the game of
            majorities in place of P.
        pair_selection (`str`, *optional*, defaults to `"all"`):
            Pairs of the K answers to a prompt: `"all"` K(K-1)/2, `"iid"` ⌊K/2⌋ disjoint ones, or `"best_worst"`, one
            by win rate among the K. From K = 3 on that is no longer the step that was asked for, neither in length
            nor, where preferences cycle, in direction.
        num_generations (`int`, *optional*, defaults to `2`): K, independent answers per prompt.
        temperature (`float`, *optional*, defaults to `1.0`):
            T: each answer is drawn from `ν^{1/T}`, and the step is then taken against that policy.
        seed (`int`, *optional*, defaults to `0`): of all rounds together.

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
        num_generations: int = 2,
        temperature: float = 1.0,
        seed: int = 0,
    ):
        import torch  # labels and selection are the trainers' own

        if pairs < 1:
            raise ValueError(f"`pairs` must be at least 1 a round, got {pairs}.")
        if num_generations < 2:
            raise ValueError(f"`num_generations` must be at least 2 to make a pair, got {num_generations}.")
        for name, value, known in (
            ("preference_label", preference_label, PREFERENCE_LABELS),
            ("pair_selection", pair_selection, PAIR_SELECTIONS),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}.")
        check_positive("temperature", temperature)
        self.game = game
        self.preference_label = preference_label
        self.pair_selection = pair_selection
        self.temperature = temperature
        answers = range(num_generations)
        self.pairs_of_prompt = np.array(
            list(zip(answers[::2], answers[1::2], strict=False))
            if pair_selection == "iid"
            else list(combinations(answers, 2))
        )
        pairs_per_prompt = 1 if pair_selection == "best_worst" else len(self.pairs_of_prompt)
        self.shape = ceil(pairs / pairs_per_prompt), num_generations
        self.generator = np.random.default_rng(seed)
        self.label_generator = torch.Generator().manual_seed(seed)

    def sample(self, log_opponent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Draws and labels the pairs of one round.

        Args:
            log_opponent (`np.ndarray` of shape `(N,)`): log-probabilities of the policy to draw from.

        Returns:
            `first` and `second`, answers as indices below N, and `label`, P(first ≻ second) as it is trained on; each
            of shape (M,).
        """
        import torch

        from ..objectives import best_and_worst, hard_label

        policy = self.game.distribution(np.exp(self.game.normalized(log_opponent / self.temperature)))
        answers = self.generator.choice(len(policy), size=self.shape, p=policy)
        first, second = (answers[:, self.pairs_of_prompt[:, side]] for side in (0, 1))
        preference = torch.as_tensor(self.game.preferences[first, second])
        if self.pair_selection == "best_worst":
            chosen, preference = best_and_worst(preference, torch.as_tensor(self.pairs_of_prompt), self.shape[1])
            first, second = (np.take_along_axis(answers, chosen[..., side].numpy(), 1) for side in (0, 1))
        label = hard_label(preference, self.preference_label, self.label_generator)
        return first.ravel(), second.ravel(), label.numpy().ravel()

    def __call__(self, log_opponent: np.ndarray) -> Callable[[np.ndarray, float], np.ndarray]:
        first, second, label = self.sample(log_opponent)
        size = len(self.game.whole)
        # Normal equations of Σ (h_i - h_j - (label - ½))²: the Laplacian of the graph whose edges are the pairs.
        counts = np.bincount(first * size + second, minlength=size * size).reshape(size, size)
        counts = counts + counts.T
        laplacian = np.diag(counts.sum(axis=1)) - counts
        wins = np.bincount(first, label - 0.5, size) - np.bincount(second, label - 0.5, size)
        return lambda log_anchor, step_size: self.game.fitted(log_anchor, step_size, laplacian.astype(float), wins)
