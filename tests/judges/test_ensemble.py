# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures and votes, compared with what each judge says alone."""

import itertools
import json
import math

import numpy as np
import pytest

from trl_nash.judges import CallableJudge, PairwiseJudge, RandomJudge, RewardJudge
from trl_nash.judges.base import Abstained
from trl_nash.judges.ensemble import EnsembleJudge
from trl_nash.judges.store import JudgementStore


class Constant(PairwiseJudge):
    """`P(a ≻ b) = value` if a comes before b in the alphabet."""

    symmetric = True

    def __init__(self, value):
        self.value = value

    def judge(self, prompts, first, second):
        return [self.value if a < b else 1 - self.value for a, b in zip(first, second, strict=True)]


def ensemble(*values, **options):
    return EnsembleJudge([Constant(value) for value in values], **options)


def rank(order):
    """Bradley-Terry with rewards 0, 2, 4: transitive."""
    return RewardJudge(lambda completions: [2.0 * order.index(text) for text in completions])


def test_mixture():
    """(3 * .9 + 1 * .5) / 4 = .8"""
    judge = ensemble(0.9, 0.5, weights=[3, 1])
    assert judge(["x", "x", "x"], ["a", "b", "a"], ["b", "a", "a"]) == pytest.approx([0.8, 0.2, 0.5])
    assert ensemble(0.9, 0.4)(["x"], ["a"], ["b"]) == pytest.approx([0.65])


@pytest.mark.parametrize(
    "values, weights, expected",
    [
        ((0.6, 0.6, 0.0), None, 1.0),  # two against one, though their mean is .4
        ((0.6, 0.6, 0.0), (1, 1, 3), 0.0),
        ((0.9, 0.4), None, 0.5),
        ((0.6, 0.6, 0.4), (0.1, 0.2, 0.3), 0.5),  # .1 + .2 is .3 but for rounding
        ((0.5, 0.5, 0.6), None, 1.0),  # who is undecided does not vote
        ((0.5, 0.5), None, 0.5),
    ],
)
def test_majority(values, weights, expected):
    judge = ensemble(*values, weights=weights, rule="majority")
    assert judge(["x", "x"], ["a", "b"], ["b", "a"]) == [expected, 1 - expected]


def test_mixtures_of_transitive_judges_are_cyclic():
    """Condorcet: three orders of a, b, c that are shifted; every pair is won by two of three."""
    judges = [rank("cba"), rank("acb"), rank("bac")]  # from worst to best
    for rule in ("mean", "majority"):
        preference = EnsembleJudge(judges, rule=rule).compare(["x"], [["a", "b", "c"]], [(0, 1), (1, 2), (2, 0)])
        assert (preference > 0.5).all()
    sigmoid = 1 / (1 + np.exp(-np.array([2.0, 2.0, -4.0])))  # reward differences of a pair under the three
    mixture = EnsembleJudge(judges).compare(["x"], [["a", "b", "c"]], [(0, 1)])
    assert mixture.item() == pytest.approx(sigmoid.mean(), abs=1e-12)


@pytest.mark.parametrize("rule", ["mean", "majority"])
def test_opposite_preferences_add_up_to_one_to_the_last_bit(rule):
    judge = EnsembleJudge([RandomJudge(seed) for seed in range(5)], weights=[0.1, 0.2, 0.3, 0.15, 0.7], rule=rule)
    first, second = [f"a{k}" for k in range(1000)], [f"b{k}" for k in range(1000)]
    there, back = judge(["x"] * 1000, first, second), judge(["x"] * 1000, second, first)
    assert {p + q for p, q in zip(there, back, strict=True)} == {1.0}


def test_one_judge_is_itself():
    first, second = [f"a{k}" for k in range(100)], [f"b{k}" for k in range(100)]
    alone = RandomJudge()(["x"] * 100, first, second)
    assert EnsembleJudge([RandomJudge()])(["x"] * 100, first, second) == pytest.approx(alone, abs=1e-15)


