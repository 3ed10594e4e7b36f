# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
A training step of `NashTrainer` beside one of TRL's `OnlineDPOTrainer` or `GRPOTrainer`, on the same model and the
same completions.

All score the completions under the policy and one frozen policy, the initial one, and run loss and backward.
`unshared` is our own step with a prompt read for each of its completions. Generation and judging are left out: they
are the same. So is the optimizer unless `--optimizer` asks for it. On a CPU peak memory is that of the process, each
step in one of its own; the times are from one process in which the trainers take turns, so that a busy machine slows
all. On CUDA each trainer has the device for itself, and memory is that of torch's allocator. Nothing is downloaded.

    python -m benchmarks.training_step --threads 2 --docs docs/background/kernels.md
    python -m benchmarks.training_step --shape smollm2-135m --bf16 --training LoRA --prompts 1 --threads 1 \
        --output benchmarks/results/training_step_bf16.json --docs docs/background/kernels.md
    python -m benchmarks.training_step --training LoRA --prompts 1 --threads 1 --completions 8 --prompt_tokens 256 \
        --new_tokens 32 --peers unshared GRPOTrainer --repeats 5 \
        --output benchmarks/results/training_step_shared.json --docs docs/background/kernels.md
    python -m benchmarks.training_step --device cuda --bf16 --shape qwen2.5-0.5b --optimizer \
        --peers OnlineDPOTrainer GRPOTrainer --prompt_tokens 128 --new_tokens 512
"""

import argparse
import gc
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.measuring import MISSED, alone, clock, fill, machine, peak, reset_peak
from benchmarks.shapes import SHAPES
from trl_nash.kernels import fused_head

from .steps import OURS, UNSHARED, build_step


HEAD = "head"  # of trl-nash's step
SLOWEST = {"small": 1.0, "smollm2-135m": 1.2}  # of OnlineDPOTrainer's time, on a CPU
LARGEST = {"small": 0.55, "smollm2-135m": 1.0}  # of its memory
MARKER = "training step benchmark"


# ---- A CPU: memory is that of a process ----


def memory(trainer: str, lora: bool, options: argparse.Namespace) -> dict[str, float]:
    """Peak memory of a step, after one on a single prompt of a few tokens."""
    torch.set_num_threads(options.threads)
    few = argparse.Namespace(**vars(options) | {"prompts": 1, "prompt_tokens": 4, "new_tokens": 4})
    with tempfile.TemporaryDirectory() as folder:
        build_step(trainer, lora, folder, few)()
        step = build_step(trainer, lora, folder, options)
        before = reset_peak()
        step()
        return {"before_mib": before / 2**20, "peak_mib": peak() / 2**20}


def times(trainers: list[str], lora: bool, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each trainer's step and of the head's part of ours, in turn, after one each to warm up."""
    torch.set_num_threads(options.threads)
    now, _ = clock(options.threads)
    seconds = {name: [] for name in (*trainers, HEAD)}
    compute = fused_head.linear_logprob

    def timed(*args, **kwargs):
        start = now()
        try:
            return compute(*args, **kwargs)
        finally:
            seconds[HEAD][-1] += now() - start

    with tempfile.TemporaryDirectory() as folder:
        steps = {trainer: build_step(trainer, lora, f"{folder}/{trainer}", options) for trainer in trainers}
        fused_head.linear_logprob = timed  # of this process only; a trainer that is built runs it too
        for _ in range(options.repeats + 1):
            seconds[HEAD].append(0.0)
            for trainer, step in steps.items():
                start = now()
                step()
                seconds[trainer].append(now() - start)
    return {name: found[1:] for name, found in seconds.items()}


def measure_cpu(lora: bool, options: argparse.Namespace) -> dict[str, dict]:
    trainers = [OURS, *options.peers]
    memories = {trainer: alone(memory, trainer, lora, options) for trainer in trainers}
    seconds = alone(times, trainers, lora, options)
    found = {trainer: {"seconds": seconds[trainer], **memories[trainer]} for trainer in trainers}
    parts = [part / whole for part, whole in zip(seconds[HEAD], seconds[OURS], strict=True)]
    found[OURS]["head_part"] = round(statistics.median(parts), 3)
    return found


# ---- CUDA: one trainer after the other ----


def measure_cuda(lora: bool, options: argparse.Namespace) -> dict[str, dict]:
    return {trainer: _measure_one(trainer, lora, options) for trainer in [OURS, *options.peers]}


def _measure_one(trainer: str, lora: bool, options: argparse.Namespace) -> dict:
    """Seconds and memory of a trainer's step, after two to warm up, or what went wrong."""
    seconds = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            step = build_step(trainer, lora, folder, options)
            for _ in range(2):
                step()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            for _ in range(options.repeats):
                torch.cuda.synchronize()
                start = time.perf_counter()
                step()
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - start)
        return {
            "seconds": seconds,
            "before_mib": before / 2**20,
            "peak_mib": torch.cuda.max_memory_allocated() / 2**20,
        }
    except Exception as error:  # a peer that does not fit is a finding
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    finally:
        step = None
        gc.collect()
        torch.cuda.empty_cache()


# ---- All of it ----


