# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Whatever a server does, nothing is asked twice and nothing that was answered is lost."""

import asyncio
import itertools
import linecache
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from loopback import (
    PAIR,
    PROBE,
    Loopback,
    close,
    fair,
    hang,
    malformed,
    no_choices,
    ok,
    page,
    preference,
    reply,
    status,
    truncated,
    truncated_stream,
)
from waiting import PATIENCE, until

from trl_nash.judges.base import JudgeError
from trl_nash.judges.servers import pace, remote
from trl_nash.judges.servers.openai_api import OpenAIJudge
from trl_nash.judges.servers.pace import retry_after
from trl_nash.judges.servers.remote import RemoteJudge
from trl_nash.judges.servers.server import ChatServer
from trl_nash.judges.store import JudgementStore


@pytest.fixture(autouse=True)
def short_waits(monkeypatch, tmp_path):
    monkeypatch.setattr(pace, "BACKOFF", 0.001)
    monkeypatch.setenv("TRL_NASH_CACHE", str(tmp_path))
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)


def build_judge(server, **kwargs) -> OpenAIJudge:
    return OpenAIJudge("tiny", base_url=server.url, **{"mode": "logprobs", "timeout": PATIENCE} | kwargs)


def pairs(count: int) -> tuple[list[str], list[str], list[str]]:
    return ["Say hi."] * count, [f"a{i}" for i in range(count)], [f"b{i}" for i in range(count)]


def truth(count: int) -> list[float]:
    return pytest.approx([fair(f"a{i}", f"b{i}") for i in range(count)])


def first_time(behaviour):
    """Every question meets `behaviour` once before it is answered."""
    return lambda question, number: behaviour if number == 0 else ok


def time_out_only(monkeypatch, chosen) -> None:
    """Keeps the judge's `timeout` for requests with `chosen(question)`, which the server can tell by a parameter."""
    send = ChatServer.send

    def patient(self, body, timeout):
        question = PAIR.search(body["messages"][-1]["content"]).groups()
        return send(self, body | {"hang": True}, timeout) if chosen(question) else send(self, body, PATIENCE)

    monkeypatch.setattr(ChatServer, "send", patient)


def waits_for_answers(thread: int) -> bool:
    """Whether this thread is in the line of `judge_each` that waits, where Ctrl-C is caught."""
    frame = sys._current_frames()[thread]
    return "results.get(" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def join_workers() -> None:
    """When they are gone, nobody is left who could ask anything."""
    for thread in threading.enumerate():
        if thread.name == "judge":
            thread.join(PATIENCE)
            assert not thread.is_alive()


