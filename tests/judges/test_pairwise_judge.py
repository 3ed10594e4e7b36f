# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The contract that every judge gets from `PairwiseJudge`: fair, asked once, checked."""

import math
import random

import numpy as np
import pytest
import torch

from trl_nash.judges import PairwiseJudge


class TableJudge(PairwiseJudge):
    """Answers from a table `{(first, second): P}` and remembers what it was asked."""

    def __init__(self, table=None, symmetric=False):
        self.table = table or {}
        self.symmetric = symmetric
        self.calls = []

    def judge(self, prompts, first, second):
        self.calls.append(list(zip(prompts, first, second, strict=True)))
        return [self.table.get(pair, 0.5) for pair in zip(first, second, strict=True)]


class FixedJudge(PairwiseJudge):
    """Returns the same answer whatever it is asked."""

    def __init__(self, answer):
        self.answer = answer

    def judge(self, prompts, first, second):
        return self.answer


class ColumnJudge(PairwiseJudge):
    """Names one column of the dataset, and remembers it."""

    def __init__(self):
        self.calls = []

    def judge(self, prompts, first, second, answer):
        self.calls.append(list(zip(prompts, first, second, answer, strict=True)))
        return [float(a == right) for a, right in zip(first, answer, strict=True)]


def test_both_orders_are_averaged():
    """P(a>b) = .9 with a first, P(b>a) = .3 with b first: (.9 + (1 - .3)) / 2 = .8, and .2 the other way round."""
    judge = TableJudge({("a", "b"): 0.9, ("b", "a"): 0.3})
    assert judge(["x"], ["a"], ["b"]) == pytest.approx([0.8])
    assert judge(["x"], ["b"], ["a"]) == pytest.approx([0.2])


def test_position_bias_cancels():
    judge = FixedJudge([0.9, 0.9])
    assert judge(["x"], ["a"], ["b"]) == pytest.approx([0.5])


@pytest.mark.parametrize("silence", [math.nan, None])
@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_no_opinion_in_one_order_is_no_opinion(order, silence):
    judge = TableJudge({order: silence, ("c", "d"): 1.0, ("d", "c"): 0.0})
    abstained, decided = judge(["x", "x"], ["a", "c"], ["b", "d"])
    assert math.isnan(abstained)
    assert decided == 1.0


def test_equal_completions_are_not_asked():
    judge = TableJudge()
    assert judge(["x", "y"], ["a", ""], ["a", ""]) == [0.5, 0.5]
    assert judge.calls == []


def test_empty_batch():
    judge = TableJudge()
    assert judge([], [], []) == []
    assert judge.calls == []


def test_repeated_questions_are_asked_once_and_in_one_call():
    judge = TableJudge({("a", "b"): 1.0, ("b", "a"): 0.0})
    assert judge(["x"] * 4, ["a", "b", "a", "c"], ["b", "a", "b", "c"]) == [1.0, 0.0, 1.0, 0.5]
    assert judge.calls == [[("x", "a", "b"), ("x", "b", "a")]]


def test_other_prompt_is_another_question():
    judge = TableJudge()
    judge(["x", "y", "x"], ["a", "a", "a"], ["b", "b", "b"])
    assert judge.calls == [[("x", "a", "b"), ("x", "b", "a"), ("y", "a", "b"), ("y", "b", "a")]]


def test_equal_conversations_are_one_prompt():
    judge = TableJudge()
    prompts = [[{"role": "user", "content": "x"}] for _ in range(2)] + [[{"role": "system", "content": "x"}]]
    judge(prompts, ["a"] * 3, ["b"] * 3)
    assert [prompt for prompt, _, _ in judge.calls[0]] == [prompts[0], prompts[0], prompts[2], prompts[2]]


def test_symmetric_judge_is_asked_in_one_order():
    judge = TableJudge({("a", "b"): 0.9, ("d", "c"): 0.2}, symmetric=True)
    assert judge(["x"] * 4, ["a", "b", "d", "c"], ["b", "a", "c", "d"]) == pytest.approx([0.9, 0.1, 0.2, 0.8])
    assert judge.calls == [[("x", "a", "b"), ("x", "d", "c")]]


def test_columns_follow_their_row():
    judge = ColumnJudge()
    preference = judge(["x", "y"], ["a", "a"], ["b", "b"], answer=["a", "b"], unused=[0, 1])
    assert preference == [1.0, 0.0]
    assert judge.calls == [[("x", "a", "b", "a"), ("x", "b", "a", "a"), ("y", "a", "b", "b"), ("y", "b", "a", "b")]]


