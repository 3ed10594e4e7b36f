# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The pairs whose outcome is least certain, weighted so that a fit to them is the fit to all pairs."""

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from .base import Compared, Groups, Pairing, all_pairs, are_pairs, take
from .fixed import check_pairs_per_prompt
from .scores import least_squares


LEAST_CHANCE = 0.05  # of an upset, whatever the verdicts so far: it bounds the weights
SELDOM = 0.1  # how often a pair is drawn, to what it would be, of whom it is not known whether the judge says a thing


@dataclass(frozen=True)
class Active(Pairing):
    r"""
    M pairs of each prompt in two waves: half of them at random, the others where the first half leaves the outcome
    uncertain.

    A pair is drawn in proportion to `√(P̂(1-P̂))`, the deviation of a verdict, with P̂ predicted from scores that are
    fitted to what was asked. Pairs of equal completions are certain: they are not drawn, nor are those of who is out,
    and of the others the same share is asked as `"random"` would. Of whom the judge has nothing to say is not asked
    again ([`voices`]). The weights ([`draw_weights`]) are those of *On Statistical Bias in Active Learning*
    ([2101.11665](https://huggingface.co/papers/2101.11665)).

    Args:
        pairs_per_prompt (`int`): M, the most that is asked.
    """

    name = "active"
    exact = True
    bias = (
        "none in expectation: the weights make up for how likely a pair was drawn, at the price of their spread; "
        "some, if a judge has nothing to say of a pair, and yet of both of its completions"
    )
    pairs_per_prompt: int

    def calls(self, count: int) -> int:
        return self.pairs_per_prompt

    def waves(self, count: int) -> int:
        return min(2, self.pairs_per_prompt)

    def check(self, count: int) -> None:
        super().check(count)
        check_pairs_per_prompt(self.pairs_per_prompt, count)

    def play(self, groups: Groups) -> Generator[np.ndarray, np.ndarray, Compared]:
        every = all_pairs(groups.count)
        uncertain = ~(groups.out[:, every[:, 0]] | groups.out[:, every[:, 1]])
        if groups.keys is not None:
            uncertain &= groups.keys[:, every[:, 0]] != groups.keys[:, every[:, 1]]
        population = uncertain.sum(axis=1)
        share = self.pairs_per_prompt * population / len(every)  # to be asked, rounded up or down at random
        quota = np.maximum(np.floor(share + groups.generator.random(len(share))), population > 0).astype(int)
        first = (self.pairs_per_prompt + 1) // 2
        pairs, preference, chances = [], [], []
        for size, own in ((first, (quota + 1) // 2), (self.pairs_per_prompt - first, quota // 2)):
            if size == 0:
                continue
            likely = uncertain.astype(np.float64)
            if pairs:
                known = pairs[0], preference[0], groups.count
                likely *= deviations(*known) * voices(*known)
            drawn, chance = draw(likely, size, groups.generator)
            chance[np.arange(size) >= own[:, None]] = 0.0
            rows, places = np.nonzero(chance)
            uncertain[rows, drawn[rows, places]] = False
            # What is not drawn is a completion with itself, which costs nothing and weighs nothing.
            pairs.append(np.where((chance > 0)[..., None], every[drawn], 0))
            chances.append(chance)
            preference.append(np.where(chance > 0, (yield pairs[-1]), np.nan))
        weights = draw_weights(np.concatenate(chances, axis=1), quota, population, len(every))
        return Compared(np.concatenate(pairs, axis=1), np.concatenate(preference, axis=1), weights)


def deviations(pairs: np.ndarray, preference: np.ndarray, count: int) -> np.ndarray:
    """`√(P̂(1-P̂))` of all pairs, of shape (B, N), predicted from those that were compared."""
    scores = least_squares(Compared.plain(pairs, preference), count, ridge=1.0)
    first, second = all_pairs(count).T
    predicted = np.clip(0.5 + scores[:, first] - scores[:, second], LEAST_CHANCE, 1 - LEAST_CHANCE)
    return np.sqrt(predicted * (1 - predicted))


def voices(pairs: np.ndarray, preference: np.ndarray, count: int) -> np.ndarray:
    """
    How often pairs are drawn again, of shape (B, N), to what they would be, for whether there are verdicts on their
    completions: 0 where one has abstained against somebody who has had a verdict, and none itself. Of two that have
    abstained against each other alone one may have verdicts, and without a chance for it the fit would be biased.
    """
    rows, sides = np.arange(len(pairs))[:, None], np.moveaxis(pairs, -1, 0)
    abstained = are_pairs(pairs) & np.isnan(preference)
    heard, silent, known = np.zeros((3, len(pairs), count), dtype=bool)
    for side in sides:
        np.logical_or.at(heard, (rows, side), ~np.isnan(preference))
    for side, other in (sides, sides[::-1]):
        np.logical_or.at(silent, (rows, side), abstained)
        np.logical_or.at(known, (rows, side), abstained & take(heard, other))
    each = np.select([heard, known, silent], [1.0, 0.0, SELDOM], 1.0)
    first, second = all_pairs(count).T
    return np.minimum(each[:, first], each[:, second])


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


def draw_weights(chances: np.ndarray, draws: np.ndarray, population: np.ndarray, number: int) -> np.ndarray:
    r"""
    Weights with which the mean over the M columns is, in expectation, the mean over all pairs, however the chances of
    a draw depended on the draws and verdicts before it:

    `w_m = 1 + (U-D)/(U-m) · (1/((U-m+1) q_m) - 1)`, m = 1 ... D (2101.11665)

    for D draws of U uncertain pairs, times what makes the mean over draws one over columns; with uniform chances it is
    the same of all. Certain pairs, whose loss is 0, only count in the mean. Nor does an abstention have a loss, so
    that pairs which would be one need no chance, and draws behind the last that has one draw nothing.

    Args:
        chances (`np.ndarray` of shape `(B, M)`): q_m, in the order of the draws; 0 where nothing was drawn.
        draws (`np.ndarray` of shape `(B,)`): D of each prompt.
        population (`np.ndarray` of shape `(B,)`): U of each prompt.
        number (`int`): N, its pairs with the certain ones.
    """
    drawn = chances > 0
    draws, place, uncertain = draws[:, None], drawn.cumsum(axis=1), population[:, None]
    likelihood = (uncertain - place + 1) * np.where(drawn, chances, 1.0)
    # Where U - m is 0 all are drawn, and U - D is 0 as well.
    spread = (uncertain - draws) / np.maximum(uncertain - place, 1)
    weights = 1 + spread * (1 / np.where(drawn, likelihood, 1.0) - 1)
    return np.where(drawn, weights * uncertain / number * chances.shape[1] / np.maximum(draws, 1), 0.0)
