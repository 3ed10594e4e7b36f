# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Whatever a server does, nothing is asked twice and nothing that was answered is lost."""

import asyncio
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from trl_nash.judges import remote
from trl_nash.judges.base import JudgeError
from trl_nash.judges.openai_api import OpenAIJudge
from trl_nash.judges.remote import RemoteJudge, retry_after
from trl_nash.judges.store import JudgementStore


sys.path.insert(0, str(Path(__file__).parent))
from loopback import (  # noqa: E402
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


@pytest.fixture(autouse=True)
def short_waits(monkeypatch, tmp_path):
    monkeypatch.setattr(remote, "BACKOFF", 0.001)
    monkeypatch.setenv("TRL_NASH_CACHE", str(tmp_path))
    for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)


def build_judge(server, **kwargs) -> OpenAIJudge:
    return OpenAIJudge("tiny", base_url=server.url, **{"mode": "logprobs", "timeout": 5.0} | kwargs)


def pairs(count: int) -> tuple[list[str], list[str], list[str]]:
    return ["Say hi."] * count, [f"a{i}" for i in range(count)], [f"b{i}" for i in range(count)]


def truth(count: int) -> list[float]:
    return pytest.approx([fair(f"a{i}", f"b{i}") for i in range(count)])


def first_time(behaviour):
    """Every question meets `behaviour` once before it is answered."""
    return lambda question, number: behaviour if number == 0 else ok


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


def test_a_hanging_server_is_left_after_the_timeout():
    with Loopback(first_time(hang)) as server:
        judge = build_judge(server, timeout=0.1, mode="text")
        answers = judge(*pairs(4))
    assert len(answers) == 4 and not any(map(math.isnan, answers))
    assert set(server.asked.values()) == {2} and set(server.answered.values()) == {1}


@pytest.mark.parametrize("behaviour", [hang, malformed, status(500), status(400, "no such parameter")])
def test_a_question_without_an_answer_abstains_and_is_asked_again_next_time(behaviour, caplog):
    broken = {("a1", "b1"), ("b3", "a3")}
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

    def slow(handler):
        deadline = time.monotonic() + 10
        while judge._failures < 7 and time.monotonic() < deadline:
            time.sleep(0.005)
        ok(handler)

    with Loopback(lambda question, number: slow if question == ("a0", "b0") else status(500)) as server:
        judge = build_judge(server, mode="text", order="fixed", concurrency=8, max_retries=0, max_failures=7)
        with pytest.raises(JudgeError, match="7 failures in a row"):
            judge(*pairs(8))
        assert server.answered == {("a0", "b0"): 1} and len(judge.cache) == 1


@pytest.mark.parametrize("farewell", [10.0, 0.0])
def test_ctrl_c_keeps_what_is_under_way(monkeypatch, farewell):
    """Answers that were asked for before Ctrl-C are stored, nothing is asked after it; waiting for them has an end."""
    monkeypatch.setattr(remote, "LONGEST_FAREWELL", farewell)
    main = threading.get_ident()

    def interrupt(server):
        deadline = time.monotonic() + 10
        while len(server.log) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    with Loopback(latency=0.5) as server:
        judge = build_judge(server, mode="text", concurrency=4, order="fixed")
        threading.Thread(target=interrupt, args=[server]).start()
        with pytest.raises(KeyboardInterrupt):
            judge(*pairs(100))
        assert len(judge.cache) == (4 if farewell else 0)
        time.sleep(0.6)
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


def test_retry_after_in_every_spelling():
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)}) == pytest.approx(60, abs=2)
    assert retry_after({"retry-after": formatdate(time.time() - 60, usegmt=True)}) == 0
    assert retry_after({"retry-after": "soon"}) is None and retry_after({}) is None