def test_columns_distinguish_questions_and_unused_ones_do_not():
    judge = ColumnJudge()
    judge(["x"] * 3, ["a"] * 3, ["b"] * 3, answer=["a", "b", "a"], row=[0, 1, 2])
    assert [answer for *_, answer in judge.calls[0]] == ["a", "a", "b", "b"]


def test_columns_of_any_type():
    """Objects that JSON does not know are told apart by identity, even if they print alike as long arrays do."""
    asked = []

    class ArrayJudge(PairwiseJudge):
        def judge(self, prompts, first, second, array):
            asked.extend(array)
            return [0.5] * len(prompts)

    one, other = np.zeros(2000), np.zeros(2000)
    other[1000] = 1.0
    ArrayJudge()(["x"] * 3, ["a"] * 3, ["b"] * 3, array=[one, other, one])
    assert [array[1000] for array in asked] == [0.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "answer",
    [
        (0.25, 0.5),
        np.array([0.25, 0.5], dtype=np.float32),
        torch.tensor([0.25, 0.5], dtype=torch.bfloat16),
        [torch.tensor(0.25, requires_grad=True), np.float64(0.5)],
    ],
    ids=["tuple", "array", "bfloat16 tensor", "scalars"],
)
def test_answers_of_any_numeric_type(answer):
    (preference,) = FixedJudge(answer)(["x"], ["a"], ["b"])
    assert preference == 0.375  # (.25 + 1 - .5) / 2
    assert type(preference) is float


def test_verdicts_may_be_booleans():
    class Longer(PairwiseJudge):
        def judge(self, prompts, first, second):
            return (len(a) > len(b) for a, b in zip(first, second, strict=True))

    assert Longer()(["x", "x"], ["aa", "a"], ["a", "b"]) == [1.0, 0.5]


def test_rounding_is_clipped():
    assert FixedJudge([1 + 5e-7, -5e-7])(["x"], ["a"], ["b"]) == [1.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0.5], "FixedJudge returned 1 values; expected 2"),
        ([0.5] * 3, "FixedJudge returned 3 values; expected 2"),
        ([0.5, 1.5], "FixedJudge returned 1.5; expected the probability, from 0 to 1"),
        ([-0.1, 0.5], "FixedJudge returned -0.1; expected the probability"),
        ([0.5, math.inf], "FixedJudge returned inf; expected the probability"),
        (["0.5", "0.5"], r"FixedJudge returned '0.5' \(str\); expected numbers"),
        ("ab", r"FixedJudge returned 'a' \(str\); expected numbers"),
        ([[0.5], [0.5]], r"FixedJudge returned \[0.5\] \(list\); expected numbers"),
        (None, "FixedJudge returned None; expected a list of 2 numbers"),
        (0.5, "FixedJudge returned 0.5; expected a list of 2 numbers"),
    ],
)
def test_wrong_answers_are_named(answer, message):
    with pytest.raises(ValueError, match=message):
        FixedJudge(answer)(["x"], ["a"], ["b"])


def test_arguments_of_different_length():
    with pytest.raises(ValueError, match="2 prompts but 1 values of `second`"):
        TableJudge()(["x", "y"], ["a", "a"], ["b"])
    with pytest.raises(ValueError, match="1 prompts but 2 values of `answer`"):
        ColumnJudge()(["x"], ["a"], ["b"], answer=["a", "b"])


class SumJudge(PairwiseJudge):
    """`P = .5 + (first - second) * prompt / 1000`, all numbers as text: every entry tells where it comes from."""

    def __init__(self):
        self.calls = 0

    def judge(self, prompts, first, second, offset=None):
        self.calls += 1
        offset = offset or [0] * len(prompts)
        return [
            0.5 + (int(a) - int(b)) * int(x) / 1000 + o * (1 if a > b else -1)
            for x, a, b, o in zip(prompts, first, second, offset, strict=True)
        ]


def test_compare_judges_all_pairs_of_all_prompts_in_one_call():
    judge = SumJudge()
    completions = [["1", "2", "4"], ["9", "7", "8"]]
    pairs = [(0, 1), (0, 2), (1, 2), (2, 1), (1, 1)]
    preference = judge.compare(["10", "20"], completions, pairs)
    expected = [
        [0.5 - 0.010, 0.5 - 0.030, 0.5 - 0.020, 0.5 + 0.020, 0.5],
        [0.5 + 0.040, 0.5 + 0.020, 0.5 - 0.020, 0.5 + 0.020, 0.5],
    ]
    assert preference.shape == (2, 5)
    assert preference.dtype == np.float64
    np.testing.assert_allclose(preference, expected, atol=1e-12)
    assert judge.calls == 1


