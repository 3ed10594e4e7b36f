# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Run as two processes by `test_vllm_runs.py`: trains with the fake of vLLM, and writes what each process saw."""

import json
import os
import sys
from itertools import product
from pathlib import Path

import fake_vllm
import torch
from accelerate.utils import gather_object
from distribute import shard_on_cpu
from helpers import history, make_trainer
from matrix import forget
from safetensors.torch import load_file
from tiny import build_tokenizer
from transformers import AutoModelForCausalLM

from trl_nash.algorithms import INITIAL


def seen(folder: Path, mode: str, lora: bool, rank: int) -> dict:
    """A run of two rounds, after which the policy is sampled, and the start."""
    options = {"vllm_mode": mode, "vllm_server_base_url": fake_vllm.Server.running.url if rank == 0 else "http://"}
    trainer = make_trainer(
        "ipo",
        folder / f"{mode}-{lora}",
        model=AutoModelForCausalLM.from_pretrained(folder / "model"),
        tokenizer=build_tokenizer(),
        lora=lora,
        use_vllm=True,
        num_generations=3,
        steps_per_generation=2,
        gradient_accumulation_steps=2,
        max_steps=2,
        **options,
    )
    trainer.train()
    engine = fake_vllm.LLM.made[-1].engine if mode == "colocate" else fake_vllm.Server.running.engine
    pushes = [engine.pushes if mode == "colocate" or rank == 0 else None]
    prompts = ["a", "b c"] if rank == 0 else ["c d e", "d"]
    prompt_ids, completions = trainer.generate(prompts, 3)
    pushes.append(engine.pushes if mode == "colocate" or rank == 0 else None)
    trainer.generate(prompts, 3, INITIAL)
    weights, saved = dict(engine.model.named_parameters()), load_file(folder / "model" / "model.safetensors")
    return {
        "gap": history(trainer, "sampling/logp_gap"),
        "pushes": pushes,
        "prompts": [trainer._tokenizer.decode(ids) for ids in prompt_ids],
        "completions": [len(rows) for rows in completions],
        "is the start": all(torch.equal(weight, saved[name]) for name, weight in weights.items()),
        "wrapped": type(trainer.model_wrapped).__name__,
    }


def main(folder: Path) -> None:
    shard_on_cpu()
    results, rank = {}, int(os.environ["RANK"])
    for mode, lora in product(("colocate", "server"), (False, True)):
        with fake_vllm.installed(), fake_vllm.Server(str(folder / "model")):
            found = seen(folder, mode, lora, rank)
        results[f"{mode} {'lora' if lora else 'full'}"] = gather_object([found])
        forget()
    if torch.distributed.get_rank() == 0:
        (folder / "result.json").write_text(json.dumps(results))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