@pytest.mark.parametrize("rule", ["mean", "majority"])
def test_abstention_of_one_is_an_abstention(rule):
    def silent(prompts, first, second):
        return [Abstained("too long") if "a" in (a, b) else 0.5 for a, b in zip(first, second, strict=True)]

    judge = EnsembleJudge([Constant(0.9), silent], rule=rule)
    preference = judge(["x", "x"], ["a", "b"], ["b", "c"])
    assert math.isnan(preference[0]) and not math.isnan(preference[1])
    assert judge.tally.abstained == {"too long": 1}
    assert judge.tally.asked == 6  # two of the symmetric judge, four of the other
    assert judge.tally.take().both_orders == 1 and judge.judges[1].tally.asked == 0


def test_members_by_name_with_arguments():
    judge = EnsembleJudge(["random:3", {"judge": "random", "seed": 4}, lambda prompts, first, second: [0.5]])
    assert [type(member) for member in judge.judges] == [RandomJudge, RandomJudge, CallableJudge]
    assert [member.seed for member in judge.judges[:2]] == [3, 4]


def test_arguments_of_the_caller_are_left_alone():
    spec = {"judge": "random", "seed": 4}
    EnsembleJudge([spec])
    assert spec == {"judge": "random", "seed": 4}


def test_members_see_their_columns_and_their_own_cache(tmp_path):
    class Right(PairwiseJudge):
        cache = JudgementStore(tmp_path / "cache.sqlite")
        identity = "right"
        asked = 0

        def judge(self, prompts, first, second, answer):
            self.asked += len(prompts)
            return [float(a == right) for a, right in zip(first, answer, strict=True)]

    judge = EnsembleJudge([Constant(0.5), Right()])
    columns = {"answer": ["a", "b"], "row": [0, 1]}
    for _ in range(2):
        assert judge(["x", "x"], ["a", "a"], ["b", "b"], **columns) == [0.75, 0.25]
    assert judge.judges[1].asked == 4
    assert judge.tally.cached == 4


def test_reward_models_score_each_completion_once():
    scored = []

    def reward(completions):
        scored.extend(completions)
        return [float(len(text)) for text in completions]

    pairs = list(itertools.combinations(range(4), 2))
    EnsembleJudge([RewardJudge(reward), Constant(0.5)]).compare(["x"], [["a", "bb", "ccc", "dddd"]], pairs)
    assert len(scored) == 4


def test_identity():
    class Named(Constant):
        @property
        def identity(self):
            return f"constant {self.value}"

    def of(*values, **options):
        return EnsembleJudge([Named(value) for value in values], **options).identity

    assert json.loads(of(0.5, 0.6))["of"] == ["constant 0.5", "constant 0.6"]
    others = [of(0.5), of(0.5, 0.7), of(0.5, 0.6, weights=[1, 2]), of(0.5, 0.6, rule="majority")]
    assert len({of(0.5, 0.6), *others}) == 5
    assert EnsembleJudge([Named(0.5), Constant(0.5)]).identity is None


@pytest.mark.parametrize(
    "judges, options, message",
    [
        ([], {}, r"`judges` is a list of judges, with at least one; got a list"),
        ("random", {}, "`judges` is a list of judges, with at least one; got a str"),
        (["random"], {"weights": [1, 2]}, "`weights` has 2 entries for 1 `judges`"),
        (["random"] * 2, {"weights": [1, -1]}, r"`weights` must not be negative, and not all 0; got \[1.0, -1.0\]"),
        (["random"] * 2, {"weights": [0, 0]}, "`weights` must not be negative, and not all 0"),
        (["random"], {"weights": [math.nan]}, "`weights` must not be negative"),
        (["random"], {"rule": "median"}, "`rule` is 'mean' or 'majority'; got 'median'"),
        ([{"seed": 1}], {}, "has its name under the key `judge`"),
        ([{"judge": "random", "sed": 1}], {}, "'random' takes the arguments seed"),
        (["randm"], {}, "Unknown judge 'randm', did you mean 'random'"),
    ],
)
def test_mistakes_are_explained(judges, options, message):
    with pytest.raises(ValueError, match=message):
        EnsembleJudge(judges, **options)


def test_arguments_of_different_length():
    with pytest.raises(ValueError, match="2 prompts but 1 values of `second`"):
        ensemble(0.5)(["x", "y"], ["a", "a"], ["b"])
