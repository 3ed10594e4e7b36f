# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash plan` counts of vLLM: the engine's memory, its time, and how often it is given weights."""

from dataclasses import replace

import pytest

from trl_nash.cli.main import main
from trl_nash.planning.costs import Plan
from trl_nash.planning.costs import memory as plan_memory
from trl_nash.planning.costs import time as plan_time
from trl_nash.planning.costs import vllm as plan_vllm
from trl_nash.planning.costs.time import DEVICES, Speed
from trl_nash.planning.model import sizes_by_hand
from trl_nash.planning.run import Run


SEVEN_B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}


@pytest.mark.parametrize(
    "run, count",
    [
        (Run(), 0),
        (Run(use_vllm=True, steps_per_generation=16), 1),  # whatever the number of calls
        (Run(algorithm="egpo", use_vllm=True), 2),
        (Run(algorithm="nash-md", use_vllm=True, mixture_coef=0.0, steps_per_generation=4), 1),
        (Run(algorithm="nash-md", use_vllm=True, opponent="ema", steps_per_generation=4), 8),  # by turns, in 4 calls
        (Run(algorithm="nash-md", use_vllm=True, mixture_coef=1.0, per_device_generation_batch_size=8), 2),
    ],
)
def test_weights_go_to_vllm_so_often(run, count):
    """As tests/generation/test_vllm_weights.py counts them."""
    assert plan_vllm.pushes(run) == count


def test_vllm_by_hand():
    """7B on an H100: 2 bytes a weight in the engine, whatever the policy has; a push reads those and writes these."""
    model = sizes_by_hand(None, **SEVEN_B, intermediate_size=11008, vocab_size=32000)
    count, device, speed = 6_738_415_616, DEVICES["H100"], Speed()
    run = Run(per_device_train_batch_size=4, max_length=300, max_new_tokens=100, use_vllm=True, num_generations=3)
    row = 300 * 2 * 32 * 4096 * 2
    assert plan_vllm.least_share(model, run, 10**11) == pytest.approx((2 * count + row) / 1e11)
    halves = replace(run, vllm_tensor_parallel_size=2)
    assert plan_vllm.least_share(model, halves, 10**11) == pytest.approx((2 * count + row) / 2e11)
    parts = plan_time.round_seconds(model, run, device, speed, scorings=0)
    assert parts["weights to vLLM"] == pytest.approx((4 + 2) * count / (3350e9 * 0.6))
    server = plan_time.round_seconds(model, replace(run, vllm_mode="server"), device, speed, scorings=0)
    assert server["weights to vLLM"] == pytest.approx(4 * count / 10e9)
    read = 2 * count + 12 * 250 * (2 * 32 * 4096 * 2)  # an odd number of completions is sampled as it is
    prefill = (2 * 4 * 199 * model.trunk + 4 * 32 * 4 * 199 * 199 * 4096) / (989e12 * 0.45)  # its prefix cache
    assert parts["generation"] == pytest.approx(prefill + 100 * read / (3350e9 * 0.6))
    assert Plan(model, run, device, speed).tokens_a_round.generated == 4 * 3 * 100


def test_memory_of_vllm():
    """A colocated engine has its share of the device, asleep none in a fit; one on a server has none at all."""
    model = sizes_by_hand(int(1e9))

    def engine(**options):
        sizes = plan_memory.memory(model, Run(use_vllm=True, **options), limit=10**11)
        return [part.get("vLLM engine", 0) for part in (sizes.sampling, sizes.fit)]

    assert engine(vllm_gpu_memory_utilization=0.25) == [25 * 10**9] * 2
    assert engine(vllm_gpu_memory_utilization=0.25, vllm_enable_sleep_mode=True) == [25 * 10**9, 0]
    assert engine(vllm_mode="server") == [0, 0]


def test_advice_on_vllm():
    """An engine that could not start gets its share, one that is in the way sleeps."""
    model = sizes_by_hand(int(7e9))

    def advice(**options):
        run = Run(use_vllm=True, use_peft=True, dtype="bfloat16", per_device_train_batch_size=1, **options)
        plan = Plan(model, run, DEVICES["H100"], Speed())
        assert plan.fits == (plan.advice() is None)
        return plan.advice()

    assert advice() is None
    assert "use --vllm_gpu_memory_utilization 0.19." in advice(vllm_gpu_memory_utilization=0.1)
    assert (
        advice(vllm_gpu_memory_utilization=0.79, max_length=4096) == "It does not fit: use --vllm_enable_sleep_mode."
    )


def test_a_mixture_is_not_planned_with_vllm(capsys):
    assert main(["plan", "nash-md", "--parameters", "1B", "--use_vllm"]) == 2
    assert "--mixture_coef is 0 or 1" in capsys.readouterr().err
    assert main(["plan", "nash-md", "--parameters", "1B", "--use_vllm", "--mixture_coef", "0"]) == 0
    assert "weights to vLLM" in capsys.readouterr().out
