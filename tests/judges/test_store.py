# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The judgement store, and the cache that `PairwiseJudge` makes of it: nothing that was paid for is asked again."""

import math
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trl_nash.judges import PairwiseJudge
from trl_nash.judges.base import Abstained, JudgeError
from trl_nash.judges.store import JudgementStore, as_store, judgement_key


PROMPTS, FIRST, SECOND = ["x"] * 4, ["a", "b", "c", "d"], ["e", "f", "g", "h"]


class CountingJudge(PairwiseJudge):
    """Answers one by one from a table, and keeps what it was asked. Raises behind `fails_after` answers."""

    def __init__(self, cache=None, identity="counting", symmetric=False, answer=0.75, fails_after=math.inf):
        self.cache = as_store(cache)
        self.settings = identity
        self.symmetric = symmetric
        self.answer = answer
        self.fails_after = fails_after
        self.asked = []

    @property
    def identity(self):
        return self.settings

    def judge(self, prompts, first, second, answer=None):
        raise AssertionError("everybody asks through judge_each")

    def judge_each(self, prompts, first, second, answer=None):
        for row in reversed(range(len(prompts))):  # in any order
            if len(self.asked) >= self.fails_after:
                raise JudgeError("The server is gone.")
            self.asked.append((first[row], second[row]))
            yield row, self.answer(first[row], second[row]) if callable(self.answer) else self.answer


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "judgements.sqlite"


# ---- The table ----


def test_values_come_back(path):
    store = JudgementStore(path)
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": {"p": 1.0, "text": "≻"}, "d": None}
    for key, value in values.items():
        store.put(key, value)
    assert JudgementStore(path).get_many([*values, "unknown"]) == values
    store.put("a", 0.5)
    assert store.get_many(["a"]) == {"a": 0.5}
    assert len(store) == 4


def test_any_number_of_keys(path):
    store = JudgementStore(path)
    for number in range(1200):
        store.put(str(number), number)
    assert store.get_many(str(number) for number in range(2400)) == {str(n): n for n in range(1200)}
    assert store.get_many([]) == {}


def test_nothing_is_made_before_the_first_use(path):
    store = JudgementStore(path)
    assert not path.parent.exists()
    assert store.get_many(["a"]) == {}
    assert path.exists()


