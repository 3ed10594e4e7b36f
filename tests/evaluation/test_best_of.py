# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The best of n answers: its win rate against an enumeration of everything that can be drawn."""

from itertools import product

import numpy as np
import pytest

from trl_nash.evaluation import WinRateMatrix
from trl_nash.evaluation.arena.best_of import best_of, verdicts, with_responders


GAME = np.array([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]])  # a circle
POLICIES = np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])


def enumerated(responder: np.ndarray, j: int, n: int) -> float:
    """P(best of n answers of the responder beats policy j), when it is chosen against answers of the other two."""
    panel = np.delete(POLICIES, j, 0)
    total = 0.0
    for seen in product(range(3), repeat=2):
        for drawn in product(range(3), repeat=n):
            scores = [GAME[answer, list(seen)].mean() for answer in drawn]
            best = drawn[int(np.argmax(scores))]
            total += panel[[0, 1], seen].prod() * responder[list(drawn)].prod() * (GAME[best] @ POLICIES[j])
    return total


@pytest.mark.parametrize("n", [1, 2, 4])
def test_win_rates_are_those_of_the_enumeration(n):
    generator, prompts = np.random.default_rng(n), 40_000
    answers = np.stack([generator.choice(3, size=prompts, p=policy) for policy in POLICIES], 1)
    drawn = generator.choice(3, size=(prompts, n), p=POLICIES[0])
    wins = best_of(GAME[drawn[:, :, None], answers[:, None, :]])
    for j in range(3):
        error = wins[:, j].std() / prompts**0.5
        assert wins[:, j].mean() == pytest.approx(enumerated(POLICIES[0], j, n), abs=4 * error)
    if n > 1:  # it answers better than one that sees the answer could: that one would win by luck against it
        lucky = GAME[drawn[:, :, None], answers[:, None, :]].max(1).mean(0)
        assert (lucky > wins.mean(0)).all()


def test_what_was_not_judged():
    p = np.array([[[0.9, np.nan, 0.4], [0.2, 0.6, 0.5]], [[np.nan] * 3, [0.1, 0.3, np.nan]]])
    wins = best_of(p)
    # Against 0 by 1 and 2: .4 or .55; against 1 by 0 and 2: .65 or .35; against 2 by 0 and 1: .9 or .4.
    np.testing.assert_allclose(wins[0], [0.2, np.nan, 0.4])
    np.testing.assert_allclose(wins[1], [0.1, 0.3, np.nan])


def test_verdicts_of_records_in_both_directions():
    records = [
        {"row": 7, "first_index": 0, "second_index": 5, "preference": 0.2},
        {"row": 7, "first_index": 5, "second_index": 6, "preference": 0.9},
        {"row": 3, "first_index": 5, "second_index": 6, "preference": None},
        {"row": 3, "first_index": 0, "second_index": 6, "preference": 0.4},
    ]
    p = verdicts(records, [3, 7], answers=[5], against=[0, 6])
    np.testing.assert_allclose(p, [[[np.nan, np.nan]], [[0.8, 0.9]]])


def test_responders_stand_beside_the_policies():
    p = np.array([[[0.5, 0.7], [0.3, 0.5]]] * 4)
    further = np.tile([[[0.6, 0.8], [0.7, 0.9], [1.0, 0.0]]], (4, 1, 1))
    matrix = with_responders(WinRateMatrix(["a", "b"], p), {"b": further}, 2)
    assert matrix.names == ("a", "b", "best of 2 of b")
    # Against a the answer that does best against b, and the other way round, of the first two.
    np.testing.assert_allclose(matrix.rates[2], [0.7, 0.9, 0.5])
    np.testing.assert_allclose(matrix.rates[:2, :2], p[0])
