# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Trains, evaluates, saves and resumes with whichever base class there is; what came out goes into a file.

    python both_ways.py FOLDER
"""

import sys
from pathlib import Path

import torch
from helpers import lora_config, make_trainer, prompt_dataset, weights
from peft import get_peft_model
from tiny import build_model, build_tokenizer
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from trl_nash.compat import OWN_BASE


CLOCKS = ("time/", "runtime", "per_second")


def in_4bit(folder: Path) -> LlamaForCausalLM:
    build_model(build_tokenizer(), hidden_size=32, intermediate_size=64).save_pretrained(folder)
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    return LlamaForCausalLM.from_pretrained(folder, quantization_config=nf4)


def settings(name: str, folder: Path) -> dict:
    """The model, and what is trained of it."""
    plain = build_model(build_tokenizer(), attention_dropout=0.1)
    return {
        "full": lambda: {"algorithm": "comal", "model": plain},
        "ref_model": lambda: {"algorithm": "nash-md", "extra": {"ref_model": build_model(build_tokenizer(), 5)}},
        "lora": lambda: {"algorithm": "onpo-one", "peft_config": lora_config(lora_dropout=0.1)},
        "adapted": lambda: {"algorithm": "ipo", "model": get_peft_model(plain, lora_config())},
        "qlora": lambda: {"algorithm": "onpo-two", "model": in_4bit(folder / "nf4"), "lora": True},
        "bf16": lambda: {"algorithm": "comal", "lora": True, "bf16": True},
    }[name]()


def run(name: str, folder: Path) -> dict:
    """Of a run of four steps that is evaluated and saved after two, and of one that goes on from there."""
    found = {}
    for part in ("whole", "resumed"):
        torch.manual_seed(3)
        given = settings(name, folder)
        trainer = make_trainer(
            output_dir=folder / name,
            gradient_checkpointing=True,
            max_steps=4,
            num_generations=4 if given["algorithm"] != "comal" else 2,
            eval_strategy="steps",
            eval_steps=2,
            save_strategy="steps",
            save_steps=2,
            **given | {"extra": given.get("extra", {}) | {"eval_dataset": prompt_dataset(["a", "b c"])}},
        )
        built = {
            "attributes": sorted(vars(trainer)),
            "dtypes": {n: p.dtype for n, p in trainer.model.named_parameters()},
        }
        trainer.train(resume_from_checkpoint=str(folder / name / "checkpoint-2") if part == "resumed" else None)
        logs = [
            {key: value for key, value in entry.items() if not any(clock in key for clock in CLOCKS)}
            for entry in trainer.state.log_history
        ]
        found[part] = built | {"logs": logs, "weights": weights(trainer.model), "rng": torch.get_rng_state()}
    return found


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    found = {name: run(name, folder) for name in ("full", "ref_model", "lora", "adapted", "qlora", "bf16")}
    torch.save({"own": OWN_BASE, "runs": found}, folder / "found.pt")