def test_compare_gives_each_pair_the_columns_of_its_prompt():
    preference = SumJudge().compare(
        ["10", "20"],
        [["2", "1"], ["2", "1"]],
        [(0, 1), (1, 0)],
        columns={"offset": [0.1, 0.2], "first": ["a column named as an argument is not passed"] * 2},
    )
    np.testing.assert_allclose(preference, [[0.61, 0.39], [0.72, 0.28]], atol=1e-12)


def test_compare_keeps_abstentions_in_place():
    judge = TableJudge({("b", "c"): math.nan})
    preference = judge.compare(["x"], [["a", "b", "c"]], [(0, 1), (1, 2), (2, 1), (0, 2)])
    assert np.isnan(preference).tolist() == [[False, True, True, False]]


# ---- Orders ----


class RandomTable(PairwiseJudge):
    """Any two numbers for the two orders of a pair: pseudo-random ones of the texts, far from adding up to 1."""

    def judge(self, prompts, first, second):
        return [
            random.Random(f"{x}|{a}|{b}").choice([random.Random(f"{b}|{a}|{x}").random(), 1e-17, 1.0, 0.0, 0.5])
            for x, a, b in zip(prompts, first, second, strict=True)
        ]


@pytest.mark.parametrize("order", ["both", "random"])
def test_opposite_preferences_add_up_to_one_to_the_last_bit(order):
    """In one call and in separate ones."""
    judge = RandomTable()
    judge.order = order
    prompts, first, second = ["x"] * 2000, [f"a{k}" for k in range(2000)], [f"b{k}" for k in range(2000)]
    there, back = judge(prompts, first, second), judge(prompts, second, first)
    assert {p + q for p, q in zip(there, back, strict=True)} == {1.0}
    together = judge(prompts * 2, first + second, second + first)
    assert together == there + back
    assert len(set(there)) > 300


def test_random_order_is_one_order_that_belongs_to_the_pair():
    """Half of the questions; the same order whichever comes first, in any batch; about half of the pairs each way."""
    judge = TableJudge()
    judge.order = "random"
    first, second = [f"a{k}" for k in range(400)], [f"b{k}" for k in range(400)]
    judge(["x"] * 400, first, second)
    asked = judge.calls[0]
    assert len(asked) == 400
    assert 150 < sum(a.startswith("a") for _, a, _ in asked) < 250
    judge(["x"] * 400, second[::-1], first[::-1])
    assert judge.calls[1] == asked[::-1]
    judge(["y"] * 400, first, second)
    assert [pair[1:] for pair in judge.calls[2]] != [pair[1:] for pair in asked]


def test_random_order_pinned():
    """Which order a pair is asked in must not change with the version: a cache has that order's answers."""
    judge = TableJudge()
    judge.order = "random"
    judge(["x"] * 6, list("aaaaaa"), list("bcdefg"))
    assert "".join(a for _, a, _ in judge.calls[0]) == "aadefa"


def test_fixed_order_is_the_order_given():
    judge = TableJudge({("a", "b"): 0.9, ("d", "c"): 0.3})
    judge.order = "fixed"
    assert judge(["x"] * 4, ["a", "d", "b", "a"], ["b", "c", "a", "a"]) == pytest.approx([0.9, 0.3, 0.1, 0.5])
    assert judge.calls == [[("x", "a", "b"), ("x", "d", "c")]]


def test_unknown_order():
    judge = TableJudge()
    judge.order = "second"
    with pytest.raises(ValueError, match="`order` is one of 'both', 'random', 'fixed'; TableJudge has 'second'"):
        judge(["x"], ["a"], ["b"])


def test_wrong_answers_of_judge_each_are_named():
    class Each(FixedJudge):
        def judge_each(self, prompts, first, second):
            yield from enumerate(self.answer)

    with pytest.raises(ValueError, match="Each returned 1.5; expected the probability"):
        Each([0.5, 1.5])(["x"], ["a"], ["b"])
    with pytest.raises(ValueError, match=r"Each returned '1' \(str\)"):
        Each([0.5, "1"])(["x"], ["a"], ["b"])
