# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash plan` says would make a run fit, or faster."""

import json
import re
from dataclasses import replace

import pytest

from trl_nash.cli.main import main
from trl_nash.planning.advice import hints, largest_batches
from trl_nash.planning.costs import Plan
from trl_nash.planning.costs import memory as plan_memory
from trl_nash.planning.costs.time import DEVICES, Speed
from trl_nash.planning.model import sizes_by_hand
from trl_nash.planning.run import Run
from trl_nash.planning.sizes import generation_batch


def planned(*argv: str, capsys) -> list[dict]:
    assert main(["plan", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "run",
    [
        Run(),
        Run(num_processes=8, strategy="ddp"),
        Run(algorithm="nash-md", num_processes=4),
        Run(use_peft=True, max_length=8192, max_new_tokens=4096, gradient_checkpointing=False),
    ],
)
@pytest.mark.parametrize("parameters", [1e9, 8e9, 70e9])
def test_advice_makes_it_fit(run, parameters, capsys):
    made = Plan(sizes_by_hand(int(parameters)), run, DEVICES["A100-40GB"], Speed())
    advice = made.advice()
    assert (advice is None) == made.fits
    if advice is not None and "up to 64" not in advice:
        assert replace(made, run=replace(run, **options_in(advice))).fits


_WORDS = {"": True, "and": True, "False": False}


def options_in(advice: str) -> dict:
    """The options that a sentence names, as fields of [`Run`]."""
    found = {}
    for name, value in re.findall(r"--(\w+)(?: (\w+(?:\.\w+)?))?", advice):
        found[name] = int(value) if value.isdigit() else _WORDS.get(value, value)
    if devices := re.search(r"over (\d+) devices", advice):
        found["num_processes"] = int(devices[1])
    if "gradient_accumulation_steps" in found:
        found["steps_per_generation"] = found["gradient_accumulation_steps"]
    return found


def test_fsdp2_holds_the_whole_model_while_it_samples(capsys):
    """70B on 32 devices: 2 bytes a weight on each, beside 1/32 of 4 (weights) and 8 (Adam)."""
    argv = "onpo --parameters 70B --devices 32 --device H100 --strategy fsdp2"
    (found,) = planned(*argv.split(), capsys=capsys)
    count, sampling = found["model"]["parameters"], found["memory"]["sampling"]
    assert sampling["gathered weights"] == 2 * count
    assert sampling["weights"] == pytest.approx(4 * count / 32) and not found["memory"]["fits"]
    # A server that samples needs the devices to hold only their shards.
    assert "--use_vllm --vllm_mode server" in found["advice"]
    (found,) = planned(*argv.split(), "--use_vllm", "--vllm_mode", "server", capsys=capsys)
    assert found["memory"]["fits"] and found["memory"]["sampling"]["gathered weights"] < 0.1 * 2 * count
    quantised = replace(Run(num_processes=4, strategy="fsdp2"), use_peft=True, load_in_4bit=True, dtype="bfloat16")
    model = sizes_by_hand(int(7e9))
    # accelerate leaves 4-bit weights whole.
    assert plan_memory.weights(model, quantised) > plan_memory.packed(model, quantised) > model.trunk / 2


def test_hints_are_true():
    """LoRA on float32 weights, a round of 512 prompts that is sampled 8 at a time."""
    model = sizes_by_hand(int(1e9))
    run = Run(use_peft=True, steps_per_generation=64, gradient_accumulation_steps=4)
    made = Plan(model, run, DEVICES["H100"], Speed())
    half, faster, sizes = hints(made)
    other = made.having(**options_in(half))
    assert made.memory.sampling["weights"] - other.memory.sampling["weights"] == 2 * model.parameters
    assert f"{2 * model.parameters / 2**30:.2f} GiB less" in half
    chunk = generation_batch(model, run, made.limit)
    assert f"--per_device_generation_batch_size {chunk} samples faster" in faster
    assert made.having(per_device_generation_batch_size=chunk).fits
    assert sum(made.having(**options_in(faster)).seconds.values()) < 0.5 * sum(made.seconds.values())
    for name, size in largest_batches(made).items():
        assert f"--{name} {size}" in sizes
        # Each is the edge: one more does not fit, or a device has no more prompts in a round.
        pinned = {"per_device_generation_batch_size": run.generation_chunk, name: size}
        assert made.having(**pinned).fits
        assert not made.having(**pinned | {name: size + 1}).fits or size == 512
    # Completions that are short beside their prompts: a prompt is read once for two of them, and nothing again.
    _, kept, _ = hints(made.having(per_device_generation_batch_size=chunk))
    assert kept.startswith("--gradient_checkpointing False ")
    other = made.having(**options_in(kept))
    assert other.fits and other.tokens.generated == made.tokens.generated
    assert other.tokens.trained == pytest.approx((448 + 2 * 63) / (2 * 512) * made.tokens.trained)
    assert 0.3 * made.seconds["fit"] < other.seconds["fit"] < 0.5 * made.seconds["fit"]
    # Weights that are trained are not advised into 16 bits, where a step of 5e-7 is lost in rounding.
    full = made.having(use_peft=False)
    assert full.fits and not any("bfloat16" in hint for hint in hints(full))
