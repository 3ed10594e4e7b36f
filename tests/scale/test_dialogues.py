# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Two processes whose dialogues have different lengths: where weights are sharded they make the same calls."""

import functools
import math
import tempfile
from pathlib import Path

import pytest
import torch
from distribute import BACKENDS, launch, needs_deepspeed
from tiny import build_model, build_tokenizer


pytestmark = pytest.mark.slow


@functools.cache
def launched(backend: str) -> dict:
    if backend.startswith("zero"):
        needs_deepspeed()
    folder = Path(tempfile.mkdtemp())
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)  # so that turns end
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    result = folder / "result.json"
    return launch(BACKENDS[backend], "dialogue_runs.py", str(folder), str(result), result=result, timeout=600)


@pytest.mark.parametrize("user", ["function", "start"])
@pytest.mark.parametrize("backend", ["ddp", "fsdp2", "zero3"])
def test_ranks_come_to_an_end_together(backend, user):
    """Where ranks must sample together, or the user is a frozen policy, they make the same calls."""
    ranks = launched(backend)[user]
    wrapped = {"ddp": "DistributedDataParallel", "fsdp2": "FSDPLlamaForCausalLM", "zero3": "DeepSpeedEngine"}
    assert [rank["wrapped"] for rank in ranks] == [wrapped[backend]] * 2
    assert max(ranks[0]["turns"]) > 1 and all(map(math.isfinite, ranks[0]["losses"]))
    if backend != "ddp" or user == "start":
        assert ranks[0]["calls"] == ranks[1]["calls"]
