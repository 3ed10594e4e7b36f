# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Taking length out of a preference."""

import math

import numpy as np
import pytest

from trl_nash.judges import CallableJudge, RandomJudge
from trl_nash.judges.base import Abstained
from trl_nash.judges.length import LengthDebiasedJudge, length_coefficient, length_difference


def texts(count=400, seed=0):
    """Pairs of texts "q n...": the first letter is the quality, the rest is length, independent of it."""
    generator = np.random.default_rng(seed)
    quality, length = generator.integers(0, 10, (2, count)), generator.integers(0, 60, (2, count))
    return [[f"{q}{'n' * n}" for q, n in zip(*side, strict=True)] for side in zip(quality, length, strict=True)]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def likes_length(c, quality=0.0):
    """`P = σ(c x + quality (q_a - q_b))`"""

    def judge(prompts, first, second):
        x = length_difference(first, second)
        return [sigmoid(c * d + quality * (int(a[0]) - int(b[0]))) for d, a, b in zip(x, first, second, strict=True)]

    judge.symmetric = True
    return judge


def test_difference():
    assert length_difference(["aaa", "a", "", "a"], ["a", "aaa", "", ""]).tolist() == [0.5, -0.5, 0.0, 1.0]


@pytest.mark.parametrize("c", [-1.5, 0.0, 0.7, 12.0])
def test_coefficient_is_found(c):
    """Preferences that are exactly σ(c x)."""
    first, second = texts()
    preference = likes_length(c)([""] * 400, first, second)
    assert length_coefficient(first, second, preference) == pytest.approx(c, abs=1e-6)


def test_coefficient_is_that_of_a_logistic_regression():
    """Verdicts of 0 and 1; the likelihood is maximised by another method: a fine grid."""
    first, second = texts()
    verdicts = np.random.default_rng(1).random(400) < likes_length(1.3)([""] * 400, first, second)
    x = length_difference(first, second)
    grid = np.linspace(0, 3, 3001)
    p = 1 / (1 + np.exp(-grid[:, None] * x))
    likelihood = np.where(verdicts, np.log(p), np.log(1 - p)).sum(1)
    assert length_coefficient(first, second, verdicts) == pytest.approx(grid[likelihood.argmax()], abs=1e-3)


def test_coefficient_does_not_depend_on_the_order_of_pairs():
    first, second = texts()
    preference = np.array(RandomJudge()(["x"] * 400, first, second))
    there = length_coefficient(first, second, preference)
    assert length_coefficient(second, first, 1 - preference) == pytest.approx(there, abs=1e-9)


def test_abstentions_are_left_out():
    first, second = texts()
    preference = np.array(likes_length(2.0)([""] * 400, first, second))
    preference[::3] = np.nan
    assert length_coefficient(first, second, preference) == pytest.approx(2.0, abs=1e-6)


def test_extremes():
    assert length_coefficient(["aa", "a"], ["a", "aa"], [1.0, 0.0]) == math.inf
    assert length_coefficient(["aa", "a"], ["a", "aa"], [0.0, 1.0]) == -math.inf
    for first, preference in ((["aa"], [math.nan]), (["b"], [0.9])):
        with pytest.raises(ValueError, match="needs judged pairs that differ in length"):
            length_coefficient(first, ["a"], preference)


def test_a_judge_of_length_alone_has_nothing_left():
    first, second = texts()
    judge = LengthDebiasedJudge(likes_length(2.0), coefficient=2.0)
    assert judge(["x"] * 400, first, second) == pytest.approx([0.5] * 400, abs=1e-12)


@pytest.mark.parametrize("hard", [False, True])
def test_what_is_left_does_not_depend_on_length(hard):
    """`Σ x (P - ½)` falls to 0 (to a fraction, where something is cut off), and quality still decides."""
    first, second = texts()
    inner = likes_length(1.5, quality=0.1)

    def judge(prompts, first, second):
        preference = inner(prompts, first, second)
        return [float(p > 0.5) + 0.5 * (p == 0.5) for p in preference] if hard else preference

    prompts, x = ["x"] * 400, length_difference(first, second)
    biased = np.array(judge(prompts, first, second))
    debiased = LengthDebiasedJudge(judge, coefficient=length_coefficient(first, second, biased))
    left = np.array(debiased(prompts, first, second))
    slope, slope_left = (np.sum(x * (p - 0.5)) for p in (biased, left))
    assert abs(slope_left) < (0.5 if hard else 1e-6) * abs(slope)
    quality = np.array([int(a[0]) - int(b[0]) for a, b in zip(first, second, strict=True)])
    assert np.corrcoef(quality, left)[0, 1] > np.corrcoef(quality, biased)[0, 1] > 0.2


def test_opposite_preferences_add_up_to_one_to_the_last_bit():
    first, second = texts()
    judge = LengthDebiasedJudge("random", coefficient=1.7, seed=3)
    there, back = judge(["x"] * 400, first, second), judge(["x"] * 400, second, first)
    assert {p + q for p, q in zip(there, back, strict=True)} == {1.0}
    assert min(there) == 0.0 and max(there) == 1.0  # cut off


def test_inner_judge_keeps_its_columns_reasons_and_counts():
    def judge(prompts, first, second, answer):
        return [
            Abstained("refused") if right is None else float(a == right)
            for a, right in zip(first, answer, strict=True)
        ]

    debiased = LengthDebiasedJudge(CallableJudge(judge), coefficient=1.0)
    preference = debiased(["x", "x"], ["a", "a"], ["b", "b"], answer=["a", None], row=[0, 1])
    assert preference[0] == 1.0 and math.isnan(preference[1])
    assert debiased.tally.abstained == {"refused": 1} and debiased.tally.asked == 4


def test_identity():
    assert LengthDebiasedJudge(RandomJudge(), coefficient=1.0).identity is None

    class Named(RandomJudge):
        identity = "named"

    one, other = (LengthDebiasedJudge(Named(), coefficient=c).identity for c in (1.0, 2.0))
    assert "named" in one and one != other


@pytest.mark.parametrize("coefficient", [math.nan, math.inf])
def test_coefficient_must_be_finite(coefficient):
    with pytest.raises(ValueError, match="`coefficient` must be a finite number"):
        LengthDebiasedJudge("random", coefficient=coefficient)