def compare(training: str, found: dict[str, dict]) -> list[dict]:
    """The rows of the table: ours beside each peer."""
    ours, rows = found[OURS], []
    for peer, theirs in found.items():
        if peer == OURS:
            continue
        row = {"training": training, "peer": peer}
        errors = {name: both["error"] for name, both in ((OURS, ours), (peer, theirs)) if "error" in both}
        if errors:
            rows.append(row | {"errors": errors})
            continue
        ratios = [a / b for a, b in zip(ours["seconds"], theirs["seconds"], strict=True)]
        own = [both["peak_mib"] - both["before_mib"] for both in (ours, theirs)]
        rows.append(
            row
            | {
                "seconds": {n: round(statistics.median(found[n]["seconds"]), 4) for n in (OURS, peer)},
                "time_ratio": round(statistics.median(ratios), 3),
                "time_ratios": [round(ratio, 3) for ratio in ratios],
                "head_part": ours.get("head_part"),
                "peak_mib": {n: round(found[n]["peak_mib"]) for n in (OURS, peer)},
                "peak_ratio": round(ours["peak_mib"] / theirs["peak_mib"], 3),
                "step_mib": dict(zip((OURS, peer), map(round, own), strict=True)),
                "step_ratio": round(own[0] / max(own[1], 1e-9), 3),
            }
        )
    return rows


def table(results: list[dict], options: argparse.Namespace) -> str:
    """The results in Markdown."""
    where = f"on a CPU, {clock(options.threads)[1]} time" if options.device == "cpu" else "on CUDA, wall time"
    lines = [
        f"`NashTrainer` beside others, {where}: {options.prompts} prompts x {options.completions} completions of "
        f"{options.new_tokens} tokens behind {options.prompt_tokens} of the prompt, "
        f"{options.shape} (V = {SHAPES[options.shape].vocab_size:,}), {'bf16' if options.bf16 else 'fp32'}, "
        f"{options.repeats} repeats.",
        "",
        "| training | beside | time, ratio (smallest to largest) | of ours in the head | peak, MiB | ratio | "
        "of the step alone, MiB | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        start = f"| {result['training']} | {result['peer']} |"
        if "errors" in result:
            lines.append(f"{start} {'; '.join(f'{n}: {e}' for n, e in result['errors'].items())} | | | | | |")
            continue
        ratios, peaks, own = result["time_ratios"], result["peak_mib"].values(), result["step_mib"].values()
        head = "" if result["head_part"] is None else f"{result['head_part']:.0%}"
        lines.append(
            f"{start} {result['time_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {head} | "
            f"{' : '.join(f'{value:,}' for value in peaks)} | {result['peak_ratio']:.2f} | "
            f"{' : '.join(f'{value:,}' for value in own)} | {result['step_ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="small", help="of the model")
    parser.add_argument("--bf16", action="store_true", help="weights and training in bf16")
    parser.add_argument("--training", nargs="+", choices=["full", "LoRA"], default=["full", "LoRA"])
    parser.add_argument(
        "--peers", nargs="+", choices=["OnlineDPOTrainer", "GRPOTrainer", UNSHARED], default=["OnlineDPOTrainer"]
    )
    parser.add_argument("--optimizer", action="store_true", help="let the step include AdamW's")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--completions", type=int, default=2, help="of a prompt; OnlineDPOTrainer has 2")
    parser.add_argument("--new_tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on a CPU")
    parser.add_argument("--output", type=Path, help="JSON file; benchmarks/results/training_step.json on a CPU")
    parser.add_argument("--docs", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    if options.completions != 2 and "OnlineDPOTrainer" in options.peers:
        parser.error("OnlineDPOTrainer has two completions of a prompt: name other --peers.")
    cuda = options.device == "cuda"
    name = "training_step_cuda.json" if cuda else "training_step.json"
    options.output = options.output or RESULTS / name
    # Limits are known of these shapes on a CPU.
    slowest, largest = (None, None) if cuda else (limits.get(options.shape) for limits in (SLOWEST, LARGEST))
    logging.getLogger("trl_nash").setLevel(logging.ERROR)
    if not cuda:
        torch.set_num_threads(1)  # in this process, which is forked
    report = {
        "benchmark": "training_step",
        **{n: v for n, v in vars(options).items() if n not in ("output", "docs", "threads", "training", "peers")},
        "vocabulary": SHAPES[options.shape].vocab_size,
        "time": "wall time" if cuda else f"{clock(options.threads)[1]} time",
        "memory": "torch's allocator"
        if cuda
        else "resident set of a process of its own, its peak reset before the step",
        "limits": {"time_ratio": slowest, "peak_ratio": largest},
        "machine": machine(options.device, threads=None if cuda else options.threads),
        "results": [],
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for training in options.training:
        report["results"] += compare(training, (measure_cuda if cuda else measure_cpu)(training == "LoRA", options))
        options.output.write_text(json.dumps(report, indent=2) + "\n")
    text = table(report["results"], options)
    print(text)
    if options.docs:
        of = f" of {options.shape}" if options.shape != "small" else ""
        of += f" with {options.completions} completions" if options.completions != 2 else ""
        fill(options.docs, MARKER + of + (" on CUDA" if cuda else ""), text)
    failed = [result for result in report["results"] if "errors" in result]
    for result in failed:
        print(f"{result['training']} training beside {result['peer']} failed.", file=sys.stderr)
    missed = [
        result
        for result in report["results"]
        if slowest is not None
        and result["peer"] == "OnlineDPOTrainer"
        and "errors" not in result
        and (result["time_ratio"] > slowest or result["peak_ratio"] > largest)
    ]
    for result in missed:
        print(f"{result['training']} training is slower or takes more memory than it may.", file=sys.stderr)
    return 1 if failed else MISSED if missed else 0


if __name__ == "__main__":
    sys.exit(main())
