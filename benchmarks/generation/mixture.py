# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What it costs to sample Nash-MD's opponent, the geometric mixture of policy and reference, beside sampling as many
completions from the policy alone.

Two policies are run for each token, each behind its own KV cache. Drawing from 32,000 words, a third of the time on a
CPU, is paid once, so the ratio stays below 2x; the implementation that TRL removed had no cache and took 8x to 9x. The
two kinds of generation alternate, so that a busy machine slows both, and the ratio is the median over the repeats of
one after the other. Nothing is downloaded.

    python -m benchmarks.generation.mixture --threads 1
    python -m benchmarks.generation.mixture --device cuda --dtype bfloat16 --shape qwen2.5-0.5b --prompts 32
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig

from benchmarks import RESULTS
from benchmarks.measuring import MISSED, machine
from benchmarks.shapes import SHAPES, build_model, build_tokenizer
from trl_nash import NashMDConfig, NashMDTrainer, RandomJudge
from trl_nash.algorithms import INITIAL


PROMPT_TOKENS = 32
COMPLETIONS = 2
LIMIT = 3.0


def build_trainer(
    policy: str, prompts: list[str], new_tokens: int, folder: str, options: argparse.Namespace
) -> NashMDTrainer:
    """A trainer that is ready to sample, its policy and reference being kept as `policy` says."""
    dtype = getattr(torch, options.dtype)
    trainer = NashMDTrainer(
        model=build_model(options.shape, 0, dtype, options.device),
        ref_model=build_model(options.shape, 1, dtype, options.device) if policy == "ref_model" else None,
        args=NashMDConfig(
            output_dir=folder,
            use_cpu=options.device == "cpu",
            bf16=options.dtype == "bfloat16",
            report_to="none",
            mixture_coef=0.125,
            num_generations=COMPLETIONS,
            per_device_train_batch_size=len(prompts),
            max_new_tokens=new_tokens,
            max_length=PROMPT_TOKENS + new_tokens,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=build_tokenizer(options.shape),
        judge=RandomJudge(),
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if policy == "lora" else None,
    )
    trainer.policies.ensure_initial()
    trainer.model.train()
    return trainer


def measure(policy: str, prompts: list[str], new_tokens: int, options: argparse.Namespace) -> dict:
    """Medians over alternating repeats, after one of each to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(policy, prompts, new_tokens, folder, options)

        def seconds(sample) -> float:
            start = time.perf_counter()
            completions = sample()
            elapsed = time.perf_counter() - start
            assert max(len(ids) for row in completions for ids in row) == new_tokens
            return elapsed

        def plain():
            return trainer.generate(prompts, COMPLETIONS)[1]

        def mixture():
            return trainer.generate(prompts, COMPLETIONS, {INITIAL: trainer.args.mixture_coef})[1]

        pairs = [(seconds(plain), seconds(mixture)) for _ in range(options.repeats + 1)][1:]
    return {
        "policy": policy,
        "new_tokens": new_tokens,
        "plain_seconds": round(statistics.median(first for first, _ in pairs), 4),
        "mixture_seconds": round(statistics.median(second for _, second in pairs), 4),
        "ratio": round(statistics.median(second / first for first, second in pairs), 3),
        "ratios": [round(second / first, 3) for first, second in pairs],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the weights")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--policies", nargs="+", default=["full", "lora", "ref_model"])
    parser.add_argument("--new_tokens", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; 1 is best where other work keeps the cores busy")
    parser.add_argument("--output", type=Path, default=RESULTS / "mixture_generation.json", help="JSON file")
    options = parser.parse_args()
    logging.getLogger("trl_nash").setLevel(logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    vocabulary = SHAPES[options.shape].vocab_size
    words = torch.randint(3, vocabulary, (options.prompts, PROMPT_TOKENS), generator=generator)
    # Each prompt has a word less than the one before, so that there is padding as in real batches.
    prompts = [
        " ".join(f"w{word}" for word in row[: PROMPT_TOKENS - index % PROMPT_TOKENS])
        for index, row in enumerate(words.tolist())
    ]

    results = []
    print(f"{'policy':<10} {'new tokens':>10} {'plain':>9} {'mixture':>9} {'ratio':>7}")
    for policy in options.policies:
        for new_tokens in options.new_tokens:
            result = measure(policy, prompts, new_tokens, options)
            results.append(result)
            print(
                f"{policy:<10} {new_tokens:>10} {result['plain_seconds']:>7.2f} s {result['mixture_seconds']:>7.2f} s "
                f"{result['ratio']:>6.2f}x",
                flush=True,
            )
    report = {
        "benchmark": "mixture_generation",
        "prompts": options.prompts,
        "completions_per_prompt": COMPLETIONS,
        "shape": options.shape,
        "dtype": options.dtype,
        "parameters": build_model(options.shape, 0, device="meta").num_parameters(),
        "vocabulary": vocabulary,
        "limit": LIMIT,
        "machine": machine(options.device, torch.get_num_threads()),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    slow = [result for result in results if result["ratio"] > LIMIT]
    for result in slow:
        print(f"{result['policy']} x {result['new_tokens']} is slower than {LIMIT:g}x.", file=sys.stderr)
    return MISSED if slow else 0


if __name__ == "__main__":
    sys.exit(main())
