# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What judgements say of a judge.

Which completion of a pair is called the first is often chance, so all but the mean preference are the same whichever
it is: they are those of the file with every pair in both orders.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..judges.length import length_coefficient, length_difference


BINS = 10  # of the confidence, from .5 to 1
SMALLEST = 1e-6  # probability in a log loss, which is infinite for a sure judge that is wrong once


def measure(records: Sequence[dict[str, Any]], prefix: str = "") -> dict[str, Any]:
    """
    The figures of one judge.

    Args:
        records (`Sequence[dict]`): judgements as [`Output`] has them.
        prefix (`str`, *optional*): `"second_"` for the second judge.

    Returns:
        `dict[str, Any]`: `pairs`, of which `equal` have equal completions and are left out of all that follows;
        `judged` and `abstained` (by reason); `mean_preference` of the first completion and its `standard_error` (pairs
        of a row are not independent: rows are); `ties`, a share; `triples` judged in full and `cycle_rate` among them;
        `longer_wins`, the mean preference of the longer completion; `length_correlation` of preference - ½ with the
        relative difference of lengths in characters; `length_coefficient`. `nan` is what cannot be known.
    """
    different = [record for record in records if record["first"] != record["second"]]
    p = preferences(different, prefix)
    judged = ~np.isnan(p)
    first, second = ([record[side] for record in different] for side in ("first", "second"))
    x = length_difference(first, second)
    unequal = judged & (x != 0)
    cycles, triples = count_cycles(records, prefix)
    return {
        "pairs": len(records),
        "equal": len(records) - len(different),
        "judged": int(judged.sum()),
        "abstained": dict(
            Counter(r[f"{prefix}abstained"] for r in different if r[f"{prefix}abstained"]).most_common()
        ),
        "mean_preference": _mean(p[judged]),
        "standard_error": _standard_error(p[judged], np.array([r["row"] for r in different])[judged]),
        "ties": _mean(p[judged] == 0.5),
        "triples": triples,
        "cycle_rate": cycles / triples if triples else math.nan,
        "longer_wins": _mean(np.where(x > 0, p, 1 - p)[unequal]),
        "length_correlation": correlation(p[judged] - 0.5, x[judged]),
        "length_coefficient": length_coefficient(first, second, p) if unequal.any() else math.nan,
    }


def agreement(p: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """
    How well preferences predict outcomes.

    Args:
        p (`np.ndarray` of shape `(N,)`): P(first wins) of a judge.
        y (`np.ndarray` of shape `(N,)`): that of the labels or of another judge. Pairs with a `nan` are left out.

    Returns:
        `dict[str, Any]`: `pairs`; `decided`, those with y ≠ ½, and the `accuracy` on them, in which a tie of the judge
        is half right; `brier`, the mean of (p - y)²; `log_loss` in nats, with p at least 1e-6 from 0 and 1; `ece`, the
        mean distance of confidence and share of right answers in the bins of `calibration`; `correlation` of p - ½
        and y - ½.
    """
    known = ~(np.isnan(p) | np.isnan(y))
    p, y = p[known], y[known]
    decided = y != 0.5
    right = np.where(p == 0.5, 0.5, (p > 0.5) == (y > 0.5))[decided]
    q = p.clip(SMALLEST, 1 - SMALLEST)
    table = calibration(p, y)
    return {
        "pairs": len(p),
        "decided": int(decided.sum()),
        "accuracy": _mean(right),
        "brier": _mean((p - y) ** 2),
        "log_loss": _mean(-(y * np.log(q) + (1 - y) * np.log(1 - q))),
        "ece": sum(b["pairs"] * abs(b["confidence"] - b["right"]) for b in table) / len(p) if len(p) else math.nan,
        "correlation": correlation(p - 0.5, y - 0.5),
        "calibration": table,
    }


def calibration(p: np.ndarray, y: np.ndarray) -> list[dict[str, float]]:
    """
    Bins of the confidence max(p, 1 - p), each with its limits `low` and `high`, number of `pairs`, mean `confidence`
    and how often the judge was `right` (of a tie: half). Empty bins are left out.
    """
    confidence = np.maximum(p, 1 - p)
    right = np.where(p > 0.5, y, np.where(p < 0.5, 1 - y, 0.5))
    edges = np.linspace(0.5, 1.0, BINS + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, BINS - 1)
    return [
        {
            "low": float(edges[b]),
            "high": float(edges[b + 1]),
            "pairs": int((index == b).sum()),
            "confidence": _mean(confidence[index == b]),
            "right": _mean(right[index == b]),
        }
        for b in np.unique(index)
    ]


def count_cycles(records: Sequence[dict[str, Any]], prefix: str = "") -> tuple[int, int]:
    """
    Cycles (a beats b beats c beats a) among the triples of completions whose three pairs were judged, and the number
    of these triples: [`~trl_nash.objectives.cycle_rate`] is their ratio.
    """
    rows: dict[int, dict[tuple[int, int], float]] = defaultdict(dict)
    for record, p in zip(records, preferences(records, prefix), strict=True):
        rows[record["row"]][record["first_index"], record["second_index"]] = np.sign(p - 0.5)
    groups = defaultdict(list)
    for majority in rows.values():
        groups[1 + max(j for _, j in majority)].append(majority)
    cycles = triples = 0
    for count, group in groups.items():
        if count < 3:
            continue
        beats = np.full((len(group), count, count), np.nan)
        for index, majority in enumerate(group):
            for (i, j), sign in majority.items():
                beats[index, i, j] = sign
        i, j, k = np.array(list(combinations(range(count), 3))).T
        turn = beats[:, i, j] + beats[:, j, k] - beats[:, i, k]
        cycles += int((np.abs(turn) == 3).sum())
        triples += int((~np.isnan(turn)).sum())
    return cycles, triples


def preferences(records: Sequence[dict[str, Any]], prefix: str = "") -> np.ndarray:
    """P(first wins) of one judge, `nan` where it abstained."""
    return column(records, f"{prefix}preference")


def column(records: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """Numbers, `nan` where there is none."""
    values = [record.get(name) for record in records]
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, of values and the same with the opposite sign: that of pairs in both orders."""
    norm = math.sqrt(float((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm else math.nan


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _standard_error(values: np.ndarray, rows: np.ndarray) -> float:
    """Of the mean of `values`, of which those of a row may be alike."""
    if len(set(rows.tolist())) < 2:
        return math.nan
    _, index = np.unique(rows, return_inverse=True)
    deviations = np.bincount(index, weights=values - values.mean())
    count = len(deviations)
    return float(math.sqrt((deviations**2).sum() * count / (count - 1)) / len(values))
