# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The best of n answers of a policy: a stronger opponent than the policy is, without training."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..matrix import WinRateMatrix


def verdicts(
    records: Sequence[Mapping[str, Any]], rows: Sequence[int], answers: Sequence[int], against: Sequence[int]
) -> np.ndarray:
    """
    P(answer k of a prompt beats answer m), of shape `(B, n, N)`, `nan` where it was not judged.

    Args:
        records (`Sequence[dict]`): judgements, as [`~trl_nash.evaluation.judgements.Output`] has them.
        rows (`Sequence[int]`): the B prompts.
        answers (`Sequence[int]`): the n indices of completions that are compared.
        against (`Sequence[int]`): the N indices of completions that they are compared with.
    """
    row, first, second = ({x: i for i, x in enumerate(values)} for values in (rows, answers, against))
    p = np.full((len(rows), len(answers), len(against)), np.nan)
    for record in records:
        i, j, preference = record["first_index"], record["second_index"], record["preference"]
        if preference is None:
            continue
        if i in first and j in second:
            p[row[record["row"]], first[i], second[j]] = preference
        elif j in first and i in second:
            p[row[record["row"]], first[j], second[i]] = 1 - preference
    return p


def best_of(p: np.ndarray) -> np.ndarray:
    """
    P(the best of n answers beats each policy), of shape `(B, N)`.

    The best one against a policy is the one that wins most against the answers of the *other* policies: if the answer
    that it is to beat had a part in the choice, it would win by luck against this one answer.

    Args:
        p (`np.ndarray` of shape `(B, n, N)`): P(answer k beats the policy's), `nan` where it was not judged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an answer that no other policy was compared with
        others = [np.nanmean(np.delete(p, j, axis=2), axis=2) for j in range(p.shape[2])]
    scores = np.stack(others, axis=2)
    best = np.where(np.isnan(scores), -1.0, scores).argmax(axis=1)
    chosen = np.take_along_axis(p, best[:, None], axis=1)[:, 0]
    return np.where(np.isnan(scores).all(axis=1), np.nan, chosen)


def with_responders(matrix: WinRateMatrix, further: Mapping[str, np.ndarray], count: int) -> WinRateMatrix:
    """
    The matrix with a policy more for each that has further answers: the best of `count` of them. It is compared with
    the policies only.
    """
    names, size = list(matrix.names), len(matrix)
    p = np.full((len(matrix.preferences), size + len(further), size + len(further)), np.nan)
    p[:, :size, :size] = matrix.preferences
    for place, (name, verdict) in enumerate(further.items(), start=size):
        wins = best_of(verdict[:, :count])
        p[:, place, :size], p[:, :size, place] = wins, 1 - wins
        names.append(f"best of {count} of {name}")
    return WinRateMatrix(names, p, **matrix.resampling)
