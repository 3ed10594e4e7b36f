# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What it costs to sample Nash-MD's opponent, the geometric mixture of policy and reference, beside sampling as many
completions from the policy alone.

Two policies are run for each token, each behind its own KV cache. Drawing from 32,000 words, a third of the time on a
CPU, is paid once, so the ratio stays below 2x; the implementation that TRL removed had no cache and took 8x to 9x. The
two kinds of generation alternate, so that a busy machine slows both, and the ratio is the median over the repeats of
one after the other. Nothing is downloaded.

    python benchmarks/mixture_generation.py --threads 1
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_nash import NashMDConfig, NashMDTrainer, RandomJudge, __version__
from trl_nash.algorithms import INITIAL


VOCABULARY = 32_000
PROMPT_TOKENS = 32
COMPLETIONS = 2
LIMIT = 3.0


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token for each of 32,000 made-up words."""
    vocab = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{index}": index for index in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_model(seed: int) -> LlamaForCausalLM:
    """A Llama of 21 million weights, 16 million of them in embeddings and head, as random as it is made."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=1024,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def build_trainer(policy: str, prompts: list[str], new_tokens: int, folder: str) -> NashMDTrainer:
    """A trainer that is ready to sample, its policy and reference being kept as `policy` says."""
    trainer = NashMDTrainer(
        model=build_model(seed=0),
        ref_model=build_model(seed=1) if policy == "ref_model" else None,
        args=NashMDConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            report_to="none",
            mixture_coef=0.125,
            num_generations=COMPLETIONS,
            per_device_train_batch_size=len(prompts),
            max_new_tokens=new_tokens,
            max_length=PROMPT_TOKENS + new_tokens,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=build_tokenizer(),
        judge=RandomJudge(),
        peft_config=LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if policy == "lora" else None,
    )
    trainer.policies.ensure_initial()
    trainer.model.train()
    return trainer


def measure(policy: str, prompts: list[str], new_tokens: int, repeats: int) -> dict:
    """Medians over alternating repeats, after one of each to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(policy, prompts, new_tokens, folder)

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

        pairs = [(seconds(plain), seconds(mixture)) for _ in range(repeats + 1)][1:]
    return {
        "policy": policy,
        "new_tokens": new_tokens,
        "plain_seconds": round(statistics.median(first for first, _ in pairs), 4),
        "mixture_seconds": round(statistics.median(second for _, second in pairs), 4),
        "ratio": round(statistics.median(second / first for first, second in pairs), 3),
        "ratios": [round(second / first, 3) for first, second in pairs],
    }


def machine() -> dict:
    """What was measured on; nothing that names a host or a path."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "transformers", "trl")},
        "trl-nash": __version__,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", nargs="+", default=["full", "lora", "ref_model"])
    parser.add_argument("--new_tokens", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, help="of torch; 1 is best where other work keeps the cores busy")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "mixture_generation.json", help="JSON file"
    )
    options = parser.parse_args()
    logging.getLogger("trl_nash").setLevel(logging.ERROR)
    if options.threads:
        torch.set_num_threads(options.threads)

    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, VOCABULARY, (options.prompts, PROMPT_TOKENS), generator=generator)
    # Each prompt has a word less than the one before, so that there is padding as in real batches.
    lengths = range(PROMPT_TOKENS, PROMPT_TOKENS - options.prompts, -1)
    prompts = [
        " ".join(f"w{word}" for word in row[:length]) for row, length in zip(words.tolist(), lengths, strict=True)
    ]

    results = []
    print(f"{'policy':<10} {'new tokens':>10} {'plain':>9} {'mixture':>9} {'ratio':>7}")
    for policy in options.policies:
        for new_tokens in options.new_tokens:
            result = measure(policy, prompts, new_tokens, options.repeats)
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
        "parameters": sum(parameter.numel() for parameter in build_model(seed=0).parameters()),
        "vocabulary": VOCABULARY,
        "limit": LIMIT,
        "machine": machine(),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    slow = [result for result in results if result["ratio"] > LIMIT]
    for result in slow:
        print(f"{result['policy']} x {result['new_tokens']} is slower than {LIMIT:g}x.", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
