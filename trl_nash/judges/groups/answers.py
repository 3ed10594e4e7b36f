# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What judges say of a group of completions, as preferences between any two of them."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np

from ..base import TOLERANCE


KINDS = ("scores", "ranking", "table")


def preferences_of(answer: Any, kind: str, count: int, temperature: float, source: str) -> np.ndarray:
    r"""
    `P(i ≻ j)` of an answer about K completions.

    Args:
        answer: K scores, places from the best to the worst, or K rows of K probabilities; see [`GroupJudge`].
        kind (`str`): one of `KINDS`.
        count (`int`): K.
        temperature (`float`): of scores.
        source (`str`): who said it, for messages.

    Returns:
        `np.ndarray` of shape `(K, K)`: ½ on the diagonal; `P(i ≻ j) + P(j ≻ i) = 1`; `nan` where it does not say.

    Raises:
        `ValueError`: If it is no such answer.
    """
    if kind == "ranking":
        return _from_ranking(answer, count, source)
    shape = (count,) if kind == "scores" else (count, count)
    try:
        values = np.array(answer if isinstance(answer, np.ndarray) else _without_none(answer), dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != shape:
        expected = f"{count} scores" if kind == "scores" else f"{count} rows of {count} probabilities"
        raise ValueError(f"{source} returned {answer!r:.200}; expected {expected}, one for each completion.")
    if kind == "scores":
        values[np.isinf(values)] = np.nan
        with np.errstate(over="ignore"):
            return _half_on_diagonal(1 / (1 + np.exp((values - values[:, None]) / temperature)))
    if (values < -TOLERANCE).any() or (values > 1 + TOLERANCE).any():
        raise ValueError(f"{source} returned a table with {np.nanmax(np.abs(values)):g}; expected probabilities.")
    values = values.clip(0, 1)
    return _half_on_diagonal((values + 1 - values.T) / 2)


def _from_ranking(answer: Any, count: int, source: str) -> np.ndarray:
    """1 for who stands before another, ½ for who stands beside, `nan` for whom the ranking leaves out."""
    ranks = np.full(count, np.nan)
    steps = answer.tolist() if isinstance(answer, np.ndarray) else answer
    if not isinstance(steps, Sequence) or isinstance(steps, str | bytes):
        raise ValueError(f"{source} returned {answer!r:.200}; expected the places of {count} completions.")
    for rank, step in enumerate(steps):
        for place in step if isinstance(step, Sequence) and not isinstance(step, str | bytes) else [step]:
            known = isinstance(place, Real) and not isinstance(place, bool) and place in range(count)
            if not known or not math.isnan(ranks[int(place)]):
                raise ValueError(
                    f"{source} ranked {place!r:.50} among {count} completions: each place from 0 to {count - 1} may "
                    "stand in a ranking once."
                )
            ranks[int(place)] = rank
    return _half_on_diagonal((1 + np.sign(ranks - ranks[:, None])) / 2)  # of nan the sign is nan


def _without_none(values: Any) -> Any:
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return [_without_none(value) for value in values]
    return math.nan if values is None else values


def _half_on_diagonal(table: np.ndarray) -> np.ndarray:
    np.fill_diagonal(table, 0.5)
    return table
