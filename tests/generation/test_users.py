# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Users that are models: on a server, which is asked for several dialogues at once, and on this machine."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from dialogues import Script, options, row, source_of
from tiny import build_model, build_tokenizer

from trl_nash.generation.dialogue.users import load_user


KEY = "sk-user-secret-0123456789"


@contextmanager
def server(answer, *refused):
    """
    A real server with OpenAI's chat completions; `answer(question)` is the text, or a number, the status. Some
    parameters it does not take.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            unknown = [name for name in refused if name in body]
            text = 400 if unknown else answer(body["messages"][-1]["content"])
            status = text if isinstance(text, int) else 200
            message = {"role": "assistant", "content": text}
            reply = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                     "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}  # fmt: skip
            error = {"message": f"Unsupported parameter: '{unknown[0]}'." if unknown else f"no, {KEY}"}
            data = json.dumps(reply if status == 200 else {"error": error}).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}/v1"
    finally:
        httpd.shutdown()
        httpd.server_close()


def test_a_server_is_asked_for_several_dialogues_at_once(monkeypatch):
    """Neither of two questions is answered before both are there; one is refused, and its rollout alone fails."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    both, said = threading.Barrier(3), {}

    def answer(question):
        if "Assistant: b" in question and "Assistant: f" not in question:
            both.wait(60)
            return {"User: a": "e", "User: d": "Fine. [END]", "User: c": 400}[question.split("\n\n")[1].split("\n")[1]]
        return "[END]"

    with server(answer) as url:
        user = load_user(f"openai:m@{url}", options())
        source = source_of(user=user, said=said)
        policy = Script(source._render.tokenizer, ["b", "b", "b", "f"])
        samples = source.play([row("a"), row("d"), row("c")], 1, policy)
    said_in = [[m["content"] for m in own[0]] for own in samples.turns]
    assert said_in == [["b", "e", "f"], ["b"], ["b"]] and samples.endings == [["over"], ["over"], ["user"]]
    assert "gave no answer" in said["rollout user"] and KEY not in said["rollout user"]


def test_a_server_that_does_not_take_all_parameters_is_asked_without():
    """As newer ones of OpenAI, which take neither of these."""
    pytest.importorskip("openai")
    with server(
        lambda question: "e" if "Assistant: f" not in question else "[END]", "max_tokens", "temperature"
    ) as url:
        source = source_of(user=load_user(f"openai:m@{url}", options()))
        samples = source.play([row("a")], 1, Script(source._render.tokenizer, ["b", "f"]))
    assert [m["content"] for m in samples.turns[0][0]] == ["b", "e", "f"]


def test_a_model_on_this_machine(tmp_path):
    """Loaded by its path: its words, whatever they are, are what the policy hears next."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    user = load_user(f"local:{tmp_path}", options(max_new_tokens=8), device=torch.device("cpu"))
    source = source_of(user=user, max_turns=2, max_length=400)
    samples = source.play([row("a"), row("d")], 2, Script(tokenizer, ["b"] * 8))
    heard = [turns[1]["content"] for own in samples.turns for turns in own if len(turns) == 3]
    assert heard and samples.endings[0][0] in ("max_turns", "empty turn", "over")
    for own, masks, dialogues in zip(samples.completion_ids, samples.masks, samples.turns, strict=True):
        for ids, mask, turns in zip(own, masks, dialogues, strict=True):
            others = tokenizer.decode([t for t, mine in zip(ids, mask, strict=True) if not mine])
            assert len(turns) < 3 or turns[1]["content"] in others
