# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import asyncio
import functools

import pytest
from waiting import PATIENCE

from trl_nash.judges import CallableJudge


def always_first(prompts, first, second):
    return [1.0] * len(prompts)


async def ask(a, b):
    await asyncio.sleep(0)
    return float(len(a) > len(b))


async def asynchronous(prompts, first, second):
    return await asyncio.gather(*[ask(a, b) for a, b in zip(first, second, strict=True)])


class AsynchronousObject:
    async def __call__(self, prompts, first, second):
        return await asynchronous(prompts, first, second)


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
        (Longer, r"Longer is a class; pass an instance of it: `Longer\(\.\.\.\)`"),
        (lambda completions, **columns: [0.0], r"RewardJudge"),
    ],
    ids=["no callable", "class", "reward function"],
)
def test_what_is_no_judge(function, message):
    with pytest.raises(TypeError, match=message):
        CallableJudge(function)


# ---- Asynchronous functions ----


@pytest.mark.parametrize(
    "function",
    [asynchronous, AsynchronousObject(), functools.partial(asynchronous), lambda *rows: asynchronous(*rows)],
    ids=["function", "object", "partial", "returns a coroutine"],
)
def test_asynchronous(function):
    assert CallableJudge(function)(["x"] * 2, ["aa", "a"], ["b", "b"]) == [1.0, 0.5]


def test_asynchronous_questions_are_asked_at_once():
    """Nobody is answered before all 200 have asked."""
    everybody = asyncio.Barrier(200)

    async def ask_together(a, b):
        await asyncio.wait_for(everybody.wait(), PATIENCE)
        return await ask(a, b)

    async def judge(prompts, first, second):
        return await asyncio.gather(*[ask_together(a, b) for a, b in zip(first, second, strict=True)])

    answers = CallableJudge(judge)(["x"] * 100, ["a" * k for k in range(1, 101)], ["b"] * 100)
    assert answers == [0.5] + [1.0] * 99


def test_asynchronous_within_a_running_loop():
    """As in a notebook, whose cells run in a loop."""

    async def cell():
        return CallableJudge(asynchronous)(["x"], ["aa"], ["b"])

    assert asyncio.run(cell()) == [1.0]


def test_all_calls_run_in_one_loop():
    """A client keeps connections of the loop that opened them, and loses them with it."""
    loops = []

    async def judge(prompts, first, second):
        loops.append(asyncio.get_running_loop())
        return [0.5] * len(prompts)

    for _ in range(2):
        CallableJudge(judge)(["x"], ["a"], ["b"])
    assert loops[0] is loops[1] and loops[0].is_running()


def test_asynchronous_errors_reach_the_caller():
    async def judge(prompts, first, second):
        raise ConnectionError("no server")

    with pytest.raises(ConnectionError, match="no server"):
        CallableJudge(judge)(["x"], ["a"], ["b"])