def test_default_path(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_NASH_CACHE", str(tmp_path))
    assert JudgementStore().path == tmp_path / "judgements.sqlite"
    monkeypatch.delenv("TRL_NASH_CACHE")
    assert JudgementStore().path == Path.home() / ".cache/trl-nash/judgements.sqlite"


def test_cache_argument(path):
    assert as_store(None) is None and as_store(False) is None
    assert as_store(True).path == JudgementStore().path
    assert as_store(str(path)).path == path
    store = JudgementStore(path)
    assert as_store(store) is store


def test_pickled_stores_open_their_own_connection(path):
    store = JudgementStore(path)
    store.put("a", 1)
    assert pickle.loads(pickle.dumps(store)).get_many(["a"]) == {"a": 1}


def test_threads_share_a_store(path):
    store = JudgementStore(path)
    threads = [
        threading.Thread(target=lambda start: [store.put(str(n), n) for n in range(start, start + 100)], args=[start])
        for start in range(0, 800, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get_many(map(str, range(800))) == {str(n): n for n in range(800)}


def write(path, start, count, begin=None):
    store = JudgementStore(path)
    if begin is not None:
        begin.wait()
    for number in range(start, start + count):
        store.put(str(number), number / 7)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_write_at_once(path, method):
    """Four processes that start together, on a file that none of them has made yet: nothing is lost or refused."""
    context = multiprocessing.get_context(method)
    begin = context.Barrier(4)
    processes = [context.Process(target=write, args=(path, 500 * k, 500, begin)) for k in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert JudgementStore(path).get_many(map(str, range(2000))) == {str(n): n / 7 for n in range(2000)}


def test_a_forked_process_does_not_use_its_parents_connection(path):
    store = JudgementStore(path)
    store.put("parent", 1)
    process = multiprocessing.get_context("fork").Process(target=store.put, args=("child", 2))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert store.get_many(["parent", "child"]) == {"parent": 1, "child": 2}


WRITER = """
import sys
from trl_nash.judges.store import JudgementStore
store = JudgementStore(sys.argv[1])
for number in range(10**9):
    store.put(f"{sys.argv[2]}-{number}", number)
    sys.stdout.write(f"{number}\\n")  # said only when it is stored
    sys.stdout.flush()
"""


def test_killed_writers_lose_nothing_that_was_stored(path):
    """Two writers are killed with SIGKILL in the middle of their writes, three times, while the file is in use."""
    for attempt in range(3):
        names = [f"{attempt}-{k}" for k in range(2)]
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stdout=subprocess.PIPE) for name in names
        ]
        for writer in writers:
            for _ in range(50 + 25 * attempt):
                assert writer.stdout.readline()
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        for name, writer in zip(names, writers, strict=True):
            said = writer.stdout.read().split(b"\n")[:-1]  # a last line may be half
            writer.wait()
            count = 50 + 25 * attempt + len(said)
            assert JudgementStore(path).get_many(f"{name}-{n}" for n in range(count)) == {
                f"{name}-{n}": n for n in range(count)
            }
    store = JudgementStore(path)
    store.put("after", 1)
    assert store.get_many(["after"]) == {"after": 1}
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("content", [b"no database at all " * 300, b"SQLite format 3\0" + b"\xff" * 4096])
def test_damaged_file(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"The judgement cache .*judgements.sqlite cannot be used \(.*\): move the"):
        JudgementStore(path).get_many(["a"])
    assert path.read_bytes() == content  # it may hold judgements that someone can rescue


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot be used"):
        JudgementStore(tmp_path / "file" / "judgements.sqlite").put("a", 1)


# ---- Keys ----


def test_keys_are_pinned():
    """A key that changes from one version to the next would forget what was paid for."""
    key = judgement_key('{"judge": "x"}', [{"role": "user", "content": "≻"}], {"b": 1, "a": None}, "first", "second")
    assert key == "cda168a38984607f953fed72cc739bd44b186f681da00cd7cee4541f60eb0e56"


@pytest.mark.parametrize(
    "other",
    [
        ("other", "x", {}, "a", "b"),
        ("id", "y", {}, "a", "b"),
        ("id", ["x"], {}, "a", "b"),
        ("id", "x", {"column": 1}, "a", "b"),
        ("id", "x", {}, "b", "a"),
        ("id", "x", {}, "a", "b "),
        ("id", "x", {}, 'a", "b', ""),
    ],
)
def test_other_questions_have_other_keys(other):
    assert judgement_key("id", "x", {}, "a", "b") != judgement_key(*other)


def test_order_of_columns_is_no_difference_and_objects_have_no_key():
    assert judgement_key("i", "x", {"a": 1, "b": 2}, "", "") == judgement_key("i", "x", {"b": 2, "a": 1}, "", "")
    assert judgement_key("i", "x", {"a": object()}, "", "") is None


# ---- The cache of a judge ----


def test_a_second_judge_asks_nothing(path):
    first = CountingJudge(path, answer=lambda a, b: 0.9 if a < b else 0.3)
    preference = first(PROMPTS, FIRST, SECOND)
    assert preference == pytest.approx([0.8] * 4) and len(first.asked) == 8
    second = CountingJudge(path)
    assert second(PROMPTS, FIRST, SECOND) == preference
    assert second(PROMPTS, SECOND, FIRST) == [1 - p for p in preference]
    assert second.asked == []
    assert (second.tally.asked, second.tally.cached) == (0, 16)


def test_only_what_is_new_is_asked(path):
    CountingJudge(path)(PROMPTS[:2], FIRST[:2], SECOND[:2])
    judge = CountingJudge(path)
    judge(PROMPTS, FIRST, SECOND)
    assert sorted(judge.asked) == [("c", "g"), ("d", "h"), ("g", "c"), ("h", "d")]


@pytest.mark.parametrize("asked, then", [(("a", "e"), ("e", "a")), (("e", "a"), ("a", "e"))])
def test_symmetric_judges_know_a_pair_in_either_order(path, asked, then):
    """In its own order an answer comes back bit by bit; in the other it is 1 minus it."""
    judge = CountingJudge(path, symmetric=True, answer=1e-20)
    assert judge(["x"], [asked[0]], [asked[1]]) == [1e-20]
    again = CountingJudge(path, symmetric=True)
    assert again(["x"], [then[0]], [then[1]]) == [1.0]
    assert again(["x"], [asked[0]], [asked[1]]) == [1e-20]
    assert again.asked == [] and judge.asked == [asked]


def test_both_orders_and_one_order_share_their_answers(path):
    both = CountingJudge(path)
    both(PROMPTS, FIRST, SECOND)
    for order in ("random", "fixed"):
        judge = CountingJudge(path)
        judge.order = order
        judge(PROMPTS, FIRST, SECOND)
        assert judge.asked == []


def test_another_judge_does_not_see_the_answers(path):
    CountingJudge(path)(PROMPTS, FIRST, SECOND)
    judge = CountingJudge(path, identity="another temperature")
    judge(PROMPTS, FIRST, SECOND)
    assert len(judge.asked) == 8


def test_columns_are_part_of_the_question(path):
    CountingJudge(path)(["x"], ["a"], ["b"], answer=["one"])
    judge = CountingJudge(path)
    judge(["x"] * 2, ["a"] * 2, ["b"] * 2, answer=["one", "two"])
    assert len(judge.asked) == 2


def test_objects_are_asked_again(path):
    """An object that JSON does not know has no name that the next process would recognise."""
    thing = object()
    for _ in range(2):
        judge = CountingJudge(path)
        judge(["x"], ["a"], ["b"], answer=[thing])
        assert len(judge.asked) == 2
    assert len(JudgementStore(path)) == 0


@pytest.mark.parametrize("silence", [None, math.nan, Abstained("server")])
def test_failures_are_not_stored(path, silence):
    assert math.isnan(CountingJudge(path, answer=lambda a, b: silence if a == "a" else 0.5)(["x"], ["a"], ["b"])[0])
    assert len(JudgementStore(path)) == 1  # the other order
    judge = CountingJudge(path, answer=0.5)
    assert judge(["x"], ["a"], ["b"]) == [0.5]
    assert judge.asked == [("a", "b")]


def test_a_batch_that_fails_half_way_keeps_the_finished_half(path):
    judge = CountingJudge(path, fails_after=5)
    with pytest.raises(JudgeError, match="The server is gone"):
        judge(PROMPTS, FIRST, SECOND)
    assert judge.tally.asked == 5
    resumed = CountingJudge(path)
    resumed(PROMPTS, FIRST, SECOND)
    assert len(resumed.asked) == 3
    assert not set(resumed.asked) & set(judge.asked)


def test_a_judge_without_identity_is_not_cached(path):
    with pytest.raises(ValueError, match="CountingJudge has no `identity`, so its answers cannot be cached"):
        CountingJudge(path, identity=None)(["x"], ["a"], ["b"])
    assert CountingJudge(None, identity=None)(["x"], ["a"], ["b"]) == [0.5]


def test_a_row_that_is_left_out_is_an_error(path):
    class Forgetful(CountingJudge):
        def judge_each(self, prompts, first, second):
            yield 0, 0.5

    with pytest.raises(ValueError, match="Forgetful left 7 of 8 questions unanswered"):
        Forgetful(path)(PROMPTS, FIRST, SECOND)
