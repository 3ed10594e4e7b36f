# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What the ways of sampling a round through transformers are worth:

* prefix: K completions of a prompt that is read once, against K rows that each read it, as `generate` has them;
* order: a round sampled longest prompt first, against the order of the dataset;
* continuous: transformers' continuous batching, against `generate` in calls of several sizes.

The ways take turns, so that a busy machine slows all of them, and a ratio is the median of turn against turn, with the
range of all turns. With `--threads 1` seconds are those of the processor. Nothing is downloaded: weights are random.

    python -m benchmarks.generation --threads 1
    python -m benchmarks.generation --parts prefix --shapes smollm2-135m
    python -m benchmarks.generation --device cuda --shapes smollm2-135m qwen-0.5b --chunk 16
"""

import argparse
import json
import logging
import math
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig

from benchmarks import RESULTS
from benchmarks.measuring import clock, fill, machine
from trl_nash.generation import prefix
from trl_nash.generation.plain import generate_plainly

from .model import EOS, VOCABULARY, build_model, build_trainer


COUNT = 8  # completions of a prompt that is read once
NEW_TOKENS = {"prefix": 128, "order": 64, "continuous": 256}  # at most, of a completion
GOAL = 1.8  # times as fast as separate prefills


def turns(ways: dict[str, Callable[[], None]], repeats: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each way, in turns, behind one turn to warm up."""
    now, _ = clock(options.threads or 0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            start = now()
            run()
            if options.device == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(round(now() - start, 3))
    return seconds


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as fast, turn against turn."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return {"median": round(statistics.median(ratios), 3), "least": round(ratios[0], 3), "most": round(ratios[-1], 3)}


def config_of(new_tokens: int) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=new_tokens, do_sample=True, top_k=0, pad_token_id=0, use_cache=True)


def words(draw: random.Random, length: int) -> list[int]:
    return [draw.randrange(3, VOCABULARY) for _ in range(length)]


def measure_prefix(shape: str, options: argparse.Namespace) -> dict:
    """K completions of one chunk of prompts."""
    model = build_model(shape).to(options.device).eval()
    draw, device = random.Random(0), torch.device(options.device)
    prompts = [words(draw, options.prompt_tokens) for _ in range(options.chunk)]
    rows = [ids for ids in prompts for _ in range(COUNT)]

    def separate(new_tokens: int = options.new_tokens["prefix"]):
        generate_plainly(model, config_of(new_tokens), device, rows, 1)

    def shared():
        generate_plainly(model, config_of(options.new_tokens["prefix"]), device, prompts, COUNT)

    def copied():
        roomy, prefix.RoomyLayer = prefix.RoomyLayer, lambda layer: layer
        try:
            shared()
        finally:
            prefix.RoomyLayer = roomy

    ways = {"separate": separate, "read once": copied, "read once, not copied": shared, "a token": lambda: separate(1)}
    seconds = turns(ways, options.repeats, options)
    prefill = statistics.median(a / b for a, b in zip(seconds["a token"], seconds["separate"], strict=True))
    return {
        "shape": shape,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "prompts": options.chunk,
        "seconds": seconds,
        "prefill_share": round(prefill, 3),
        "read_once": ratio(seconds["separate"], seconds["read once"]),
        "as_sampled": ratio(seconds["separate"], seconds["read once, not copied"]),
    }


def measure_order(shape: str, options: argparse.Namespace) -> dict:
    """A round of prompts of log-normal lengths (median 96, one in six beyond 260, at most 512)."""
    model = build_model(shape).to(options.device).eval()
    draw, device = random.Random(0), torch.device(options.device)
    lengths = [min(512, max(8, round(96 * math.exp(draw.gauss(0, 1))))) for _ in range(options.prompts)]
    prompts = [words(draw, length) for length in lengths]

    def chunks(rows: list) -> list[list]:
        return [rows[start : start + options.chunk] for start in range(0, len(rows), options.chunk)]

    def padding(rows: list) -> float:
        width = sum(len(chunk) * max(map(len, chunk)) for chunk in chunks(rows))
        return round(1 - sum(lengths) / width, 3)

    def run(rows: list) -> None:
        for chunk in chunks(rows):
            generate_plainly(model, config_of(options.new_tokens["order"]), device, chunk, 2)

    ordered = sorted(prompts, key=len, reverse=True)
    ways = {"order of the dataset": lambda: run(prompts), "longest first": lambda: run(ordered)}
    seconds = turns(ways, options.repeats, options)
    return {
        "shape": shape,
        "prompts": options.prompts,
        "chunk": options.chunk,
        "padding": {"order of the dataset": padding(prompts), "longest first": padding(ordered)},
        "seconds": seconds,
        "longest_first": ratio(seconds["order of the dataset"], seconds["longest first"]),
    }


