# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import functools

import pytest

from trl_nash.judges import CallableJudge


def always_first(prompts, first, second):
    return [1.0] * len(prompts)


async def asynchronous(prompts, first, second):
    return [0.5] * len(prompts)


class AsynchronousObject:
    async def __call__(self, prompts, first, second):
        return [0.5] * len(prompts)


class Longer:
    """A judge object that counts questions."""

    def __init__(self):
        self.questions = 0

    def __call__(self, prompts, first, second):
        self.questions += len(prompts)
        return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


def test_function_is_asked_in_both_orders():
    assert CallableJudge(always_first)(["x"], ["a"], ["b"]) == [0.5]


def test_callable_object():
    judge = Longer()
    assert CallableJudge(judge)(["x"], ["aa"], ["b"]) == [1.0]
    assert judge.questions == 2


@pytest.mark.parametrize("by", ["attribute", "argument"])
def test_symmetric_function_is_asked_once(by):
    function = Longer()
    if by == "attribute":
        function.symmetric = True
    judge = CallableJudge(function, symmetric=True if by == "argument" else None)
    assert judge(["x"], ["b"], ["aa"]) == [0.0]
    assert function.questions == 1


def test_argument_overrides_attribute():
    function = Longer()
    function.symmetric = True
    CallableJudge(function, symmetric=False)(["x"], ["aa"], ["b"])
    assert function.questions == 2


def test_columns_by_name():
    def right(prompts, first, second, *, answer):
        return [float(a == r) for a, r in zip(first, answer, strict=True)]

    assert CallableJudge(right)(["x", "x"], ["a", "a"], ["b", "b"], answer=["a", "b"], row=[0, 1]) == [1.0, 0.0]


def test_all_columns_with_kwargs():
    seen = {}

    def judge(prompts, first, second, **columns):
        seen.update(columns)
        return [0.5] * len(prompts)

    CallableJudge(judge)(["x"], ["a"], ["b"], answer=["c"], row=[0])
    assert seen == {"answer": ["c", "c"], "row": [0, 0]}  # two values: one for each order


def test_arguments_may_have_any_name():
    """A dataset column named like one of the function's own first three arguments must not collide with it."""

    def named(question, a, b):
        return [float(x > y) for x, y in zip(a, b, strict=True)]

    def with_kwargs(question, a, b, **columns):
        assert columns == {}
        return named(question, a, b)

    for judge in (named, with_kwargs):
        assert CallableJudge(judge)(["x"], ["2"], ["1"], a=["column"], question=["column"]) == [1.0]


def test_columns_that_are_not_taken_do_not_repeat_questions():
    function = Longer()
    CallableJudge(function)(["x"] * 3, ["aa"] * 3, ["b"] * 3, row=[0, 1, 2])
    assert function.questions == 2


def test_partial():
    def judge(prompts, first, second, power):
        return [float(len(a) ** power > len(b)) for a, b in zip(first, second, strict=True)]

    assert CallableJudge(functools.partial(judge, power=2))(["x"], ["aa"], ["bbb"]) == [0.5]  # 4 > 3, but also 9 > 2
    assert CallableJudge(functools.partial(judge, power=1))(["x"], ["aa"], ["bbb"]) == [0.0]


def test_errors_name_the_function():
    with pytest.raises(ValueError, match="^one_short returned 1 values; expected 2"):

        def one_short(prompts, first, second):
            return [0.5] * (len(prompts) - 1)

        CallableJudge(one_short)(["x"], ["a"], ["b"])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (3, r"got 3 \(int\)"),
        (asynchronous, "asynchronous is asynchronous"),
        (AsynchronousObject(), "AsynchronousObject is asynchronous"),
        (Longer, r"Longer is a class; pass an instance of it: `Longer\(\.\.\.\)`"),
        (lambda completions, **columns: [0.0], r"RewardJudge"),
    ],
    ids=["no callable", "async function", "async object", "class", "reward function"],
)
def test_what_is_no_judge(function, message):
    with pytest.raises(TypeError, match=message):
        CallableJudge(function)
