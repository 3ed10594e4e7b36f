# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A policy behind a server with OpenAI's API, and that its key stays with it."""

import json

import pytest
from loopback import KEY, Loopback, reply, says, status

from trl_nash.evaluation.arena import Arena, Sampling, Standings
from trl_nash.judges import as_judge
from trl_nash.judges.transcript import messages_of


PROMPTS = [f"{a} {b}" for a in "abc" for b in "de"]
pytest.importorskip("openai")


@pytest.fixture
def arena(write_rows, tmp_path):
    """Makes an arena of a server and a file."""
    rows = [{"prompt": prompt, "completion": "x"} for prompt in PROMPTS]
    file, prompts = write_rows(rows, "file.jsonl"), write_rows([{"prompt": prompt} for prompt in PROMPTS])
    return lambda url, **options: Arena(
        [f"openai:org/tiny@{url}", file], prompts, tmp_path / "out", Sampling(max_new_tokens=7, **options)
    )


def asked(server: Loopback) -> list[str]:
    return [request.body["messages"][-1]["content"] for request in server.log]


def test_answers_of_a_server(arena, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    cut = reply({"content": "<think>hm</think> so"}, finish_reason="length")
    with Loopback(lambda question, number: cut) as server:
        played = arena(server.url, temperature=0.5, batch_size=2, strip_thinking=True)
        played.sample()
        assert sorted(asked(server)) == PROMPTS and server.most_under_way <= 2
        bodies = [request.body for request in server.log]
        assert {(body["model"], body["temperature"], body["max_tokens"]) for body in bodies} == {("org/tiny", 0.5, 7)}
        assert len({body["seed"] for body in bodies}) == len(PROMPTS)
        assert {request.authorization for request in server.log} == {f"Bearer {KEY}"}
        arena(server.url, temperature=0.5, strip_thinking=True).sample()
        assert len(server.log) == len(PROMPTS)
    for row, record in played.answers["tiny"].records.items():
        assert record["prompt"] == PROMPTS[row] and record["completion"] == "so" and not record["ended"]
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert files and not any(KEY in file.read_text() for file in files)


def test_half_a_character(arena, monkeypatch):
    """JSON can name one half of a pair, which no file can hold: all that was sampled would be lost with it."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Loopback(lambda question, number: says("so \ud83d 😀 é")) as server:
        played = arena(server.url)
        played.sample()
    assert {record["completion"] for record in played.answers["tiny"].records.values()} == {"so ? 😀 é"}


def test_a_server_that_fails(arena, monkeypatch):
    """What it had answered is kept, and its key, which it repeats, is not said."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    state = {"broken": True, "asked": 0}

    def script(question, number):
        state["asked"] += 1
        return status(401, f"wrong key {KEY}") if state["broken"] and state["asked"] > 2 else says("yes")

    with Loopback(script) as server:
        played = arena(server.url, batch_size=1)
        with pytest.raises(RuntimeError, match=rf"tiny cannot be asked at {server.url}: .*wrong key \*\*\*") as failed:
            played.sample()
        assert KEY not in str(failed.value)
        assert len(played.answers["tiny"].records) == 2 and len(server.log) == 3
        state["broken"] = False
        played.sample()
        assert len(server.log) == 3 + 4 and len(played.answers["tiny"].records) == len(PROMPTS)


def test_addresses(arena):
    with pytest.raises(ValueError, match="`base_url` of the policy must look like"):
        arena("http://user:secret@host/v1").sample()


CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


@pytest.mark.parametrize("user", [None, lambda messages: "And then?"])
def test_calls_of_tools_are_judged(write_rows, tmp_path, caplog, user):
    """Prompts with tools: an answer that is a call is judged as one, and a dialogue, in which nobody runs it, ends."""
    rows = [{"prompt": prompt, "tools": json.dumps(TOOLS), "completion": "x"} for prompt in PROMPTS]
    file = write_rows(rows, "file.jsonl")

    def make(url):
        return Arena([f"openai:org/tiny@{url}", file], file, tmp_path / "out", Sampling(user=user))

    calls = reply({"content": None, "tool_calls": [CALL]}, finish_reason="tool_calls")
    with Loopback(lambda question, number: calls) as server:
        make(server.url).sample()
        assert sorted(asked(server)) == PROMPTS
        assert all(request.body["tools"] == TOOLS for request in server.log)
        played = make(server.url)  # as it is on disk
    (text, _), *_ = [row.completions for row in played.questions()]
    assert messages_of(text) == [{"role": "assistant", "content": "", "tool_calls": [CALL]}]
    assert text == f"Assistant: \nCall: {json.dumps(CALL['function'])}"
    assert ("tiny: A dialogue ends with a call of a tool, weather" in caplog.text) == (user is not None)


@pytest.mark.parametrize("user", [None, lambda messages: "And then?"])
def test_calls_of_tools_that_were_not_offered_are_not_judged(write_rows, tmp_path, caplog, user):
    """An empty text would lose: it is said that there is no answer, and the others are judged."""
    file = write_rows([{"prompt": prompt, "completion": "x"} for prompt in PROMPTS], "file.jsonl")

    def answer(handler):
        calls = handler.body["messages"][0]["content"] == PROMPTS[0]
        (reply({"content": None, "tool_calls": [CALL]}, finish_reason="tool_calls") if calls else says("y"))(handler)

    with Loopback(lambda question, number: answer) as server:
        sampling = Sampling(user=user, max_turns=user and 1)
        arena = Arena([f"openai:org/tiny@{server.url}", file], file, tmp_path / "out", sampling)
        arena.sample()
    assert [row.prompt for row in arena.questions()] == PROMPTS[1:]
    result = arena.judge(as_judge(lambda prompts, first, second: [1.0] * len(first)), "first")
    assert Standings.of(result).failed == {"tiny": {"tool call": 1}}
    assert "tiny: There is no answer to a prompt (it calls a tool, weather, and none was offered" in caplog.text
