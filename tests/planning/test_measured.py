# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash plan` says a run needs, held against the tensors of runs that have trained on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trl_nash.planning.costs import activations as plan_activations
from trl_nash.planning.costs import memory as plan_memory
from trl_nash.planning.model import sizes_by_hand
from trl_nash.planning.run import Run


TESTS = Path(__file__).parents[1]
MODEL = sizes_by_hand(
    None,
    hidden_size=512,
    intermediate_size=1408,
    num_hidden_layers=6,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=2048,
)
SHARED = {
    "algorithm": "iterative-ipo",
    "strategy": "cpu",
    "precision": "fp32",
    "gradient_checkpointing": False,
    "rounds": 1,
    "per_device_train_batch_size": 2,
    "max_length": 48,
    "max_new_tokens": 16,
    "lora_r": 8,
}
LORA = {"use_peft": True}
HALF = {"precision": "bf16"}
BITS_16 = HALF | {"dtype": "bfloat16"}
CELLS = {
    "full": {},
    "full, autocast": HALF,
    "full in 16 bits, ONPO": BITS_16 | {"algorithm": "onpo", "rounds": 4, "anchor_history": 3},
    "full, checkpoints, COMAL": {
        "gradient_checkpointing": True,
        "algorithm": "comal",
        "rounds": 3,
        "reference_rounds": 1,
        "pair_selection": "best_worst",
    },
    "full, paged optimizer, Nash-MD": {"optim": "paged_adamw_32bit", "algorithm": "nash-md"},
    "full, 8-bit optimizer, Nash-EMA": {
        "optim": "adamw_bnb_8bit",
        "algorithm": "nash-md",
        "opponent": "ema",
        "rounds": 2,
    },
    "LoRA everywhere, 8-bit optimizer": LORA | {"lora_target_modules": ["all-linear"], "optim": "adamw_bnb_8bit"},
    "LoRA on 16 bits": LORA | BITS_16,
    "LoRA, autocast, checkpoints": LORA | HALF | {"gradient_checkpointing": True},
    "QLoRA, ONPO with two fits": LORA
    | {"load_in_4bit": True, "algorithm": "onpo", "fits": "two", "rounds": 2, "steps_per_generation": 2},
    "QLoRA, nested, 16 bits": LORA | BITS_16 | {"load_in_4bit": True, "use_bnb_nested_quant": True},
    "int8, COMAL, K = 3": LORA
    | {"load_in_8bit": True, "algorithm": "comal", "rounds": 2, "reference_rounds": 1, "num_generations": 3},
}
RUNS = {name: Run(**SHARED | cell) for name, cell in CELLS.items()}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, dict]:
    file = tmp_path_factory.mktemp("plan") / "cells.json"
    file.write_text(json.dumps({name: SHARED | cell for name, cell in CELLS.items()}))
    paths = [str(TESTS), str(TESTS / "trainers"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, str(TESTS / "planning" / "plan_measure.py"), str(file)],
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CELLS)
def test_bytes_are_those_of_a_run(measured, name):
    run, found = RUNS[name], measured[name]
    planned = plan_memory.memory(MODEL, run)
    assert planned.fit["weights"] == found["weights"]
    assert planned.fit["gradients"] == found["gradients"]
    assert planned.fit["optimizer states"] == found["optimizer states"]
    assert planned.host.get("frozen policies", 0) == found["frozen policies"]
    assert planned.host["round's buffer"] == found["round's buffer"]
    assert planned.sampling["KV cache"] == found["KV cache"]
    assert [run.scorings(index) for index in range(run.rounds)] == found["scorings"]


@pytest.mark.parametrize("name", CELLS)
def test_saved_activations_are_near_those_of_a_run(measured, name):
    run = RUNS[name]
    planned = plan_activations.activations(MODEL, run) + saved_by_head(run)
    if run.gradient_checkpointing:
        # What a layer saves again is made in the backward, and not seen by the hooks of the forward.
        planned -= run.rows * run.max_length * plan_activations.layer_activations(MODEL, run)
    else:
        planned += plan_memory.autocast_copies(MODEL, run)
    assert 0.92 < planned / measured[name]["saved"] < 1.08


def test_fsdp2_gathers_what_is_planned(measured):
    """In bf16, as accelerate has it, beside fp32 shards."""
    run = Run(strategy="fsdp2", num_processes=2)
    assert plan_memory.weights(MODEL, run) == measured["fsdp2"]["shards"]
    assert plan_memory.gathered(MODEL, run, whole=True) == measured["fsdp2"]["gathered"]


def saved_by_head(run: Run) -> int:
    """Rows that the head saves: their gradient, and the hidden states where its weight is trained."""
    rows = run.rows * run.max_new_tokens
    copies = 1 if run.use_peft else 2
    return copies * rows * MODEL.hidden_size * plan_memory.compute_bytes(run)