def measure_continuous(shape: str, options: argparse.Namespace) -> dict:
    """
    Two completions of each of 32 prompts through a trainer. They end with equal probability at every token, so that
    their lengths differ as much as lengths do: `generate` goes on until the longest of a call has ended.
    """
    draw = random.Random(0)
    lengths = sorted((draw.randint(16, 128) for _ in range(32)), reverse=True)
    prompts = [" ".join(f"w{word}" for word in words(draw, length)) for length in lengths]
    tokens: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        plain = build_trainer(shape, prompts, folder, options)
        continuous = build_trainer(
            shape,
            prompts,
            folder,
            options,
            use_transformers_continuous_batching=True,
            transformers_continuous_batching_config=options.config,
        )

        def run(name: str, trainer, size: int) -> None:
            found = 0
            for first in range(0, len(prompts), size):
                _, completions = trainer.generate(prompts[first : first + size], 2)
                found += sum(len(ids) for rows in completions for ids in rows)
            tokens.setdefault(name, []).append(found)

        ways = {"continuous batching": (continuous, len(prompts))}
        ways |= {f"generate, {size} prompts a call": (plain, size) for size in options.sizes}
        seconds = turns(
            {name: lambda name=name, way=way: run(name, *way) for name, way in ways.items()}, options.repeats, options
        )
    cost = {
        name: [time / count for time, count in zip(found, tokens[name][1:], strict=True)]
        for name, found in seconds.items()
    }
    return {
        "shape": shape,
        "end_of_sequence": EOS,
        "tokens_per_second": {name: [round(1 / each, 1) for each in found] for name, found in cost.items()},
        "continuous_over": {
            str(size): ratio(cost[f"generate, {size} prompts a call"], cost["continuous batching"])
            for size in options.sizes
        },
    }


def times(found: dict[str, float]) -> str:
    return f"{found['median']:.2f} ({found['least']:.2f} to {found['most']:.2f})"


def tables(report: dict) -> dict[str, str]:
    """The tables of the page, by the part that they belong to."""
    made = {
        "prefix": [
            "| weights | prompts | prefill's share if K read it | prompt read once | and no copy for every token |",
            "|---|---|---|---|---|",
            *(
                f"| {row['shape']}, {row['dtype']} | {row['prompts']} | {row['prefill_share']:.0%} "
                f"| {times(row['read_once'])} | {times(row['as_sampled'])} |"
                for row in report.get("prefix", [])
            ),
        ],
        "order": [
            "| weights | padding of prompts, before and after | longest first |",
            "|---|---|---|",
            *(
                f"| {row['shape']} | {row['padding']['order of the dataset']:.0%} and "
                f"{row['padding']['longest first']:.0%} | {times(row['longest_first'])} |"
                for row in report.get("order", [])
            ),
        ],
        "continuous": [
            "| prompts in a call of `generate` | continuous batching is faster by |",
            "|---|---|",
            *(
                f"| {size} | {times(found)} |"
                for row in report.get("continuous", [])
                for size, found in row["continuous_over"].items()
            ),
        ],
    }
    return {part: "\n".join(lines) for part, lines in made.items() if part in report}


MEASURES = {"prefix": measure_prefix, "order": measure_order, "continuous": measure_continuous}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.generation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--parts", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--shapes", nargs="+", default=["smollm2-135m", "llama-34m", "llama-7m"], help="for prefix")
    parser.add_argument("--shape", default="llama-34m", help="for order and continuous")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--chunk", type=int, default=8, help="prompts in a call: a trainer's default")
    parser.add_argument("--prompts", type=int, default=64, help="of the round whose order is measured")
    parser.add_argument("--prompt_tokens", type=int, default=256, help="for prefix")
    parser.add_argument("--new_tokens", type=int, help=f"at most, of a completion; else {NEW_TOKENS}")
    parser.add_argument("--sizes", nargs="+", type=int, default=[4, 8, 32], help="prompts in a call of `generate`")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--config", type=json.loads, help="transformers_continuous_batching_config, as JSON")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/generation_DEVICE.json")
    parser.add_argument("--docs", type=Path, help="page whose tables are filled")
    options = parser.parse_args()
    options.new_tokens = {part: options.new_tokens or tokens for part, tokens in NEW_TOKENS.items()}
    logging.getLogger("trl_nash").setLevel(logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)
    output = options.output or RESULTS / f"generation_{options.device}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "benchmark": "generation",
        "options": {k: v for k, v in vars(options).items() if k not in ("output", "docs")},
        "machine": machine(options.device, torch.get_num_threads()),
        "seconds_of": clock(options.threads or 0)[1],
        "prefix_of": {
            "prompt": options.prompt_tokens,
            "completion": options.new_tokens["prefix"],
            "completions": COUNT,
            "goal": GOAL,
        },
    }
    for part in options.parts:
        report[part] = []
        for shape in options.shapes if part == "prefix" else [options.shape]:
            report[part].append(MEASURES[part](shape, options))
            output.write_text(json.dumps(report, indent=2) + "\n")
            print(tables(report)[part].splitlines()[-1], flush=True)
    for part, table in tables(report).items():
        print(f"\n{table}")
        if options.docs is not None:
            fill(options.docs, f"{part} {options.device}", table)


if __name__ == "__main__":
    main()
