# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Judges prefer length, and policies learn it first. What length alone predicts can be taken out of a preference.

With x = (|a| - |b|) / (|a| + |b|), the relative difference of lengths in characters, length alone predicts
`P(a ≻ b) = σ(c x)`. The coefficient c is fitted to the judge's preferences by logistic regression.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import PairwiseJudge
from .calls import pairs_of_each
from .preference import margin, probability
from .transcript import own_words


class LengthDebiasedJudge(PairwiseJudge):
    """
    Another judge's preference without its length component, `P(a ≻ b) - (σ(c x) - ½)`, cut off at 0 and 1.

    Over the pairs that c was fitted to, what is left does not depend on length: `Σ x (P - ½)` is 0, but for what is
    cut off. Where longer answers *are* better, that part of their merit goes too.

    Args:
        judge ([`PairwiseJudge`], `Callable` or `str`):
            The judge, or its name as for [`load_judge`].
        coefficient (`float`):
            c, in units of the logit: at `c = 1` a completion three times as long as the other wins 62 % by its length.
            [`length_coefficient`] measures it.
        device (`str` or `torch.device`, *optional*):
            Where a judge given by name is put, if it is a model.
        kwargs:
            Arguments of a judge given by name.

    Example:

    ```python
    >>> preference = judge(prompts, first, second)
    >>> judge = LengthDebiasedJudge(judge, coefficient=length_coefficient(first, second, preference))
    ```
    """

    symmetric = True  # the judge within is asked in both orders

    def __init__(self, judge: Any, coefficient: float, *, device: Any = None, **kwargs):
        from . import load_judge

        if not np.isfinite(coefficient):
            raise ValueError(f"`coefficient` must be a finite number, got {coefficient}.")
        self.inner = load_judge(judge, device=device, **kwargs)
        self.waits, self.sees_groups = self.inner.waits, self.inner.sees_groups
        self.coefficient = float(coefficient)

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({self.inner.name})"

    @property
    def description(self) -> str:
        return f"{self.inner.description}, without its preference for length"

    @property
    def identity(self) -> str | None:
        inner = self.inner.identity
        return inner and json.dumps({"judge": "length", "coefficient": self.coefficient, "of": inner})

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    def __call__(self, prompts, first, second, **columns):
        self._check_lengths(prompts, first=first, second=second, **columns)
        return self.judge(prompts, first, second, **columns)

    def judge(self, prompts, first, second, **columns):
        pairs = list(zip(first, second, strict=True))
        return self.compare(prompts, pairs, [(0, 1)], columns=columns)[:, 0].tolist()

    def compare(self, prompts, completions, pairs, **inputs):
        """As [`PairwiseJudge.compare`], of the judge within."""
        preference = self.inner.compare(prompts, completions, pairs, **inputs)
        self.tally.add(self.inner.tally.take())
        difference = [
            length_difference([group[i] for i, _ in own], [group[j] for _, j in own])
            for group, own in zip(completions, pairs_of_each(pairs, len(prompts)).tolist(), strict=True)
        ]
        by_length = np.tanh(self.coefficient * np.array(difference).reshape(preference.shape) / 2) / 2  # σ(c x) - ½
        return probability(np.clip(margin(preference) - by_length, -0.5, 0.5))


def length_difference(first: Sequence[str], second: Sequence[str]) -> np.ndarray:
    """(|a| - |b|) / (|a| + |b|) of each pair, in [-1, 1]; 0 if both are empty."""
    a, b = (np.array([len(own_words(text)) for text in texts], dtype=np.float64) for texts in (first, second))
    return (a - b) / np.maximum(a + b, 1.0)


def length_coefficient(first: Sequence[str], second: Sequence[str], preference: Sequence[float]) -> float:
    """
    How much a judge prefers length: c of the logistic regression `P(a ≻ b) = σ(c x)`, 0 without such a preference.

    Args:
        first (`list[str]`): B completions.
        second (`list[str]`): B completions.
        preference (`list[float]`): B probabilities that the first is better; `nan` is left out.

    Returns:
        `float`: c, in units of the logit; infinite if the longer one always wins, or the shorter one.

    Raises:
        `ValueError`: If no judged pair differs in length.
    """
    x, p = length_difference(first, second), np.asarray(preference, dtype=np.float64)
    judged = ~np.isnan(p) & (x != 0)
    x, p = x[judged], p[judged]
    if not len(x):
        raise ValueError("`length_coefficient` needs judged pairs that differ in length, and there are none.")

    longer_wins = np.where(x > 0, p, 1 - p).mean()
    if longer_wins in (0.0, 1.0):
        return math.copysign(math.inf, longer_wins - 0.5)

    def score(c):  # derivative of the log-likelihood, which falls with c
        return np.sum(x * (p - 0.5 - np.tanh(c * x / 2) / 2))

    low, high = -1.0, 1.0
    while score(low) < 0:
        low *= 2
    while score(high) > 0:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > 0 else (low, middle)
    return (low + high) / 2
