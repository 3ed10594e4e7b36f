# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Time of a run, on devices whose peak rates are known."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..known import REMOTE_JUDGES
from ..model import ModelSizes
from ..run import Run
from ..run.evaluation import judge_calls, pool_calls, pool_samplings, samplings, scorings
from .flop import decoded, evaluating, head_flop, judge_call_flop, prefill_flop, round_flop, scoring_flop
from .memory import (
    compute_bytes,
    engine_bytes,
    gathered,
    kv_bytes,
    loaded_bytes,
    packed,
    stream_bytes,
    weights,
)
from .vllm import push_seconds, pushes


class Device(NamedTuple):
    """Peak rates of a device, dense (without sparsity)."""

    memory: float  # GiB
    tflops: float  # bf16 TFLOP/s; fp16 where there is no bf16
    fp32_tflops: float
    bandwidth: float  # GB/s


# Vendors' public data sheets; bf16 with fp32 accumulation. B200: of an HGX board.
DEVICES = {
    "B200": Device(180, 2250, 75, 8000),
    "H200": Device(141, 989, 67, 4800),
    "H100": Device(80, 989, 67, 3350),
    "H100-PCIe": Device(80, 756, 51, 2000),
    "A100-80GB": Device(80, 312, 19.5, 2039),
    "A100-40GB": Device(40, 312, 19.5, 1555),
    "L40S": Device(48, 362, 91.6, 864),
    "L4": Device(24, 121, 30.3, 300),
    "A10": Device(24, 125, 31.2, 600),
    "MI300X": Device(192, 1307, 163, 5300),
    "RTX-4090": Device(24, 165, 82.6, 1008),
    "RTX-3090": Device(24, 71, 35.6, 936),
    "T4": Device(16, 65, 8.1, 320),
    "cpu": Device(0, 1, 0.5, 50),  # no data sheet: some server's order of magnitude
}


@dataclass(frozen=True)
class Speed:
    """How much of a device's peak is reached: assumptions, and options of the command."""

    training_mfu: float = 0.35
    scoring_mfu: float = 0.45  # forward passes, prefills and a local judge
    bandwidth_use: float = 0.6  # of a decoding step
    layer_overhead: float = 0.8e-3  # seconds a layer and decoding step that transformers takes to start it
    judge_rate: float = 10.0  # calls a second of a remote judge
    link: float = 10.0  # GB/s to a vLLM server


def round_seconds(model: ModelSizes, run: Run, device: Device, speed: Speed, scorings: float) -> dict[str, float]:
    """Seconds of a round, by what they are for."""
    flop = round_flop(model, run, scorings)
    peak = 1e12 * (device.tflops if compute_bytes(run) == 2 else device.fp32_tflops) * run.num_processes
    push = push_seconds(model, run, 1e9 * device.bandwidth * speed.bandwidth_use, 1e9 * speed.link)
    return {
        "generation": generation_seconds(model, run, device, speed),
        **({"weights to vLLM": pushes(run) * push} if run.use_vllm else {}),
        "judge": flop["judge"] / (peak * speed.scoring_mfu) + asked(run, run.judge_calls_a_round, speed),
        "scoring": flop["scoring"] / (peak * speed.scoring_mfu),
        "fit": flop["fit"] / (peak * speed.training_mfu),
    }


def asked(run: Run, calls: int, speed: Speed) -> float:
    """Seconds that a remote judge takes to answer."""
    return calls / speed.judge_rate if run.judge in REMOTE_JUDGES else 0.0


def evaluation_seconds(model: ModelSizes, run: Run, device: Device, speed: Speed) -> float:
    """Seconds of an evaluation."""
    passes = scorings(run) * scoring_flop(model, evaluating(run), run.evaluation_prompts * run.num_generations)
    return _evaluated(model, run, device, speed, samplings(run), judge_calls(run), passes)


def pool_seconds(model: ModelSizes, run: Run, device: Device, speed: Speed) -> float:
    """Seconds of an opponent pool, over a run."""
    alone = replace(run, num_generations=1)
    return (
        _evaluated(model, alone, device, speed, pool_samplings(run), pool_calls(run))
        if run.opponent_pool_rounds
        else 0.0
    )


def _evaluated(
    model: ModelSizes, run: Run, device: Device, speed: Speed, samplings: int, calls: int, passes: float = 0.0
) -> float:
    """
    Seconds in which the prompts of an evaluation have K completions sampled, `samplings` times, `calls` questions each
    answered by the judge, and rows scored in `passes` FLOP.
    """
    if not run.evaluation_prompts:
        return 0.0
    prompts = math.ceil(run.evaluation_prompts / run.num_processes)
    chunk = prompts if run.use_vllm else min(prompts, run.per_device_eval_batch_size)
    calls *= run.evaluation_prompts
    peak = 1e12 * (device.tflops if compute_bytes(run) == 2 else device.fp32_tflops) * run.num_processes
    forward = (judge_call_flop(run) * calls + passes) / (peak * speed.scoring_mfu)
    return sampling_seconds(model, run, device, speed, prompts, samplings, chunk) + forward + asked(run, calls, speed)


def generation_seconds(model: ModelSizes, run: Run, device: Device, speed: Speed) -> float:
    """Seconds in which each device samples its part of a round."""
    prompts = run.prompts_per_round / run.num_processes
    samplings = run.completions / run.num_generations + run.plays_mixture  # of the mixture, by each of its policies
    return sampling_seconds(model, run, device, speed, prompts, samplings, run.generation_chunk)


def sampling_seconds(
    model: ModelSizes, run: Run, device: Device, speed: Speed, prompts: float, samplings: float, chunk: int
) -> float:
    """
    Seconds in which a device samples K completions of `prompts`, `samplings` times, in calls of `chunk` prompts: bound
    by its memory, its arithmetic or its start.
    """
    calls = math.ceil(prompts / chunk) * samplings
    prompts = prompts * samplings / calls
    rows = prompts * run.num_generations
    half = stream_bytes(run) == 2 or run.use_vllm
    peak = 1e12 * (device.tflops if half else device.fp32_tflops)
    prefill = prefill_flop(model, run, prompts) / (peak * speed.scoring_mfu)

    completion = decoded(run, rows)
    read = whole_weights(model, run) + rows * (run.mean_prompt + completion / 2) * kv_bytes(model, run)
    arithmetic = (2 * rows * model.active + head_flop(model, rows)) / (peak * speed.scoring_mfu)
    step = max(read / (1e9 * device.bandwidth * speed.bandwidth_use), arithmetic)
    # Kernels are started while others run: the longer of the two counts.
    step = max(step, 0.0 if run.use_vllm else model.layers * speed.layer_overhead)
    return calls * (prefill + completion * step)


def whole_weights(model: ModelSizes, run: Run) -> int:
    """Bytes of weights that a token is multiplied with."""
    if run.use_vllm:
        return max(1, int(engine_bytes(model, run) - 2 * (1 - model.active_experts) * sum(model.experts)))
    whole = gathered(model, run, whole=True)  # of shards that which is put together, in the type of the arithmetic
    size = whole + packed(model, run) if whole else weights(model, run)
    idle = (1 - model.active_experts) * sum(model.experts) * (size / model.parameters if whole else loaded_bytes(run))
    return max(1, int(size - idle))
