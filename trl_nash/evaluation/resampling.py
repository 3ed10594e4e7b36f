# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Win rates of resampled prompts, and the limits that follow from them."""

from itertools import combinations

import numpy as np


def weighted_means(preferences: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Means over prompts of shape `(R, N, N)`, for preferences `(B, N, N)` and weights `(R, B)`; `nan` of none."""
    known = ~np.isnan(preferences)
    with np.errstate(invalid="ignore"):
        return np.tensordot(weights, np.where(known, preferences, 0.0), 1) / np.tensordot(weights, known, 1)


def resampled_means(preferences: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """
    Mean win rates of resampled prompts.

    Prompts that all say the same do so in every resample, and one prompt says nothing of others. There a resample has
    a draw whose quantiles are limits of as many verdicts: how many more there may be of which none was seen is as of
    Clopper and Pearson, and these may be 0 or 1. A resample without a verdict on a pair has a single one of them.

    Args:
        preferences (`np.ndarray` of shape `(B, N, N)`): `nan` where a pair was not judged.
        resamples (`int`): R.
        seed (`int`): of the draws.

    Returns:
        `np.ndarray` of shape `(R, N, N)`: `nan` only of pairs that were never judged.
    """
    count, generator = len(preferences), np.random.default_rng(seed)
    means = weighted_means(preferences, generator.multinomial(count, np.full(count, 1 / count), size=resamples))
    for i, j in combinations(range(preferences.shape[1]), 2):
        verdicts, column = preferences[:, i, j], means[:, i, j]
        known = verdicts[~np.isnan(verdicts)]
        if len(known) and (known == known[0]).all():
            column = _unseen(known[0], len(known), generator.random(resamples))
        elif len(known):
            lost = np.isnan(column)
            column[lost] = generator.choice(known, lost.sum())
        means[:, i, j], means[:, j, i] = column, 1 - column
    return means


def _unseen(verdict: float, count: int, draws: np.ndarray) -> np.ndarray:
    """Quantiles of a mean of which `count` prompts all had one verdict, at draws from 0 to 1."""
    low, high = verdict * draws ** (1 / count), 1 - (1 - verdict) * (1 - draws) ** (1 / count)
    return np.where(draws < 0.5, low, high)


def expanded_tail(prompts: int, level: float) -> float:
    """
    The share of resamples below an interval, and above it, which makes up for the narrowness of resamples of few
    prompts ([Hesterberg, 2015](https://arxiv.org/abs/1411.5279), section 5.3).
    """
    from scipy.stats import norm, t

    return float(norm.cdf((prompts / (prompts - 1)) ** 0.5 * t.ppf((1 - level) / 2, prompts - 1)))


def lower_band(value: np.ndarray, found: np.ndarray, tail: float, axis: int | tuple[int, ...]) -> np.ndarray:
    """
    The lower ends of a band, as many standard errors below each figure as suffice for all along an axis at once.

    Args:
        value (`np.ndarray`): the figures.
        found (`np.ndarray` of shape `(R, ...)`): those of resamples.
        tail (`float`): the share of resamples with a figure below the band.
        axis (`int` or `tuple[int, ...]`): of `found`, along which figures are taken together.

    Returns:
        `np.ndarray`: Of the shape of `value`; `nan` where that is.
    """
    error = found.std(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.where(error > 0, (value - found) / error, 0.0).max(axis, keepdims=True)
    return value - np.quantile(below, 1 - tail, axis=0) * np.nan_to_num(error)
