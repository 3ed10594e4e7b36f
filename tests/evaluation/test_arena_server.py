# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A policy behind a server with OpenAI's API, and that its key stays with it."""

import pytest
from loopback import KEY, Loopback, reply, says, status

from trl_nash.evaluation.arena import Arena, Sampling


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
