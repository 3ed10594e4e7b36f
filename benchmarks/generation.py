# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A round's completions through `generate`, in calls of several sizes, and through transformers' continuous batching.

Completions end with equal probability at every token, so that their lengths differ as much as lengths do: `generate`
goes on until the longest of a call has ended. Both go through a trainer, in turns, so that a busy machine slows both;
prompts are sorted by length, as a trainer sorts them. Nothing is downloaded.

    python benchmarks/generation.py
    python benchmarks/generation.py --device cuda --hidden_size 2048 --layers 24 --prompts 512 --dtype bfloat16
"""

import argparse
import json
import logging
import math
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from measuring import fill, machine
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_nash import NashTrainer, PairConfig, RandomJudge


VOCABULARY = 8192
EOS = 1
COMPLETIONS = 2


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {"<pad>": 0, "<eos>": EOS, "<unk>": 2} | {f"w{index}": index for index in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_model(options: argparse.Namespace) -> LlamaForCausalLM:
    """A Llama that ends a completion with probability 1 / `mean_tokens` at every token."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=options.hidden_size,
            intermediate_size=options.hidden_size * 11 // 4,
            num_hidden_layers=options.layers,
            num_attention_heads=options.hidden_size // 64,
            num_key_value_heads=options.hidden_size // 64,
            max_position_embeddings=4096,
            pad_token_id=0,
            eos_token_id=EOS,
            bos_token_id=None,
        )
    )
    with torch.no_grad():
        model.lm_head.weight.mul_(1e-3)  # all other words are alike
        model.lm_head.bias = torch.nn.Parameter(torch.zeros(VOCABULARY))
        model.lm_head.bias[EOS] = math.log((VOCABULARY - 1) / (options.mean_tokens - 1))
    return model.to(getattr(torch, options.dtype))


def build_trainer(options: argparse.Namespace, prompts: list[str], folder: str, **engine) -> NashTrainer:
    trainer = NashTrainer(
        model=build_model(options),
        args=PairConfig(
            output_dir=folder,
            use_cpu=options.device == "cpu",
            bf16=options.dtype == "bfloat16",
            report_to="none",
            num_generations=COMPLETIONS,
            max_new_tokens=options.new_tokens,
            max_length=options.new_tokens + max(len(prompt.split()) for prompt in prompts),
            **engine,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=build_tokenizer(),
        judge=RandomJudge(),
    )
    trainer.model.train()
    return trainer


def sample(trainer: NashTrainer, prompts: list[str], size: int) -> tuple[float, int]:
    """Seconds and tokens of a round in calls of `size` prompts."""
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    start, tokens = time.perf_counter(), 0
    for first in range(0, len(prompts), size):
        _, completions = trainer.generate(prompts[first : first + size], COMPLETIONS)
        tokens += sum(len(ids) for rows in completions for ids in rows)
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--hidden_size", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=256)
    parser.add_argument("--mean_tokens", type=float, default=80)
    parser.add_argument("--sizes", nargs="+", type=int, default=[4, 8, 32], help="prompts in a call of `generate`")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--config", type=json.loads, help="transformers_continuous_batching_config, as JSON")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/generation_DEVICE.json")
    parser.add_argument("--docs", type=Path, help="page whose table is filled")
    options = parser.parse_args()
    logging.getLogger("trl_nash").setLevel(logging.ERROR)
    draw = random.Random(0)
    lengths = sorted((draw.randint(16, 128) for _ in range(options.prompts)), reverse=True)
    prompts = [" ".join(f"w{draw.randrange(3, VOCABULARY)}" for _ in range(length)) for length in lengths]
    with tempfile.TemporaryDirectory() as folder:
        plain = build_trainer(options, prompts, folder)
        continuous = build_trainer(
            options,
            prompts,
            folder,
            use_transformers_continuous_batching=True,
            transformers_continuous_batching_config=options.config,
        )
        ways = [("continuous batching", continuous, options.prompts)]
        ways += [(f"generate, {size} prompts a call", plain, size) for size in options.sizes]
        for _, trainer, size in ways:
            sample(trainer, prompts[:8], min(size, 8))  # to warm up
        rates = {name: [] for name, _, _ in ways}
        for _ in range(options.repeats):
            for name, trainer, size in ways:
                seconds, tokens = sample(trainer, prompts, size)
                rates[name].append(tokens / seconds)
                rate = f"{tokens / seconds:>9.1f} tokens/s"
                print(f"{name:<30} {tokens:>7,} tokens {seconds:>8.2f} s {rate}", flush=True)
    # Of one turn after the other.
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates["continuous batching"], found, strict=True))
        for name, found in rates.items()
    }
    for name, ratio in ratios.items():
        print(f"continuous batching is {ratio:.2f} times as fast as {name}")
    report = {
        "benchmark": "generation",
        "options": {k: v for k, v in vars(options).items() if k not in ("output", "docs")},
        "parameters": sum(parameter.numel() for parameter in plain.model.parameters()),
        "machine": machine(options.device, torch.get_num_threads()),
        "tokens_per_second": {name: [round(rate, 1) for rate in found] for name, found in rates.items()},
        "continuous_over": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }
    output = options.output or Path(__file__).parent / "results" / f"generation_{options.device}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=2) + "\n")
    if options.docs is not None:
        lines = ["| prompts in a call of `generate` | continuous batching is |", "|---|---|"]
        lines += [
            f"| {size} | {ratios[f'generate, {size} prompts a call']:.2f} times as fast |" for size in options.sizes
        ]
        fill(options.docs, f"generation {options.device}", "\n".join(lines))


if __name__ == "__main__":
    main()
