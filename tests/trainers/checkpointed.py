# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Runs that are stopped and go on, for the tests of checkpoints."""

import os
import shutil
from pathlib import Path

import torch
from helpers import equal, lora_config, make_trainer, perturb
from peft import get_peft_model
from tiny import build_model, build_tokenizer
from transformers import TrainerCallback


# Two epochs of two rounds of 4 prompts; a round is 2 optimizer steps (4 with two fits, 1 in Nash-MD).
OPTIONS = {"learning_rate": 0.05, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
OWN = {
    "ipo": {"steps_per_generation": 2},
    "onpo-one": {"steps_per_generation": 2, "anchor_history": 3},
    "onpo-two": {"steps_per_generation": 2},
    "comal": {"steps_per_generation": 2, "reference_rounds": 2},
    "nash-md": {"gradient_accumulation_steps": 2},
    "nash-ema": {"gradient_accumulation_steps": 2},
}
STEPS_A_ROUND = {"onpo-two": 4, "nash-md": 1, "nash-ema": 1}


def trained_adapter():
    torch.manual_seed(3)
    model = get_peft_model(build_model(build_tokenizer()), lora_config())
    perturb(model, seed=11)
    return model


KINDS = {
    "full": dict,
    "lora": lambda: {"lora": True},
    "trained lora": lambda: {"model": trained_adapter()},
    "pissa": lambda: {"peft_config": lora_config(init_lora_weights="pissa")},
    "ref_model": lambda: {"extra": {"ref_model": build_model(build_tokenizer(), seed=5, num_hidden_layers=1)}},
}


def build(algorithm, folder, kind="full", **options):
    return make_trainer(algorithm, folder, **KINDS[kind](), **OPTIONS | OWN[algorithm] | options)


def steps_of(trainer, after: int = 0) -> list[dict]:
    """The training log behind a step, without what is measured in seconds."""
    return [
        {name: value for name, value in entry.items() if not name.startswith("time/")}
        for entry in trainer.state.log_history
        if "loss" in entry and entry["step"] > after
    ]


def assert_same_run(resumed, whole, after: int) -> None:
    """Every later loss and metric, the weights and the frozen policies are equal, not just close."""
    assert len(steps_of(whole, after)) > 0
    assert steps_of(resumed, after) == steps_of(whole, after)
    assert equal(resumed.model.state_dict(), whole.model.state_dict())
    frozen, expected = resumed.policies._weights, whole.policies._weights
    assert frozen.keys() == expected.keys()
    assert all(equal(frozen[name], expected[name]) for name in expected)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 9)


def copy_of(folder: Path, tmp_path: Path, steps: list[int]) -> Path:
    for step in steps:
        shutil.copytree(folder / f"checkpoint-{step}", tmp_path / f"checkpoint-{step}")
    return tmp_path


class Interrupt(TrainerCallback):
    """Stops a run as Ctrl-C does, at the end of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt
