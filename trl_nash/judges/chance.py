# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A judge without a clue, for debugging."""

import hashlib
import json

from .base import PairwiseJudge


class RandomJudge(PairwiseJudge):
    """
    A uniformly random but consistent judge: the same pair always gets the same probability, and in the other order the
    opposite one. For debugging: no policy can be better under it than by luck.

    Args:
        seed (`int`, *optional*, defaults to `0`):
            Another seed is another judge. The verdict depends on seed, prompt and the two completions only, not on
            process, batch or order.
    """

    symmetric = True

    def __init__(self, seed: int = 0):
        self.seed = int(seed)

    def judge(self, prompts, first, second):
        return [self._probability(*row) for row in zip(prompts, first, second, strict=True)]

    def _probability(self, prompt, first: str, second: str) -> float:
        digest = hashlib.sha256(json.dumps([self.seed, prompt, *sorted([first, second])]).encode()).digest()
        uniform = int.from_bytes(digest[:6]) / 2**48
        return uniform if first <= second else 1.0 - uniform
