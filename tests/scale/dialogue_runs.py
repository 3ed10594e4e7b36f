# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""One of two processes that train on dialogues of different lengths: `dialogue_runs.py FOLDER RESULT`."""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from distribute import shard_on_cpu


if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    shard_on_cpu()

from helpers import history, make_trainer  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


def longer(prompts, first, second):
    return [float(len(a) > len(b)) if len(a) != len(b) else 0.5 for a, b in zip(first, second, strict=True)]


longer.symmetric = True


def user(messages):
    """Only some prompts are talked about, which not all processes have."""
    return "e" if messages[0]["content"] in ("a", "b c", "c d e") else None


def run(folder: Path, speaker) -> dict:
    trainer = make_trainer(
        "onpo-two",
        folder / "out",
        model=str(folder / "model"),
        tokenizer=AutoTokenizer.from_pretrained(folder / "model"),
        judge=longer,
        extra={"user": speaker},
        max_new_tokens=10,
        max_length=100,
        max_turns=3,
        max_steps=4,
        max_nan_rate=1.0,
    )
    calls, draw = [], trainer.sampler.draw

    def counted(contexts, count, policy=None):
        calls.append(len(contexts))
        return draw(contexts, count, policy=policy)

    trainer.sampler.draw = counted
    trainer.train()
    return {
        "wrapped": type(trainer.model_wrapped).__name__,
        "calls": calls,
        "turns": history(trainer, "rollouts/turns"),
        "losses": history(trainer, "loss"),
    }


folder, result = Path(sys.argv[1]), Path(sys.argv[2])
found = {name: gather_object([run(folder, speaker)]) for name, speaker in (("function", user), ("start", "initial"))}
if os.environ["RANK"] == "0":
    result.write_text(json.dumps(found))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
