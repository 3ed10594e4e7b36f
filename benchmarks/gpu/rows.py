# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is measured on a GPU: a command for each row, on a GPU and in a rehearsal, and how its report is read."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks import ROOT
from benchmarks.logprob import acceptance


REPORT = "{report}"  # in a command: the file that it writes


class Row(NamedTuple):
    """What is measured by one command."""

    name: str
    command: Sequence[str]  # behind the interpreter
    gpu: Sequence[str]  # its options on a GPU
    cpu: Sequence[str]  # and in a rehearsal
    seconds: float  # its limit
    figures: Callable[[dict], list[str]]  # lines for the table, from what it wrote so far


# ---- How reports are read ----


def kernel_figures(report: dict) -> list[str]:
    lines = [f"{v.what}: {v.verdict}{f' ({v.found})' if v.found else ''}" for v in acceptance.judge(report)]
    cells = {tuple(result[n] for n in ("hidden_size", "vocabulary", "tokens")) for result in report["results"]}
    failed = [result for result in report["results"] if "error" in result]
    lines.append(f"{len(report['results'])} times at {len(cells)} sizes, of which {len(failed)} failed")
    return lines + [f"not installed: {name} ({reason})" for name, reason in report["absent"].items()]


def step_figures(report: dict) -> list[str]:
    lines = []
    for result in report["results"]:
        start = f"{result['training']} beside {result['peer']}: "
        if "errors" in result:
            lines.append(start + "; ".join(f"{name} failed: {error}" for name, error in result["errors"].items()))
            continue
        ours, theirs = result["seconds"].values()
        lines.append(
            f"{start}{ours:.3f} s to {theirs:.3f} s ({result['time_ratio']:.2f}), peak "
            f"{' to '.join(f'{mib:,}' for mib in result['peak_mib'].values())} MiB ({result['peak_ratio']:.2f})"
        )
    return lines


def mixture_figures(report: dict) -> list[str]:
    return [
        f"{result['policy']}, {result['new_tokens']} tokens: {result['mixture_seconds']:.2f} s to "
        f"{result['plain_seconds']:.2f} s without the mixture ({result['ratio']:.2f})"
        for result in report["results"]
    ]


def generation_figures(report: dict) -> list[str]:
    lines = []
    for row in report.get("prefix", []):
        lines.append(
            f"{row['shape']}: a prompt that is read once is {row['read_once']['median']:.2f} times as fast as "
            f"{report['prefix_of']['completions']} that are read each, {row['as_sampled']['median']:.2f} times if its "
            "cache is not copied"
        )
    for row in report.get("continuous", []):
        for size, found in row["continuous_over"].items():
            lines.append(
                f"{row['shape']}: continuous batching is {found['median']:.2f} times as fast as `generate`, {size} "
                "prompts a call"
            )
    return lines


def no_figures(report: dict) -> list[str]:
    return []


# ---- The rows ----


def _gpu_tests() -> list[str]:
    """Files that have such tests: to collect all others takes a minute, and packages that a machine may not have."""
    return sorted(str(file) for file in ROOT.glob("tests/**/test_*.py") if "mark.gpu" in file.read_text("utf-8"))


ROWS = [
    Row(
        "GPU tests",
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"],
        ["-m", "gpu and not network", *_gpu_tests()],
        ["-k", "twin and not fold or head", str(ROOT / "tests/kernels/on_device.py")],
        75,
        no_figures,
    ),
    Row(
        "kernel",
        ["-m", "benchmarks.logprob", "--output", REPORT],
        "--device cuda --shapes 3584x152064 4096x128256 896x151936 --tokens 8192 --scenarios score frozen full full+1 "
        "--repeats 10".split(),
        "--device cpu --shapes 16x300 --tokens 64 --scenarios score frozen full --dtypes bfloat16 --repeats 1 "
        "--threads 1".split(),
        140,
        kernel_figures,
    ),
    Row(
        "training step",
        ["-m", "benchmarks.training_step", "--output", REPORT],
        "--device cuda --shape qwen2.5-0.5b --bf16 --optimizer --peers OnlineDPOTrainer GRPOTrainer "
        "--prompt_tokens 128 --new_tokens 512".split(),
        "--device cpu --shape tiny --bf16 --optimizer --peers OnlineDPOTrainer GRPOTrainer --prompts 2 "
        "--prompt_tokens 4 --new_tokens 8 --repeats 1 --threads 1".split(),
        100,
        step_figures,
    ),
    Row(
        "Nash-MD's mixture",
        ["-m", "benchmarks.generation.mixture", "--output", REPORT],
        "--device cuda --shape qwen2.5-0.5b --dtype bfloat16 --prompts 32 --new_tokens 64 --repeats 2 "
        "--policies full lora".split(),
        "--device cpu --shape tiny --prompts 2 --new_tokens 4 --repeats 1 --threads 1 --policies lora".split(),
        55,
        mixture_figures,
    ),
    Row(
        "prefix sharing",
        ["-m", "benchmarks.generation", "--parts", "prefix", "--output", REPORT],
        "--device cuda --shapes qwen-0.5b --repeats 2".split(),
        "--device cpu --shapes tiny --chunk 1 --prompt_tokens 8 --new_tokens 2 --repeats 1 --threads 1".split(),
        50,
        generation_figures,
    ),
    Row(
        "continuous batching",
        ["-m", "benchmarks.generation", "--parts", "continuous", "--output", REPORT],
        "--device cuda --shape qwen-0.5b --sizes 16 32 --new_tokens 128 --repeats 2".split(),
        "--device cpu --shape tiny --sizes 32 --new_tokens 2 --repeats 1 --threads 1".split(),
        50,
        generation_figures,
    ),
]
