# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What real servers do to `OpenAIJudge`: modes that fail, parameters that are refused, answers that are cut."""

import json
import math

import pytest
from loopback import PROBE, Loopback, close, hang, ok, preference, reply, says, status, tokens
from waiting import PATIENCE

from trl_nash.judges.base import JudgeError
from trl_nash.judges.servers import pace
from trl_nash.judges.servers.openai_api import OpenAIJudge
from trl_nash.judges.servers.server import ChatServer


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(pace, "BACKOFF", 0.001)


def build_judge(server, **kwargs) -> OpenAIJudge:
    return OpenAIJudge(
        "tiny",
        base_url=server.url,
        **{"timeout": PATIENCE, "cache": None, "order": "fixed", "max_retries": 1} | kwargs,
    )


@pytest.mark.parametrize(
    "failure", [status(400), status(422), status(500), status(501), hang], ids=["400", "422", "500", "501", "silence"]
)
def test_a_mode_that_fails_is_followed_by_the_next(failure, monkeypatch):
    """llama-cpp-python answers `json_schema` with 500, others are silent; the words are still there."""
    send = ChatServer.send

    def impatient(self, body, timeout):
        return send(self, body, 0.1 if failure is hang and "response_format" in body else timeout)

    monkeypatch.setattr(ChatServer, "send", impatient)

    def behave(handler):
        (says("B") if "logprobs" in handler.body else failure if "response_format" in handler.body else ok)(handler)

    with Loopback(lambda question, number: behave) as server:
        assert build_judge(server)(["x"], ["a"], ["b"]) == [float(preference("a", "b") > 0.5)]
    assert [("response_format" in asked.body) for asked in server.log][-1] is False


@pytest.mark.parametrize("failure", [close, status(503)], ids=["hangs up", "overloaded"])
def test_a_server_that_answers_no_mode_is_the_end(failure):
    with Loopback(lambda question, number: failure) as server:
        with pytest.raises(JudgeError, match="cannot go on with"):
            build_judge(server)(["x"], ["a"], ["b"])


def test_a_server_that_does_not_say_that_its_replies_are_json():
    def plain(handler):
        choice = {"message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"}
        handler.send(json.dumps({"choices": [choice]}).encode(), headers={"content-type": "text/plain"})

    with Loopback(lambda question, number: plain) as server:
        assert build_judge(server, mode="text")(["x"], ["a"], ["b"]) == [0.0]


def test_a_cut_answer_is_no_verdict():
    cut = reply({"content": "<think>Let me see. [[A]] would mean"}, finish_reason="length")
    for prompt, behaviour in (("mt-bench", cut), ("pair", reply({"content": "A"}, finish_reason="length"))):
        with Loopback(lambda question, number, behaviour=behaviour: ok if question == PROBE else behaviour) as server:
            (answer,) = build_judge(server, mode="text", prompt=prompt)(["x"], ["a"], ["b"])
        assert math.isnan(answer) and answer.reason == "cut"


def refusing(name: str, message: str, code: int = 400):
    """A server that takes all but one parameter."""

    def behave(handler):
        (status(code, message) if name in handler.body else ok)(handler)

    return lambda question, number: behave


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("max_tokens", "Unsupported parameter: 'max_tokens' is not supported, use 'max_completion_tokens' instead."),
        ("temperature", "Unsupported value: 'temperature' does not support 0.0 with this model."),
    ],
)
def test_a_refused_parameter_is_left_out_from_then_on(name, message):
    with Loopback(refusing(name, message)) as server:
        judge = build_judge(server, concurrency=1, max_retries=0)
        answers = judge(["x"] * 3, ["a", "c", "e"], ["b", "d", "f"])
    assert answers == pytest.approx([preference(*pair) for pair in ("ab", "cd", "ef")])
    bodies = [asked.body for asked in server.log]
    assert [name in body for body in bodies] == [True, *[False] * 4]  # the probe twice, and three questions
    assert all(body.get("max_completion_tokens") == (1 if name == "max_tokens" else None) for body in bodies[1:])


def test_a_server_with_fewer_alternatives_is_asked_for_five():
    def behave(handler):
        few = handler.body.get("top_logprobs", 0) <= 5
        (ok if few else status(422, "Input validation error: `top_logprobs` must be less than 6"))(handler)

    with Loopback(lambda question, number: behave) as server:
        assert build_judge(server)(["x"], ["a"], ["b"]) == pytest.approx([preference("a", "b")])
    assert [asked.body["top_logprobs"] for asked in server.log] == [20, 5, 5]


def test_what_the_user_asks_for_is_sent_all_the_same():
    message = "Unsupported value: 'temperature' does not support 0.7 with this model."
    with Loopback(refusing("temperature", message)) as server:
        with pytest.raises(JudgeError, match="does not support 0.7"):
            build_judge(server, mode="text", request={"temperature": 0.7}, max_failures=1)(["x"], ["a"], ["b"])


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        ({"mode": "logprobs"}, 60.1),
        ({"mode": "text"}, 60 + 409.6),
        ({"mode": "text", "request": {"max_tokens": 32768}}, 60 + 3276.8),
        ({"mode": "text", "timeout": 5.0}, 5.0),
    ],
)
def test_time_fits_the_tokens(options, seconds, monkeypatch):
    asked = []
    send = ChatServer.send
    monkeypatch.setattr(
        ChatServer, "send", lambda self, body, timeout: asked.append(timeout) or send(self, body, timeout)
    )
    with Loopback() as server:
        build_judge(server, **{"timeout": None} | options)(["x"], ["a"], ["b"])
    assert asked == [pytest.approx(seconds)] * len(asked)


def test_the_mass_of_the_labels_is_counted():
    """The server gives the two labels .8 together, and the word The .2."""
    with Loopback() as server:
        judge = build_judge(server, mode="logprobs")
        judge(["x"] * 2, ["a", "c"], ["b", "d"])
    assert judge.tally.labelled == 2 and judge.tally.label_mass == pytest.approx(0.8)


def test_a_pattern_of_ones_own():
    with Loopback(lambda question, number: says("Let us see.</think>Score A: 3, Score B: 8")) as server:
        judge = build_judge(server, verdict_pattern="scores")
        assert judge(["x"], ["a"], ["b"]) == [0.0] and judge.mode == "text"
        assert judge.identity != build_judge(server, verdict_pattern="brackets").identity
    with pytest.raises(ValueError, match="`mode` must be 'text'"):
        build_judge(server, verdict_pattern="scores", mode="logprobs")


def test_a_token_that_is_not_listed_may_be_the_other_label():
    """At most .02 where A has .5: P is between .96 and 1, so the pair is asked once more and then abstains."""
    few = reply({"content": "A"}, tokens(A=math.log(0.5), The=math.log(0.02)))
    with Loopback(lambda question, number: ok if question == PROBE else few) as server:
        (answer,) = build_judge(server, mode="logprobs")(["x"], ["a"], ["b"])
    assert answer.reason == "unparsable" and len(server.requests) == 2
