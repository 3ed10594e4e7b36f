# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A Swiss tournament: everybody plays on, against somebody who has done about as well."""

from collections.abc import Generator
from math import ceil, log2

import numpy as np

from .base import InWaves


class Swiss(InWaves):
    """
    ⌈log₂ K⌉ waves of ⌊K/2⌋ pairs: completions with about the same score meet, and nobody meets the same one twice.

    A score is the sum of the probabilities to win; an abstention is half a point, and who has had no verdict yet is
    behind all others. Of an odd number the last one that has not rested yet rests.
    """

    name = "swiss"
    exact = False
    bias = (
        "completions of about the same strength are compared more often; nothing is biased where preferences add up "
        "(P - ½ is a difference of scores), and the step turns where they cycle"
    )

    def calls(self, count: int) -> int:
        return self.waves(count) * (count // 2)

    def waves(self, count: int) -> int:
        return ceil(log2(count))

    def stages(self, silence: np.ndarray) -> Generator[np.ndarray, np.ndarray, None]:
        num_prompts, count = size = silence.shape
        points, rested = np.zeros(size), np.zeros(size, dtype=bool)
        met = np.zeros((*size, count), dtype=bool)
        rows = np.arange(num_prompts)[:, None]
        for _ in range(self.waves(count)):
            standing = np.lexsort((-points, silence > 0))
            wave = np.array(
                [_draw(own.tolist(), *known) for own, *known in zip(standing, met, rested, strict=True)]
            ).reshape(num_prompts, -1, 2)
            first, second = wave[..., 0], wave[..., 1]
            met[rows, first, second] = met[rows, second, first] = True
            if count % 2:
                resting = np.ones(size, dtype=bool)
                resting[rows, first] = resting[rows, second] = False
                rested |= resting
            won = np.nan_to_num((yield wave), nan=0.5)
            points[rows, first] += won
            points[rows, second] += 1 - won


def _draw(order: list[int], met: np.ndarray, rested: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of neighbours in `order` that have not met; of an odd number a late one that has not rested yet rests."""
    if len(order) % 2 == 0:
        pairs = _match(order, met)
    else:
        resting = [player for player in reversed(order) if not rested[player]]
        draws = (_match([p for p in order if p != player], met) for player in resting)
        pairs = next((draw for draw in draws if draw is not None), None)
    assert pairs is not None  # there are few waves: everybody has many left to meet
    return pairs


def _match(order: list[int], met: np.ndarray) -> list[tuple[int, int]] | None:
    """Everybody in `order` with the next one whom he has not met, if that leaves a match for all others."""
    if not order:
        return []
    first, *others = order
    for second in others:
        if not met[first, second]:
            rest = _match([player for player in others if player != second], met)
            if rest is not None:
                return [(first, second), *rest]
    return None
