# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The best and the worst of K completions by knock-out: 11 comparisons for K = 8 where all pairs are 28."""

from collections.abc import Callable

import numpy as np


def best_and_worst_by_tournament(
    compare: Callable[[np.ndarray, list[tuple[int, int]]], np.ndarray], num_prompts: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """
    INPO's selection (2407.00617). All K play once; the winners then play on for the best, the losers for the worst,
    and at last these two are compared.

    An abstention is a tie, and in a tie the first goes on. Of an odd number the last one waits for the next stage, at
    first among the winners.

    Args:
        compare (`Callable`):
            `(players, pairs) -> preference`, with `players` of shape (B, N) the completions that take part, `pairs`
            indices into them, and `preference` of shape (B, len(pairs)); `nan` abstains. It is called once for each
            stage.
        num_prompts (`int`): B.
        count (`int`): K, at least 3.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: of shape (B, 2) the best and the worst completion, and of shape (B, 1) the
        preference for the best over the worst.
    """

    def play(*groups: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Winners and losers of each group, all of them in one call; who has no opponent is among both."""
        starts = np.cumsum([0, *(group.shape[1] for group in groups)])
        pairs = [
            (i, i + 1)
            for start, group in zip(starts, groups, strict=False)
            for i in range(start, start + group.shape[1] - 1, 2)
        ]
        first_wins = ~(compare(np.concatenate(groups, axis=1), pairs) < 0.5)
        results = []
        for group in groups:
            games = group.shape[1] // 2
            won, first_wins = first_wins[:, :games], first_wins[:, games:]
            first, second, waiting = group[:, : 2 * games : 2], group[:, 1 : 2 * games : 2], group[:, 2 * games :]
            results.append(tuple(np.concatenate([np.where(up, first, second), waiting], axis=1) for up in (won, ~won)))
        return results

    ((winners, losers),) = play(np.tile(np.arange(count), (num_prompts, 1)))
    losers = losers[:, : count // 2]
    while winners.shape[1] > 1 or losers.shape[1] > 1:
        (winners, _), (_, losers) = play(winners, losers)
    final = np.concatenate([winners, losers], axis=1)
    return final, compare(final, [(0, 1)])
