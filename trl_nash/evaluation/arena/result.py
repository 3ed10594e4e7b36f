# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What came of an arena: answers and verdicts, of which everything else is a function."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...judges.transcript import Transcript
from ..matrix import WinRateMatrix
from ..rows import Row


@dataclass(frozen=True)
class ArenaResult:
    """
    What came of an arena.

    Args:
        names (`tuple[str, ...]`): of the N policies.
        judge (`str`): how the judge was called.
        rows (`list[Row]`): the prompts, each with N answers, `None` where a policy has none.
        answers (`list[dict[int, dict]]`): of each policy its records, as [`Answers`] has them.
        records (`list[dict]`): the judgements, as [`Output`] has them; indices are those of `names`.
        counts (`dict[str, float]`): what was counted of the judge in all runs.
        further (`dict[str, np.ndarray]`): of policies with n further answers to each of the B prompts P(it beats the
            answer of each policy), of shape `(B, n, N)`.
    """

    names: tuple[str, ...]
    judge: str
    rows: list[Row]
    answers: list[dict[int, dict[str, Any]]]
    records: list[dict[str, Any]]
    counts: dict[str, float]
    further: dict[str, np.ndarray]

    @property
    def has_dialogues(self) -> bool:
        """Whether a completion is a whole dialogue."""
        return any(isinstance(text, Transcript) for row in self.rows for text in row.completions)

    @cached_property
    def matrix(self) -> WinRateMatrix:
        """Win rates of the policies, in the order of `names`."""
        return WinRateMatrix.from_judgements(self.names, self.records)
