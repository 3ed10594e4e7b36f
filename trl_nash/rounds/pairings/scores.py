# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the compared pairs say of each completion."""

import numpy as np

from .base import Compared


def win_table(compared: Compared, count: int) -> np.ndarray:
    """`P(i ≻ j)` of the pairs that were judged, `nan` elsewhere and on the diagonal, of shape (B, K, K)."""
    table = np.full((len(compared.pairs), count, count), np.nan)
    rows, (first, second) = np.arange(len(table))[:, None], np.moveaxis(compared.pairs, -1, 0)
    table[rows, first, second] = compared.preference
    table[rows, second, first] = 1 - compared.preference
    table[:, range(count), range(count)] = np.nan  # rows with fewer pairs are filled up with (0, 0)
    return table


def least_squares(compared: Compared, count: int, ridge: float = 0.0) -> np.ndarray:
    r"""
    Scores that minimise `Σ w (s_i - s_j - (P_ij - ½))² + λ Σ s_i²` over the pairs that were judged; of many minimisers
    (without λ) the smallest.

    Returns:
        `np.ndarray` of shape `(B, K)`: the mean over the group is 0 wherever the pairs connect it.
    """
    judged = ~np.isnan(compared.preference)
    weights = np.where(judged, compared.weights, 0.0)
    target = weights * np.where(judged, compared.preference - 0.5, 0.0)
    rows, (first, second) = np.arange(len(weights))[:, None], np.moveaxis(compared.pairs, -1, 0)
    laplacian, wins = np.zeros((len(weights), count, count)), np.zeros((len(weights), count))
    for i, j, sign in ((first, second, 1), (second, first, -1)):
        np.add.at(laplacian, (rows, i, i), weights)
        np.add.at(laplacian, (rows, i, j), -weights)
        np.add.at(wins, (rows, i), sign * target)
    laplacian += ridge * np.eye(count)
    return (np.linalg.pinv(laplacian, hermitian=True) @ wins[..., None])[..., 0]


def win_rates(compared: Compared, count: int) -> np.ndarray:
    """
    How often each completion beats the K - 1 others, from whatever pairs were judged: of all pairs the mean of its
    verdicts, of fewer what least squares make of them, so that it matters whom a completion has met.

    Returns:
        `np.ndarray` of shape `(B, K)`: `nan` for a completion without a verdict.
    """
    rates = 0.5 + least_squares(compared, count) * count / (count - 1)
    known = (~np.isnan(win_table(compared, count))).any(axis=2)
    return np.where(known, rates, np.nan)
