# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Two processes of a backend give vLLM (a fake) whole weights, adapters merged, and know together when."""

import functools
import tempfile
from pathlib import Path

import pytest
from distribute import BACKENDS, launch, needs_deepspeed
from tiny import build_model, build_tokenizer


@functools.cache
def launched(backend: str) -> dict:
    pytest.importorskip("requests")
    if backend.startswith("zero"):
        needs_deepspeed()
    folder = Path(tempfile.mkdtemp())
    build_model(build_tokenizer()).save_pretrained(folder / "model")
    return launch(BACKENDS[backend], "vllm_runs.py", str(folder), result=folder / "result.json", timeout=600)


@pytest.mark.parametrize("run", ["colocate full", "colocate lora", "server full", "server lora"])
@pytest.mark.parametrize("backend", ["ddp", "fsdp2", "zero3"])
def test_vllm_samples_from_the_policy_of_all_processes(backend, run):
    """Its log-probs are the policy's, which nothing but all of its weights in their places gives."""
    ranks = launched(backend)[run]
    assert len(ranks) == 2 and ("Distributed" in ranks[0]["wrapped"]) == (backend == "ddp")
    asked = [["a", "b c"], ["c d e", "d"]]
    assert [rank["prompts"] for rank in ranks] == [
        [f"<|im_start|> user {text} <eos> <|im_start|> assistant" for text in texts] for texts in asked
    ]
    for rank in ranks if run.startswith("colocate") else ranks[:1]:
        assert rank["pushes"] == [2, 3] and rank["is the start"]
    for rank in ranks:
        assert rank["completions"] == [3, 3]
    assert len(ranks[0]["gap"]) == 2 and max(ranks[0]["gap"]) < 1e-4
