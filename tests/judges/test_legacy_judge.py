# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges written for TRL 1.13 and before run unchanged."""

import math

import jinja2
import numpy as np
import pytest

from trl_nash.judges import BasePairwiseJudge, as_judge


class Longest(BasePairwiseJudge):
    """Index of the longer completion; the first one in a tie; -1 where a completion is empty."""

    def __init__(self):
        self.calls = []

    def judge(self, prompts, completions, shuffle_order=True):
        self.calls.append((prompts, completions, shuffle_order))
        return [-1 if "" in pair else int(len(pair[1]) > len(pair[0])) for pair in completions]


class Scorer(BasePairwiseJudge):
    """PairRM's signature: `return_scores` gives the probability that the first wins."""

    def judge(self, prompts, completions, shuffle_order=True, return_scores=False, temperature=1.0):
        if not return_scores:
            raise AssertionError("ranks were asked for though there are scores")
        return [{("a", "b"): 0.9, ("b", "a"): 0.3}.get(tuple(pair), -1) for pair in completions]


class Returns(BasePairwiseJudge):
    def __init__(self, ranks):
        self.ranks = ranks

    def judge(self, prompts, completions, shuffle_order=True):
        return self.ranks


def test_rank_is_the_index_of_the_winner():
    """Two orders of a tie give the win to each once: .5, where shuffling would have made it a coin toss."""
    judge = as_judge(Longest())
    assert judge(["x"] * 3, ["aa", "a", "a"], ["b", "bb", "b"]) == [1.0, 0.0, 0.5]


def test_old_judge_sees_strings_pairs_and_no_shuffling():
    legacy = Longest()
    as_judge(legacy)(["x"], ["a"], ["b"])
    assert legacy.calls == [(["x", "x"], [["a", "b"], ["b", "a"]], False)]


def test_failure_abstains():
    preference = as_judge(Longest())(["x", "x"], ["", "aa"], ["b", "b"])
    assert math.isnan(preference[0])
    assert preference[1] == 1.0


def test_scores_are_used_where_there_are_any():
    preference = as_judge(Scorer())(["x", "x"], ["a", "a"], ["b", "c"])
    assert preference[0] == pytest.approx(0.8)  # (.9 + 1 - .3) / 2
    assert math.isnan(preference[1])


def test_kwargs_do_not_promise_scores():
    """A judge that swallows `return_scores` returns ranks: rank 0 is a win of the first, not a probability of 0."""

    class Swallows(BasePairwiseJudge):
        def judge(self, prompts, completions, shuffle_order=True, **kwargs):
            assert "return_scores" not in kwargs
            return [int(pair[1] == "good") for pair in completions]

    assert as_judge(Swallows())(["x"], ["good"], ["bad"]) == [1.0]


def test_subclass_without_shuffle_order():
    class Plain(BasePairwiseJudge):
        def judge(self, prompts, completions):
            return [int(pair[1] == "good") for pair in completions]

    assert as_judge(Plain())(["x"], ["bad"], ["good"]) == [0.0]


def test_judge_of_another_package_with_the_same_method():
    class Duck:
        def judge(self, prompts, completion_pairs, shuffle_order=False):
            return np.array([int(len(b) > len(a)) for a, b in completion_pairs])

    assert as_judge(Duck())(["x"], ["aa"], ["b"]) == [1.0]


def test_conversations_are_rendered_as_trl_did():
    template = (
        "{% for message in messages %}{{message['role'].capitalize() + ': ' + message['content'] + '\n\n'}}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi!\n"}]
    legacy = Longest()
    as_judge(legacy)([messages], ["a"], ["b"])
    assert legacy.calls[0][0] == [jinja2.Template(template).render(messages=messages)] * 2


def test_columns_are_not_passed():
    assert as_judge(Longest())(["x"], ["aa"], ["b"], answer=["b"]) == [1.0]


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        ([0, 2], "Returns returned 2.0; expected the index of the better completion"),
        ([0, 0.5], "Returns returned 0.5; expected the index"),
        ([0], "Returns returned 1 values; expected 2"),
        (["0", "1"], r"Returns returned '0' \(str\)"),
        (None, "Returns returned None"),
    ],
)
def test_wrong_answers_are_named(ranks, message):
    with pytest.raises(ValueError, match=message):
        as_judge(Returns(ranks))(["x"], ["a"], ["b"])


def test_no_rank_is_a_failure():
    assert math.isnan(as_judge(Returns([0, None]))(["x"], ["a"], ["b"])[0])
