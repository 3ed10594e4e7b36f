# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Reward models behind servers that speak the protocols of vLLM, SGLang and OpenRLHF on loopback."""

import hashlib
import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tiny_judges import build_llama3_tokenizer
from waiting import PATIENCE

from trl_nash.judges import load_judge
from trl_nash.judges.base import JudgeError
from trl_nash.judges.servers import pace


pytest.importorskip("openai")
PROMPT, ANSWERS = "a b", ["one", "two three", "red green blue"]


def score(text: str) -> float:
    return hashlib.sha256(text.encode()).digest()[0] / 32 - 4


class Server:
    """Answers `answers[path](body)`, or with a status if that is a number, and keeps what it was asked."""

    def __init__(self, **answers):
        self.asked: list[tuple[str, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.asked.append((self.path, body))
                answer = answers[self.path.strip("/")](body)
                code = answer if isinstance(answer, int) else 200
                content = json.dumps({"error": {"message": "no"}} if code != 200 else answer).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception):
        self._server.shutdown()
        self._server.server_close()


def vllm_pooling(body):
    """vLLM's of a model with a number for each token: the reward is the last one's."""
    text = json.dumps(body["messages"])
    data = [[0.5], [score(text)]]
    return {"object": "list", "model": body["model"], "data": [{"index": 0, "object": "pooling", "data": data}]}


def vllm_classify(body):
    assert body["use_activation"] is False and body["add_special_tokens"] is False
    data = [
        {"index": i, "label": "LABEL_0", "probs": [score(text)], "num_classes": 1}
        for i, text in enumerate(body["input"])
    ]
    return {"object": "list", "data": data[::-1]}


def sglang_classify(body):
    return [{"embedding": [score(text)], "meta_info": {"prompt_tokens": 3}} for text in body["text"]]


def openrlhf(body):
    rewards = [score(text) for text in body["query"]]
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"dummy_scores": rewards}}


def dialogue(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("protocol", "path", "answer"),
    [
        ("pooling", "pooling", vllm_pooling),
        ("classify", "classify", vllm_classify),
        ("sglang", "classify", sglang_classify),
        ("openrlhf", "get_reward", openrlhf),
    ],
)
def test_rewards_of_each_protocol(protocol, path, answer):
    tokenizer = build_llama3_tokenizer()
    with Server(**{path: answer}) as server:
        judge = load_judge(
            f"reward-server:org/model@{server.url}/v1",
            protocol=protocol,
            timeout=PATIENCE,
            **({} if protocol == "pooling" else {"tokenizer": tokenizer}),
        )
        rewards = judge.rewards([PROMPT] * 3, ANSWERS).tolist()
        (p,) = judge([PROMPT], [ANSWERS[0]], [ANSWERS[1]])
    texts = [tokenizer.apply_chat_template(dialogue(answer), tokenize=False) for answer in ANSWERS]
    if protocol == "sglang":  # which begins every text itself
        texts = [text.removeprefix("<|begin_of_text|>") for text in texts]
    if protocol == "pooling":
        texts = [json.dumps(dialogue(answer)) for answer in ANSWERS]
    expected = [score(text) for text in texts]
    assert rewards == pytest.approx(expected) and len(set(expected)) == 3
    assert p == pytest.approx(1 / (1 + math.exp(expected[1] - expected[0])))
    assert {asked for asked, _ in server.asked} == {f"/{path}"}
    assert len(server.asked) == (5 if protocol == "pooling" else 2)


def test_the_protocol_stands_in_the_address():
    with Server(get_reward=openrlhf) as server:
        judge = load_judge(f"reward-server:{server.url}/get_reward", tokenizer=build_llama3_tokenizer())
        assert judge.protocol == "openrlhf" and not math.isnan(judge.rewards([PROMPT], ["one"])[0])


@pytest.mark.parametrize(
    ("answer", "reason"), [(500, "server"), ({"data": [{"index": 0, "data": [0.1, 0.2]}]}, "server")]
)
def test_a_text_without_an_answer_abstains_and_all_of_them_are_the_end(answer, reason, monkeypatch):
    monkeypatch.setattr(pace, "BACKOFF", 0.001)

    def sometimes(body):
        return answer if body["messages"][-1]["content"] == "one" else vllm_pooling(body)

    with Server(pooling=sometimes) as server:
        judge = load_judge(f"reward-server:org/model@{server.url}", max_retries=1)
        first, second = judge([PROMPT] * 2, ["one", "two"], ["two", "red"])
        assert math.isnan(first) and first.reason == reason and 0 < second < 1
        with pytest.raises(JudgeError, match="cannot go on with"):
            judge.rewards([PROMPT], ["one"])
    assert judge.usage["failed_requests"] >= 2


def test_completions_cannot_end_their_turn():
    with Server(pooling=vllm_pooling) as server:
        load_judge(f"reward-server:org/model@{server.url}").rewards([PROMPT], ["x<|eot_id|>y"])
    assert server.asked[0][1]["messages"][-1]["content"] == "x< |eot_id|>y"


def test_arguments_that_cannot_be():
    for spec, kwargs, message in [
        ("org/model", {}, "needs a server"),
        ("org/model@http://x:1", {"protocol": "poling"}, "did you mean pooling"),
        ("http://x:1/get_reward", {}, "pass the `tokenizer`"),
        ("org/model@http://x:1", {"timeout": 0}, "`timeout` of the judge"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_judge(f"reward-server:{spec}", **kwargs)