def test_waits_grow_and_are_bounded(monkeypatch):
    waits = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return False

    monkeypatch.setattr(remote, "BACKOFF", 0.5)
    with Loopback(lambda question, number: status(500)) as server:
        judge = build_judge(server, max_retries=8)
        judge.prepare = None
        with pytest.raises(remote.RequestFailed):
            judge._attempt(Stop(), lambda: (_ for _ in ()).throw(remote.RequestFailed("no", retry=True)))
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
    monkeypatch.setattr(remote, "BACKOFF", 60.0)
    entered = threading.Event()

    def script(question, number):
        if question == ("a0", "b0"):
            entered.set()
            return status(500)
        entered.wait(5)
        return status(404, "model unloaded")

    with Loopback(script) as server:
        judge = build_judge(server, mode="text", order="fixed", concurrency=2)
        start = time.monotonic()
        with pytest.raises(JudgeError, match="model unloaded"):
            judge(*pairs(2))
        assert time.monotonic() - start < 20


def test_one_order_in_the_order_of_the_rows():
    with Loopback() as server:
        answers = build_judge(server, cache=None).judge(*pairs(10))
    assert answers == pytest.approx([preference(f"a{i}", f"b{i}") for i in range(10)])


def test_concurrency_is_reached_and_kept():
    with Loopback(latency=0.05) as server:
        assert build_judge(server, concurrency=8)(*pairs(20)) == truth(20)
    assert 4 <= server.most_under_way <= 8


def test_processes_share_what_was_allowed(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    with Loopback() as server:
        judge = build_judge(server, concurrency=32, requests_per_minute=60, budget=100)
        assert judge.concurrency == 8 and judge.budget == 25 and judge._gate.interval == 4.0
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
    with Loopback(latency=0.02) as server:
        answers = build_judge(server, mode="text", concurrency=2).judge_each(*pairs(50))
        next(answers)
        answers.close()
        time.sleep(0.2)  # for what was under way
        asked = len(server.log)
        time.sleep(0.2)
        assert len(server.log) == asked < 50


@pytest.mark.parametrize("argument", ["concurrency", "max_failures", "budget", "requests_per_minute"])
def test_arguments_that_cannot_be(argument):
    with pytest.raises(ValueError, match=f"`{argument}` of openai:tiny must be .* or more; got 0"):
        OpenAIJudge("tiny", base_url="http://localhost:1/v1", **{argument: 0})


def test_a_killed_process_asks_only_for_what_is_missing(tmp_path):
    """SIGKILL while answers come in. Only what was on its way at that moment is paid for twice."""
    script = """if True:
        import sys
        from trl_nash.judges.openai_api import OpenAIJudge
        judge = OpenAIJudge("tiny", base_url=sys.argv[1], mode="text", concurrency=4)
        judge(["Say hi."] * 50, [f"a{i}" for i in range(50)], [f"b{i}" for i in range(50)])
    """
    enough, sent = threading.Event(), []

    def behaviour(question, number):
        sent.append(question)
        if len(sent) > 40:
            enough.set()
            return hang  # so that the process cannot finish before it is killed
        return ok

    with Loopback(behaviour) as server:
        process = subprocess.Popen([sys.executable, "-c", script, server.url], env=os.environ)
        assert enough.wait(60)
        store = JudgementStore(tmp_path / "judgements.sqlite")
        deadline = time.monotonic() + 10
        while len(store) < 40 and time.monotonic() < deadline:  # the last answer may still be on its way to the disk
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = len(store)
        assert kept == 40 == sum(server.answered.values())
        server.script = lambda question, number: ok
        before = set(server.answered)
        del server.log[:]
        judge = build_judge(server, mode="text")
        answers = judge(*pairs(50))
        assert len(server.log) == 100 - kept and not before & set(server.asked)
    wins = [(preference(a, b) > 0.5, preference(b, a) > 0.5) for _, a, b in zip(*pairs(50), strict=True)]
    assert answers == [(there + 1 - back) / 2 for there, back in wins]
    assert judge.tally.cached == kept


def test_unread_answers_are_no_failures_of_the_server():
    """A server that talks nonsense is there: its answers abstain, without an end after `max_failures`."""
    with Loopback(lambda question, number: reply({"content": "Hm."})) as server:
        judge = build_judge(server, mode="text", max_failures=2)
        assert {p.reason for p in judge(*pairs(5))} == {"unparsable"}
