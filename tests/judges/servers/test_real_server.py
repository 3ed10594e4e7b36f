# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What asks a server, at a real one: `transformers serve` on loopback, with tiny models. It needs what the extra `test`
installs (fastapi and uvicorn). It serves words alone, whatever is asked for, and has no word of what it leaves out.

Each model says one thing, whatever it is asked, so that verdicts are known.
"""

import json
import math
import os
import socket
import subprocess
import sys
import urllib.request

import pytest
import torch
from tiny import build_model
from tiny_judges import build_llama3_tokenizer
from waiting import PATIENCE, until

from trl_nash.evaluation.arena import Arena, Sampling
from trl_nash.judges import load_judge


for package in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(package)
pytestmark = pytest.mark.slow

SAY = {
    "label": "A",
    "mark": "[[A]]",
    "ranking": '"ranking": 6',
    "json": '{"better": "B"}',
    "scores": '{"scores": {"1": 2, "2": 3}}',
    "rambling": "one two one two",
}


def build(say: str, folder) -> None:
    """A model that says this and ends, whatever stands before it: each token has one that follows it."""
    tokenizer = build_llama3_tokenizer()
    texts = say.split() if say == SAY["rambling"] else [say]
    tokenizer.add_tokens([text for text in texts if text not in tokenizer.get_vocab()])
    own = tokenizer.convert_tokens_to_ids(texts)
    end = own[0] if say == SAY["rambling"] else tokenizer.eos_token_id  # or never comes to its end
    size = -(-len(tokenizer) // 4) * 4
    model = build_model(tokenizer, hidden_size=size, max_position_embeddings=8192, tie_word_embeddings=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                weight.zero_()  # what is read is the last token alone
        model.get_input_embeddings().weight.copy_(torch.eye(len(tokenizer), size))
        head = model.get_output_embeddings().weight.zero_()
        head[own[0]] = 10.0
        for token, following in zip(own, [*own[1:], end], strict=True):
            head[:, token] = 0.0
            head[following, token] = 10.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The specs of the models, by what they say."""
    folder = tmp_path_factory.mktemp("served")
    for name, say in SAY.items():
        build(say, folder / name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve"]
    log = (folder / "log").open("w")
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        stdout=log,
        stderr=log,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )

    def is_up() -> bool:
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except OSError:
            return False

    try:
        until(is_up)
        yield {name: f"{folder / name}@http://127.0.0.1:{port}/v1" for name in SAY}
    finally:
        server.terminate()
        server.wait(PATIENCE)


QUESTION = (["Which?"], ["red"], ["blue"])


@pytest.mark.parametrize(("says", "mode"), [("label", "text"), ("mark", "text"), ("json", "structured")])
def test_the_mode_that_works_is_found(served, caplog, says, mode):
    """Its answers have no logprobs, though they were asked for, and JSON where the model says some."""
    judge = load_judge(f"openai:{served[says]}", order="fixed", cache=None)
    assert judge(*QUESTION) == [float(says != "json")]
    assert f"serves no logprobs of the answer: its answers are read as {mode}" in caplog.text
    assert judge.tally.modes == {mode: 1} and judge.usage["completion_tokens"] >= 2
    assert judge.usage["failed_requests"] == 0
    both = load_judge(f"openai:{served[says]}", mode=mode, cache=None)
    assert both(*QUESTION) == [0.5] and both.tally.flips == 1  # the first of the two, whoever it is


def test_a_mode_that_it_does_not_have_is_refused(served):
    with pytest.raises(RuntimeError, match="no answer that can be read as logprobs; try `mode='text'`"):
        load_judge(f"openai:{served['label']}", mode="logprobs", cache=None)(*QUESTION)


@pytest.mark.parametrize(("mode", "reason"), [("structured", "unparsable"), ("text", "cut")])
def test_what_is_no_verdict(served, mode, reason):
    """Words in place of JSON; and words without an end, which are cut."""
    says = "label" if mode == "structured" else "rambling"
    judge = load_judge(f"openai:{served[says]}", mode=mode, cache=None, request={"max_tokens": 32})
    (verdict,) = judge(*QUESTION)
    assert math.isnan(verdict) and verdict.reason == reason


def test_a_table_of_verdicts(served, tmp_path):
    table = tmp_path / "table.jinja"
    table.write_text('{% set verdict_pattern = "(?P<first>A)|(?P<second>B)" %}{{ first }} or {{ second }}?')
    assert load_judge(f"openai:{served['label']}", prompt=str(table), order="fixed", cache=None)(*QUESTION) == [1.0]


def test_votes_are_asked_for_one_by_one(served):
    """It gives one answer, whatever `n` is."""
    judge = load_judge(f"openai:{served['label']}", votes=3, order="fixed", cache=None)
    assert judge(*QUESTION) == [1.0] and judge.usage["requests"] == 3


@pytest.mark.parametrize(
    ("says", "family", "expected"), [("mark", "skywork-critic", 1.0), ("ranking", "nemotron-genrm", 0.0)]
)
def test_generative_judges(served, says, family, expected):
    judge = load_judge(f"genrm:{served[says]}", family=family, order="fixed", cache=None)
    assert judge(*QUESTION) == [expected]


@pytest.mark.parametrize("mode", ["auto", "structured", "text"])
def test_a_group_judge(served, mode):
    """Scores 2 and 3, whoever is first: of both orders nothing is left."""
    judge = load_judge(f"openai-group:{served['scores']}", mode=mode, order="fixed", cache=None)
    assert judge.compare(["Which?"], [["red", "blue"]], [(0, 1)]).item() == pytest.approx(1 / (1 + math.e))
    both = load_judge(f"openai-group:{served['scores']}", mode=mode, cache=None)
    assert both.compare(["Which?"], [["red", "blue"]], [(0, 1)]).item() == pytest.approx(0.5)


def test_a_policy_and_its_user(served, tmp_path):
    """An arena's requests have `seed`, `top_p` and `tools`; the user says that the dialogue is over, or goes on."""
    prompts = tmp_path / "prompts.jsonl"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    prompts.write_text(json.dumps({"prompt": "Which?", "completion": "red", "tools": json.dumps(tools)}) + "\n")
    sampling = Sampling(max_new_tokens=8, top_p=0.9, user=f"openai:{served['mark']}", max_turns=2)
    arena = Arena([f"said=openai:{served['label']}", str(prompts)], str(prompts), tmp_path / "out", sampling)
    arena.sample()
    record = arena.answers["said"].records[0]
    assert [turn["content"] for turn in record["completion"].messages] == ["A", "[[A]]", "A"]
    assert record["ending"] == "max_turns" and record["tokens"] == 4
