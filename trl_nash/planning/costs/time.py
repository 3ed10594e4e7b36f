# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tokens, floating-point operations (FLOP) and time of a run, on devices whose peak rates are known."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..known import REMOTE_JUDGES, SCORERS
from ..model import ModelSizes
from ..run import Run
from ..run.evaluation import judge_calls, pool_calls, pool_samplings, samplings, scorings
from ..run.lengths import longest
from .memory import (
    STASH,
    compute_bytes,
    engine_bytes,
    gathered,
    kv_bytes,
    loaded_bytes,
    packed,
    stream_bytes,
    trained_tensors,
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


class Tokens(NamedTuple):
    """Tokens of all devices together, at the mean lengths."""

    generated: int
    scored: float  # prompts and completions that go through a policy without gradient
    trained: float


def tokens(run: Run, scorings: float) -> Tokens:
    """Tokens of a round with that many scorings."""
    rows = run.prompts_per_round * run.num_generations
    read, _ = positions(run, rows, run.mean_prompt, run.mean_completion)
    return Tokens(run.prompts_per_round * run.completions * run.mean_own, read * scorings, read * run.fit_passes)


def evaluation_tokens(run: Run) -> Tokens:
    """Tokens of an evaluation."""
    rows = run.evaluation_prompts * run.num_generations
    read, _ = positions(run, rows, run.mean_prompt, run.mean_completion)
    return Tokens(rows * samplings(run) * run.mean_own, read * scorings(run), 0)


# ---- FLOP ----


def positions(run: Run, rows: int, prompt: int, completion: int) -> tuple[float, float]:
    """
    Tokens that go through the trunk where rows are scored, and pairs of them of which attention makes products. All
    but the last token of a prompt is read once for its completions, of which the last token is not read then.
    """
    if not run.shares_prompts:
        width = prompt + completion
        return rows * width, rows * width * width
    prompts, before = rows / run.num_generations, prompt - 1
    return prompts * before + rows * completion, prompts * before**2 + rows * completion * (before + completion)


def forward_flop(model: ModelSizes, rows: int, width: int) -> float:
    """A forward pass of the trunk. Attention is counted in full, as PyTorch's counter does: causal kernels do half."""
    return 2 * rows * width * model.active + attention_flop(model, rows * width * width)


def attention_flop(model: ModelSizes, pairs: float) -> float:
    return 4 * model.layers * pairs * model.attention


def head_flop(model: ModelSizes, positions: int, products: int = 1) -> float:
    return 2 * positions * model.hidden_size * model.vocabulary * products


def fit_flop(model: ModelSizes, run: Run, rows: int, prompt: int, completion: int) -> float:
    """Forward and backward of rows, through the trunk and the head."""
    read, pairs = positions(run, rows, prompt, completion)
    linear, attention = 2 * read * model.active, attention_flop(model, pairs)
    passes = 2 if run.use_peft else 3  # forward, gradients of inputs, gradients of weights
    flop = passes * linear + attention * 3.5  # its backward makes the matrix again: five products for two
    if run.use_peft:
        adapter = 2 * read * sum(trained_tensors(model, run))
        flop += 3 * adapter
        linear += adapter
    if run.gradient_checkpointing:
        flop += linear + attention
        if not run.use_peft:  # nothing needs what a layer's last product returns
            flop -= 2 * read * model.layers * model.hidden_size * model.intermediate_size
    return flop + head_flop(model, rows * completion, head_products(model, run))


def head_products(model: ModelSizes, run: Run) -> int:
    """Matrix products of the head in a training step, see docs/background/kernels.md."""
    if run.use_peft:
        return 2
    needed = max(2, compute_bytes(run)) * run.rows * run.longest_own * model.vocabulary
    return 3 if run.strategy != "cpu" and needed <= STASH else 4


def scoring_flop(model: ModelSizes, run: Run, rows: int) -> float:
    """A pass of a round's rows under one policy."""
    read, pairs = positions(run, rows, run.mean_prompt, run.mean_completion)
    return 2 * read * model.active + attention_flop(model, pairs) + head_flop(model, rows * run.mean_own)


def generation_flop(model: ModelSizes, run: Run, rows: int) -> float:
    """Prompts, each of them read once for its K completions, then token by token."""
    prompt, completion = run.mean_prompt, decoded(run, run.generation_chunk * run.num_generations)
    positions = completion * (prompt + completion / 2)  # that are attended to
    flop = prefill_flop(model, run, rows / run.num_generations) + 2 * rows * completion * model.active
    return flop + 4 * model.layers * rows * positions * model.attention + head_flop(model, rows * completion)


def prefill_flop(model: ModelSizes, run: Run, prompts: float) -> float:
    """
    All but a prompt's last token, from which its completions begin; in a dialogue all that was said is read again
    before each further turn.
    """
    flop = forward_flop(model, prompts, run.mean_prompt - 1)
    for turn in range(1, run.turns):
        said = min(2 * turn * run.mean_turn, run.mean_completion)
        flop += forward_flop(model, prompts * run.num_generations, run.mean_prompt + said)
    return flop


def decoded(run: Run, rows: float) -> float:
    """Tokens that are decoded for each of `rows` completions of a call: `generate` goes on until all have ended."""
    return run.turns * (run.mean_turn if run.use_vllm else longest(run.mean_turn, run.max_new_tokens, rows))


def judge_flop(run: Run) -> float:
    """A round's comparisons by a local model: prompt and answers in a forward pass."""
    return judge_call_flop(run) * run.judge_calls * run.prompts_per_round


def judge_call_flop(run: Run) -> float:
    answers = 1 if run.judge in SCORERS else 2
    return 2.0 * run.judge_parameters * (run.mean_prompt + answers * run.mean_completion)


def evaluation_flop(model: ModelSizes, run: Run) -> float:
    """FLOP of an evaluation on all devices."""
    rows = run.evaluation_prompts * run.num_generations
    calls = run.evaluation_prompts * judge_calls(run)
    flop = generation_flop(model, run, rows * samplings(run)) + judge_call_flop(run) * calls
    return flop + scorings(run) * scoring_flop(model, run, rows)


def pool_flop(model: ModelSizes, run: Run) -> float:
    """FLOP of an opponent pool on all devices, over a run: its answers, one to a prompt, and their comparisons."""
    alone, prompts = replace(run, num_generations=1), run.evaluation_prompts
    answers = generation_flop(model, alone, prompts * pool_samplings(run)) if run.opponent_pool_rounds else 0.0
    return answers + judge_call_flop(run) * prompts * pool_calls(run)


def round_flop(model: ModelSizes, run: Run, scorings: float) -> dict[str, float]:
    """FLOP of a round on all devices, by what they are for."""
    rows = run.prompts_per_round * run.num_generations
    sampled = run.completions + (run.num_generations if run.plays_mixture else 0)  # two policies for each of those
    return {
        "generation": generation_flop(model, run, run.prompts_per_round * sampled),
        **({"weights to vLLM": 0.0} if run.use_vllm else {}),
        "judge": judge_flop(run),
        "scoring": scorings * scoring_flop(model, run, rows),
        "fit": run.fit_passes * fit_flop(model, run, rows, run.mean_prompt, run.mean_completion),
    }


# ---- Time ----


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
    passes = scorings(run) * scoring_flop(model, run, run.evaluation_prompts * run.num_generations)
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