FAULTS = {
    "429": status(429, "slow down", retry_after="0.01"),
    "429 in milliseconds": status(429, "slow down", retry_after_ms="10"),
    "429 without a time": status(429, "slow down"),
    "500": status(500, "oops"),
    "503": status(503, "overloaded"),
    "closed connection": close,
    "malformed JSON": malformed,
    "web page": page,
    "truncated reply": truncated,
    "truncated stream": truncated_stream,
    "no choices": no_choices,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_retried_and_each_question_is_answered_once(fault):
    with Loopback(first_time(FAULTS[fault])) as server:
        judge = build_judge(server)
        assert judge(*pairs(6)) == truth(6)
    assert set(server.asked.values()) == {2}  # the fault and the answer
    assert set(server.answered.values()) == {1} and len(server.answered) == 12  # both orders of six pairs
    assert len(judge.cache) == 12
    assert judge.usage["failed_requests"] == 13  # the question that finds out what the server can met it too


def test_a_hanging_server_is_left_after_the_timeout(monkeypatch):
    sent = set()

    def is_first(question):
        return question not in sent and not sent.add(question)

    def hang_or_answer(handler):
        (hang if "hang" in handler.body else ok)(handler)

    time_out_only(monkeypatch, is_first)
    with Loopback(lambda question, number: hang_or_answer) as server:
        judge = build_judge(server, timeout=0.1, mode="text")
        answers = judge(*pairs(4))
    assert len(answers) == 4 and not any(map(math.isnan, answers))
    assert (judge.usage["requests"], judge.usage["failed_requests"]) == (16, 8)  # once in vain for each question
    assert set(server.answered.values()) == {1} and len(server.answered) == 8


@pytest.mark.parametrize("behaviour", [hang, malformed, status(500), status(400, "no such parameter")])
def test_a_question_without_an_answer_abstains_and_is_asked_again_next_time(behaviour, caplog, monkeypatch):
    broken = {("a1", "b1"), ("b3", "a3")}
    time_out_only(monkeypatch, broken.__contains__)
    with Loopback(lambda question, number: behaviour if question in broken else ok) as server:
        judge = build_judge(server, max_retries=1, timeout=0.2)
        with caplog.at_level(logging.WARNING, "trl_nash"):
            answers = judge(*pairs(5))
        assert [math.isnan(p) for p in answers] == [False, True, False, True, False]
        assert answers[1].reason == "server" and judge.tally.abstained == {"server": 2}
        assert "no answer to 2 of 10 questions" in caplog.text
        assert len(judge.cache) == 8
        server.script = lambda question, number: ok
        del server.log[:]
        assert build_judge(server)(*pairs(5)) == truth(5)
        assert set(server.asked) == broken


def test_half_a_batch_that_failed_leaves_the_other_half_in_the_store():
    """The server dies for good after 20 answers: what it gave is kept, and the next run asks for the other 20."""
    answered = []

    def script(question, number):
        if len(answered) < 20:
            answered.append(question)
            return ok
        return status(500, "out of memory")

    with Loopback(script) as server:
        judge = build_judge(server, mode="text", concurrency=1, max_retries=1, max_failures=3)
        with pytest.raises(JudgeError, match="3 failures in a row, the last: status 500, out of memory") as error:
            judge(*pairs(20))
        assert str(judge.cache.path) in str(error.value) and server.url in str(error.value)
        assert len(server.requests) == 20 + 3 * 2  # each of the three that failed was retried once
        assert len(judge.cache) == 20
        server.script = lambda question, number: ok
        judge(*pairs(20))
        assert len(judge.cache) == 40
    assert len(server.answered) == 40 and set(server.answered.values()) == {1}


def test_what_is_under_way_when_the_judge_meets_its_end_is_kept():
    """Seven fast failures end the run while an answer is on its way: it is waited for."""

    under_way = threading.Event()

    def slow(handler):
        under_way.set()
        until(lambda: judge._failures == 7)
        ok(handler)

    def fail(handler):
        under_way.wait(PATIENCE)
        status(500)(handler)

    with Loopback(lambda question, number: slow if question == ("a0", "b0") else fail) as server:
        judge = build_judge(server, mode="text", order="fixed", concurrency=8, max_retries=0, max_failures=7)
        with pytest.raises(JudgeError, match="7 failures in a row"):
            judge(*pairs(8))
        assert server.answered == {("a0", "b0"): 1} and len(judge.cache) == 1


@pytest.mark.parametrize("farewell", [PATIENCE, 0.0])
def test_ctrl_c_keeps_what_is_under_way(monkeypatch, farewell):
    """Answers that were asked for before Ctrl-C are stored, nothing is asked after it; waiting for them has an end."""
    monkeypatch.setattr(remote, "LONGEST_FAREWELL", farewell)
    main, stops, left = threading.get_ident(), [], threading.Event()

    def interrupt():
        until(lambda: len(server.log) == 4 and waits_for_answers(main))
        signal.pthread_kill(main, signal.SIGINT)

    def held(handler):
        stops[0].wait(PATIENCE)  # until the judge has noticed Ctrl-C
        if not farewell:
            left.wait(PATIENCE)
        ok(handler)

    with Loopback(lambda question, number: held) as server:
        judge = build_judge(server, mode="text", concurrency=4, order="fixed")
        attempt = judge._attempt
        judge._attempt = lambda stop, send: stops.append(stop) or attempt(stop, send)
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            judge(*pairs(100))
        assert len(judge.cache) == (4 if farewell else 0)
        left.set()
        join_workers()
        assert len(server.log) == 4


def test_failures_in_a_row_are_counted_across_calls_and_end_with_an_answer():
    with Loopback(lambda question, number: status(500)) as server:
        judge = build_judge(server, mode="text", order="fixed", concurrency=1, max_retries=0, max_failures=3)
        assert all(map(math.isnan, judge(*pairs(2))))
        server.script = lambda question, number: ok
        assert not math.isnan(judge(["x"], ["a"], ["b"])[0])
        server.script = lambda question, number: status(500)
        assert all(map(math.isnan, judge(*pairs(2))))
        with pytest.raises(JudgeError, match="3 failures in a row"):
            judge(*pairs(1))


def test_a_server_that_is_not_there():
    with Loopback() as server:
        judge = build_judge(server, max_retries=2)
    with pytest.raises(JudgeError, match=r"openai:tiny cannot go on with http://127.0.0.1:\d+/v1: .*refused"):
        judge(*pairs(3))


@pytest.mark.parametrize(
    "behaviour, sentence",
    [
        (status(401, "bad key"), "refuses the key in OPENAI_API_KEY"),
        (status(403, "not you"), "refuses the key in OPENAI_API_KEY"),
        (status(404, "unknown model"), "has no model 'tiny'"),
        (status(429, "pay", error_code="insufficient_quota"), "quota is spent"),
        (status(429, "tomorrow", retry_after="86400"), "asks to wait 86400 seconds"),
    ],
)
def test_what_no_retry_heals_ends_the_run_at_once(behaviour, sentence):
    with Loopback(lambda question, number: behaviour) as server:
        with pytest.raises(JudgeError, match=sentence):
            build_judge(server, mode="text", concurrency=2)(*pairs(20))
        assert len(server.log) <= 2


def test_a_budget_is_not_overspent_and_nothing_is_lost():
    with Loopback() as server:
        judge = build_judge(server, mode="text", budget=10, concurrency=4)
        with pytest.raises(JudgeError, match="budget of 10 requests is spent"):
            judge(*pairs(8))
        assert len(server.log) == 10 and len(judge.cache) == 10
        build_judge(server, mode="text")(*pairs(8))
        assert set(server.answered.values()) == {1} and len(server.answered) == 16


def test_retry_after_holds_all_requests():
    """The server asks for a pause of .3 seconds: nobody sends anything in it, and questions that wait are answered."""
    with Loopback(lambda question, number: status(429, retry_after="0.3") if len(server.log) == 1 else ok) as server:
        judge = build_judge(server, mode="text", concurrency=1)
        judge(*pairs(3))
    times = [asked.time for asked in server.log]
    assert times[1] - times[0] >= 0.29


def test_retry_after_in_every_spelling(monkeypatch):
    now = 1.7e9
    monkeypatch.setattr(pace, "time", SimpleNamespace(time=lambda: now))
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": formatdate(now + 60, usegmt=True)}) == 60
    assert retry_after({"retry-after": formatdate(now - 60, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) is None and retry_after({}) is None


def test_waits_grow_and_are_bounded(monkeypatch):
    waits = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    monkeypatch.setattr(pace, "BACKOFF", 0.5)
    with Loopback(lambda question, number: status(500)) as server:
        judge = build_judge(server, max_retries=8)
        judge.prepare = None
        with pytest.raises(pace.RequestFailed):
            judge._attempt(Stop(), lambda: (_ for _ in ()).throw(pace.RequestFailed("no", retry=True)))
    for wait, longest in zip(waits, [0.5, 1, 2, 4, 8, 16, 30, 30], strict=True):
        assert longest / 2 <= wait <= longest


def test_rate_limit():
    """1,200 a minute are one in .05 seconds, whatever the concurrency: eight take seven times that."""
    with Loopback() as server:
        judge = build_judge(server, mode="text", requests_per_minute=1200, concurrency=8)
        start = time.monotonic()
        judge(*pairs(4))
        assert time.monotonic() - start >= 7 * 0.05 and len(server.log) == 8


def test_a_judge_at_its_end_does_not_sit_out_its_waits(monkeypatch):
    # Half of it at least is waited for, unless the wait is broken off.
    monkeypatch.setattr(pace, "BACKOFF", 2 * PATIENCE)
    monkeypatch.setattr(pace, "LONGEST_BACKOFF", 2 * PATIENCE)

    def script(question, number):
        if question == ("a0", "b0"):
            return status(500)
        until(lambda: judge.usage["failed_requests"] == 1)  # the other one is about to wait
        return status(404, "model unloaded")

    with Loopback(script) as server:
        judge = build_judge(server, mode="text", order="fixed", concurrency=2)
        start = time.monotonic()
        with pytest.raises(JudgeError, match="model unloaded"):
            judge(*pairs(2))
        assert time.monotonic() - start < PATIENCE


def test_one_order_in_the_order_of_the_rows():
    with Loopback() as server:
        answers = build_judge(server, cache=None).judge(*pairs(10))
    assert answers == pytest.approx([preference(f"a{i}", f"b{i}") for i in range(10)])


def test_concurrency_is_reached_and_kept():
    def held(handler):
        until(lambda: server.most_under_way >= 8)
        ok(handler)

    # Further ones, if there were any, would come in while the server takes its time.
    with Loopback(lambda question, number: ok if question == PROBE else held, latency=0.05) as server:
        assert build_judge(server, concurrency=8)(*pairs(20)) == truth(20)
    assert server.most_under_way == 8


def test_processes_share_what_was_allowed(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with Loopback() as server:
        judge = build_judge(server, concurrency=32, requests_per_minute=60, budget=100)
        assert judge.concurrency == 8 and judge.pace.budget == 25 and judge.pace.gate.interval == 4.0
        assert build_judge(server, concurrency=2).concurrency == 1


def test_inside_a_running_event_loop():
    async def cell_of_a_notebook(judge):
        return judge(*pairs(3))

    with Loopback() as server:
        assert asyncio.run(cell_of_a_notebook(build_judge(server))) == truth(3)


def test_repeated_and_equal_completions_cost_nothing():
    with Loopback() as server:
        judge = build_judge(server)
        assert judge(["x"] * 3, ["a", "a", "c"], ["b", "b", "c"]) == pytest.approx([fair("a", "b")] * 2 + [0.5])
        assert server.asked == {("a", "b"): 1, ("b", "a"): 1}
        judge(["x"], ["b"], ["a"])
        build_judge(server)(["x"], ["a"], ["b"])  # another judge, the same store: not even the question about 2 + 2
        assert len(server.log) == 3


def test_without_a_cache_the_end_says_so():
    with Loopback(lambda question, number: status(404)) as server:
        with pytest.raises(JudgeError, match="`cache` at None its earlier answers are lost"):
            build_judge(server, cache=None)(*pairs(1))


def test_an_error_of_our_own_is_not_taken_for_the_servers():
    class Broken(RemoteJudge):
        def ask(self, attempt, prompt, first, second):
            raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        Broken("nowhere", cache=None)(*pairs(3))


def test_a_loop_that_is_left_stops_the_workers():
    left = threading.Event()

    def held(handler):
        left.wait(PATIENCE)
        ok(handler)

    with Loopback(lambda question, number: ok if question == ("a0", "b0") else held) as server:
        answers = build_judge(server, mode="text", concurrency=2).judge_each(*pairs(50))
        next(answers)
        answers.close()
        left.set()
        join_workers()
        assert len(server.log) <= 3  # the first, and what the two workers had under way


@pytest.mark.parametrize("argument", ["concurrency", "max_failures", "budget", "requests_per_minute"])
def test_arguments_that_cannot_be(argument):
    with pytest.raises(ValueError, match=f"`{argument}` of openai:tiny must be .* or more; got 0"):
        OpenAIJudge("tiny", base_url="http://localhost:1/v1", **{argument: 0})


def test_a_killed_process_asks_only_for_what_is_missing(tmp_path):
    """SIGKILL while answers come in. Only what was on its way at that moment is paid for twice."""
    script = """if True:
        import sys
        from trl_nash.judges.servers.openai_api import OpenAIJudge
        judge = OpenAIJudge("tiny", base_url=sys.argv[1], mode="text", concurrency=4)
        judge(["Say hi."] * 50, [f"a{i}" for i in range(50)], [f"b{i}" for i in range(50)])
    """
    numbers = itertools.count()  # of requests, each to one thread

    def behaviour(question, number):
        return ok if next(numbers) < 40 else hang  # so that the process cannot finish before it is killed

    with Loopback(behaviour) as server:
        environment = os.environ | {"OPENAI_API_KEY": "of the dead"}
        process = subprocess.Popen([sys.executable, "-c", script, server.url], env=environment)
        store = JudgementStore(tmp_path / "judgements.sqlite")
        until(lambda: process.poll() is not None or (len(server.log) > 40 and len(store) == 40))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept, before = len(store), server.answered
        assert kept == 40 == sum(before.values())
        server.script = lambda question, number: ok
        judge = build_judge(server, mode="text")
        answers = judge(*pairs(50))
        # What the process had sent the server may read only now.
        asked = {question.question for question in server.log if question.authorization != "Bearer of the dead"}
        assert len(asked) == judge.usage["requests"] == 100 - kept and not set(before) & asked
    wins = [(preference(a, b) > 0.5, preference(b, a) > 0.5) for _, a, b in zip(*pairs(50), strict=True)]
    assert answers == [(there + 1 - back) / 2 for there, back in wins]
    assert judge.tally.cached == kept


def test_unread_answers_are_no_failures_of_the_server():
    """A server that talks nonsense is there: its answers abstain, without an end after `max_failures`."""
    with Loopback(lambda question, number: reply({"content": "Hm."})) as server:
        judge = build_judge(server, mode="text", max_failures=2)
        assert {p.reason for p in judge(*pairs(5))} == {"unparsable"}
