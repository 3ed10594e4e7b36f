# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Pairings that look for the best: knock-outs, and the best against the worst of all."""

from collections.abc import Generator
from math import ceil, comb, log2

import numpy as np

from .base import Compared, Groups, InWaves, Pairing, all_pairs, best_first, or_silent, take
from .scores import win_table


class Elimination(InWaves):
    """
    A seeded knock-out, 2K-3 pairs.

    The first completion plays against all others in one wave, which seeds them: how well each did against it. They
    then play a knock-out, the best seed against the worst, in which losers drop out; of an odd number the best seed
    goes on without playing. In a pair without a verdict who has had one before goes on, and in a tie the better seed.
    """

    name = "elimination"
    exact = False
    bias = (
        "strong completions are compared more often and with one another; nothing is biased where preferences add up "
        "(P - ½ is a difference of scores), and the step turns where they cycle"
    )

    def calls(self, count: int) -> int:
        return 2 * count - 3

    def waves(self, count: int) -> int:
        return 1 + ceil(log2(count - 1))

    def stages(self, silence: np.ndarray) -> Generator[np.ndarray, np.ndarray, None]:
        num_prompts, count = silence.shape
        others = np.tile(np.arange(1, count), (num_prompts, 1))
        lost = yield np.stack([np.zeros_like(others), others], axis=2)
        seeds = best_first(np.where(np.isnan(lost), -1.0, 1 - lost))
        alive = take(others, seeds)  # in the order of their seeds
        while (number := alive.shape[1]) > 1:
            resting, games = number % 2, number // 2
            rank = np.tile(np.arange(number), (num_prompts, 1))
            better, worse = rank[:, resting : resting + games], rank[:, ::-1][:, :games]
            first, second = take(alive, better), take(alive, worse)
            preference = yield np.stack([first, second], axis=2)
            winners = np.where(or_silent(preference, first, second, silence) < 0.5, worse, better)
            alive = take(alive, np.sort(np.concatenate([rank[:, :resting], winners], axis=1), axis=1))


class Tournament(InWaves):
    """
    INPO's selection (2407.00617): the best against the worst by knock-out, K + ⌊K/2⌋ - 1 pairs, 11 for K = 8. All
    play once; the winners then play on for the best, the losers for the worst, and at last these two are compared.

    In a pair without a verdict who has had none before drops out, and in a tie the first goes on. Of an odd number the
    last one waits for the next stage, at first among the winners.
    """

    name = "tournament"
    exact = False
    bias = "the step is longer than η where verdicts are noisy, and turns where preferences cycle"
    least = 3

    def calls(self, count: int) -> int:
        return count + count // 2 - 1

    def waves(self, count: int) -> int:
        return 2 + ceil(log2(ceil(count / 2)))

    def trained(self, count: int) -> int:
        return 1

    def stages(self, silence: np.ndarray) -> Generator[np.ndarray, np.ndarray, None]:
        num_prompts, count = silence.shape
        ((winners, losers),) = yield from _stage(silence, np.tile(np.arange(count), (num_prompts, 1)))
        losers = losers[:, : count // 2]
        while winners.shape[1] > 1 or losers.shape[1] > 1:
            (winners, _), (_, losers) = yield from _stage(silence, winners, losers)
        yield np.stack([winners, losers], axis=2)

    def select(self, compared: Compared, count: int) -> Compared:
        """The final."""
        return Compared(*(values[:, -1:] for values in compared))


def _stage(
    silence: np.ndarray, *groups: np.ndarray
) -> Generator[np.ndarray, np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Winners and losers of each group, all of them in one wave; who has no opponent is among both."""
    games = [group.shape[1] // 2 for group in groups]
    first = [group[:, : 2 * number : 2] for group, number in zip(groups, games, strict=True)]
    second = [group[:, 1 : 2 * number : 2] for group, number in zip(groups, games, strict=True)]
    preference = yield np.stack([np.concatenate(first, axis=1), np.concatenate(second, axis=1)], axis=2)
    results = []
    for side, (group, a, b) in enumerate(zip(groups, first, second, strict=True)):
        own, preference = preference[:, : a.shape[1]], preference[:, a.shape[1] :]
        # Who has been silent drops out: he loses among the winners, and wins among the losers.
        own = or_silent(own, a, b, silence if side == 0 else -silence)
        first_wins = own >= 0.5
        waiting = group[:, 2 * a.shape[1] :]
        results.append(
            tuple(np.concatenate([np.where(up, a, b), waiting], axis=1) for up in (first_wins, ~first_wins))
        )
    return results


class BestWorst(Pairing):
    """All pairs are asked, and the best is trained on against the worst, by mean win rate, ties by index."""

    name = "best_worst"
    exact = False
    bias = "the step is longer than η where verdicts are noisy, and turns where preferences cycle"

    def calls(self, count: int) -> int:
        return comb(count, 2)

    def trained(self, count: int) -> int:
        return 1

    def play(self, groups: Groups) -> Generator[np.ndarray, np.ndarray, Compared]:
        pairs = groups.each(all_pairs(groups.count))
        return Compared.plain(pairs, (yield pairs))

    def select(self, compared: Compared, count: int) -> Compared:
        """The pair (best, worst) with its soft preference, `nan` where that pair has no verdict."""
        table = win_table(compared, count)
        judged = ~np.isnan(table)
        rates = np.divide(np.nansum(table, axis=2), judged.sum(axis=2), where=judged.any(axis=2), out=_nan(table))
        rows = np.arange(len(table))
        best = np.nan_to_num(rates, nan=-1.0).argmax(axis=1)
        rates[rows, best] = 3.0
        worst = np.nan_to_num(rates, nan=2.0).argmin(axis=1)
        return Compared.plain(np.stack([best, worst], axis=1)[:, None], table[rows, best, worst][:, None])


def _nan(table: np.ndarray) -> np.ndarray:
    return np.full(table.shape[:2], np.nan)
