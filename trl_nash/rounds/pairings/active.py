# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The pairs whose outcome is least certain, weighted so that a fit to them is the fit to all pairs."""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from .base import Compared, Groups, Pairing, all_pairs, take
from .fixed import check_pairs_per_prompt
from .scores import least_squares


LEAST_CHANCE = 0.05  # of an upset, whatever the verdicts so far: it bounds the weights


@dataclass(frozen=True)
class Active(Pairing):
    r"""
    M pairs of each prompt in two waves: half of them at random, the others where the first half leaves the outcome
    uncertain.

    A pair is drawn in proportion to `√(P̂(1-P̂))`, the deviation of a verdict, with P̂ predicted from scores that are
    fitted to what was asked. Pairs of equal completions are certain and never drawn. The weights ([`draw_weights`])
    are those of *On Statistical Bias in Active Learning* ([2101.11665](https://huggingface.co/papers/2101.11665)).

    Args:
        pairs_per_prompt (`int`): M.
    """

    name = "active"
    exact = True
    bias = "none in expectation: the weights make up for how likely a pair was drawn, at the price of their spread"
    pairs_per_prompt: int

    def calls(self, count: int) -> int:
        return self.pairs_per_prompt

    def waves(self, count: int) -> int:
        return min(2, self.pairs_per_prompt)

    def check(self, count: int) -> None:
        super().check(count)
        check_pairs_per_prompt(self.pairs_per_prompt, count)

    def play(self, groups: Groups) -> Generator[np.ndarray, np.ndarray, Compared]:
        everything, drawn_first = all_pairs(groups.count), (self.pairs_per_prompt + 1) // 2
        uncertain = np.ones((groups.num_prompts, len(everything)), dtype=bool)
        if groups.keys is not None:
            uncertain = groups.keys[:, everything[:, 0]] != groups.keys[:, everything[:, 1]]
        drawn, chances = draw(uncertain.astype(float), drawn_first, groups.generator)
        preference = yield everything[drawn]
        if (left := self.pairs_per_prompt - drawn_first) > 0:
            deviation = deviations(Compared.plain(everything[drawn], preference), groups.count)
            np.put_along_axis(uncertain, drawn, False, axis=1)
            more, more_chances = draw(deviation * uncertain, left, groups.generator)
            second = yield everything[more]
            drawn, chances = np.concatenate([drawn, more], axis=1), np.concatenate([chances, more_chances], axis=1)
            preference = np.concatenate([preference, second], axis=1)
        return Compared(everything[drawn], preference, draw_weights(chances, self._population(groups, everything)))

    def _population(self, groups: Groups, everything: np.ndarray) -> tuple[np.ndarray, int]:
        """How many pairs of a prompt are uncertain, of shape (B,), and how many there are."""
        number = np.full(groups.num_prompts, len(everything))
        if groups.keys is not None:
            number = (groups.keys[:, everything[:, 0]] != groups.keys[:, everything[:, 1]]).sum(axis=1)
        return number, len(everything)


def deviations(compared: Compared, count: int) -> np.ndarray:
    """`√(P̂(1-P̂))` of all pairs, of shape (B, N), predicted from those that were compared."""
    scores = least_squares(compared, count, ridge=1.0)
    first, second = all_pairs(count).T
    predicted = np.clip(0.5 + scores[:, first] - scores[:, second], LEAST_CHANCE, 1 - LEAST_CHANCE)
    return np.sqrt(predicted * (1 - predicted))


def draw(chances: np.ndarray, number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """
    Draws one after the other, without replacement, in proportion to `chances`, of shape (B, N).

    Returns:
        `tuple[np.ndarray, np.ndarray]`: what was drawn, in order, and how likely each was when it was drawn, of shape
        (B, `number`). Where nothing with a chance is left, things without one come, with the likelihood 0.
    """
    with np.errstate(divide="ignore"):
        keys = np.log(chances) + generator.gumbel(size=chances.shape)
    drawn = np.argsort(-keys, axis=1, kind="stable")[:, :number]
    own = take(chances, drawn)
    left = chances.sum(axis=1, keepdims=True) - (own.cumsum(axis=1) - own)
    return drawn, np.divide(own, left, out=np.zeros_like(own), where=own > 0)


def draw_weights(chances: np.ndarray, population: tuple[np.ndarray, int]) -> np.ndarray:
    r"""
    Weights with which the mean over M draws is, in expectation, the mean over all pairs, however the chances of a draw
    depended on the draws and verdicts before it:

    `w_m = 1 + (N-M)/(N-m) · (1/((N-m+1) q_m) - 1)`, m = 1 ... M (2101.11665)

    for N uncertain pairs; with uniform chances it is 1. Certain ones, whose loss is 0, only count in the mean.

    Args:
        chances (`np.ndarray` of shape `(B, M)`): q_m, in the order of the draws; 0 where nothing uncertain was left.
        population (`tuple[np.ndarray, int]`): how many pairs of each prompt are uncertain, and how many there are.
    """
    number, everything = population[0][:, None], population[1]
    asked, place = (chances > 0).sum(axis=1, keepdims=True), np.arange(1, chances.shape[1] + 1)
    left = np.maximum(number - place, 1)  # where it is 0 all are asked, and N - M is 0 as well
    safe = np.where(chances > 0, chances, 1.0)
    weights = 1 + (number - asked) / left * (1 / ((number - place + 1).clip(1) * safe) - 1)
    share = number / everything * chances.shape[1] / np.maximum(asked, 1)
    return np.where(chances > 0, weights * share, 0.0)
