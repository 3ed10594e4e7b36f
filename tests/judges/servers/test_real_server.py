# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
`OpenAIJudge` at `transformers serve`, on loopback with a tiny model. It needs what the extra `serving` installs
(`pip install fastapi uvicorn`), and is skipped without. It serves words alone, whatever is asked for.
"""

import importlib.util
import math
import os
import socket
import subprocess
import sys
import urllib.request

import pytest
from tiny_judges import build_judge_model, build_llama3_tokenizer
from waiting import PATIENCE, until

from trl_nash.judges import load_judge


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("fastapi", "uvicorn"))), reason="needs fastapi and uvicorn"
    ),
]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    tokenizer = build_llama3_tokenizer()
    build_judge_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()", "serve", str(folder)]
    log = (folder.parent / "log").open("w")
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
        stdout=log,
        stderr=log,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )

    def is_up() -> bool:
        assert server.poll() is None, (folder.parent / "log").read_text()[-2000:]
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
        except OSError:
            return False

    try:
        until(is_up)
        yield f"openai:{folder}@http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def test_it_serves_words(spec, tmp_path):
    """A tiny model without training does not choose them well: a letter, or nothing before it is cut."""
    table = tmp_path / "table.jinja"
    table.write_text('{% set verdict_pattern = "(?P<first>[a-m])|(?P<second>[n-z])" %}{{ first }} or {{ second }}?')
    judge = load_judge(spec, prompt=str(table), cache=None, request={"max_tokens": 512})
    (answer,) = judge(["a b ?"], ["red"], ["blue"])
    assert math.isnan(answer) and set(judge.tally.abstained) <= {"cut", "unparsable"} or 0 <= answer <= 1
    assert judge.usage["completion_tokens"] > 0 and judge.usage["requests"] >= 2


@pytest.mark.parametrize("mode", ["auto", "logprobs"])
def test_modes_that_it_does_not_have_are_refused(spec, mode):
    """It gives no logprobs; words come last, and the tiny model's are no verdict."""
    with pytest.raises(RuntimeError, match="no answer that can be read as logprobs"):
        load_judge(spec, mode=mode, cache=None, request={"max_tokens": 8})(["a"], ["red"], ["blue"])


def test_words_in_place_of_json_are_no_verdict(spec):
    judge = load_judge(spec, mode="structured", cache=None, request={"max_tokens": 8})
    assert judge(["a"], ["red"], ["blue"])[0].reason in ("cut", "unparsable")
