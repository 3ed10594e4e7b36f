# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A training step of `NashTrainer` beside one of TRL's `OnlineDPOTrainer`, on the same model and the same completions.

Both score the completions under the policy and one frozen policy, the initial one, and run loss and backward.
Generation, judging and the optimizer are left out: they are the same. Peak memory is that of the process, each step in
one of its own; the times are from one process in which the two take turns, so that a busy machine slows both. Nothing
is downloaded.

    python benchmarks/training_step.py --threads 2 --docs docs/kernels.md
    python benchmarks/training_step.py --shape smollm2-135m --bf16 --training LoRA --prompts 1 --threads 1 \\
        --output benchmarks/results/training_step_bf16.json --docs docs/kernels.md
"""

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset
from measuring import alone, clock, fill, machine, peak, reset_peak
from mixture_generation import VOCABULARY, build_model, build_tokenizer
from peft import LoraConfig
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from trl_nash import NashTrainer, PairConfig, RandomJudge
from trl_nash.algorithms import INITIAL, Fit, Policy
from trl_nash.kernels import fused_head
from trl_nash.rounds.batch import collate


TRAINERS = ("trl-nash", "OnlineDPOTrainer")
HEAD = "head"  # of trl-nash's step
SLOWEST = {"small": 1.0, "smollm2-135m": 1.2}  # of OnlineDPOTrainer's time
LARGEST = {"small": 0.55, "smollm2-135m": 1.0}  # of its memory
MARKER = "training step benchmark"


class Setting(NamedTuple):
    """What a step is made of."""

    shape: str
    bf16: bool
    lora: bool
    prompts: int
    prompt_tokens: int
    new_tokens: int


def build_policy(shape: str) -> PreTrainedModel:
    if shape == "small":
        return build_model(seed=0)
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def build_step(trainer: str, setting: Setting, folder: str) -> Callable:
    """A function that runs one step on random completions and returns its loss."""
    shape, bf16, lora, prompts, prompt_tokens, new_tokens = setting
    generator = torch.Generator().manual_seed(0)
    prompt_ids = torch.randint(3, VOCABULARY, (prompts, prompt_tokens), generator=generator)
    completion_ids = torch.randint(3, VOCABULARY, (prompts, 2, new_tokens), generator=generator)
    common = {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": bf16,
        "gradient_checkpointing": False,
        "report_to": "none",
        "per_device_train_batch_size": prompts,
        "max_new_tokens": new_tokens,
        "max_length": prompt_tokens + new_tokens,
    }
    tokenizer = build_tokenizer()
    arguments = {
        "model": build_policy(shape).to(torch.bfloat16 if bf16 else torch.float32),
        "processing_class": tokenizer,
        "train_dataset": Dataset.from_dict({"prompt": tokenizer.batch_decode(prompt_ids)}),
        "peft_config": LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
    }
    if trainer == "OnlineDPOTrainer":
        online_dpo = OnlineDPOTrainer(
            args=OnlineDPOConfig(**common, temperature=1.0), reward_funcs=_first_is_better, **arguments
        )
        ids = prompt_ids.repeat(2, 1), completion_ids.transpose(0, 1).reshape(2 * prompts, new_tokens)
        generated = (ids[0], torch.ones_like(ids[0]), ids[1], torch.ones_like(ids[1]), None)
        online_dpo._generate = lambda *_: generated
        online_dpo.accelerator.prepare_model(online_dpo.model)  # autocast, as in `train`
        inputs = {"prompt": list(arguments["train_dataset"]["prompt"])}
        return lambda: _forget(online_dpo.model, online_dpo.training_step(online_dpo.model, inputs))

    nash = NashTrainer(args=PairConfig(**common, temperature=1.0), judge=RandomJudge(), **arguments)
    nash.accelerator.prepare_model(nash.model)
    nash.policies.ensure_initial()
    batch = collate(
        prompt_ids.tolist(),
        completion_ids.tolist(),
        pairs=torch.tensor([[[0, 1]]] * prompts),
        preference=torch.ones(prompts, 1),
        pad_token_id=0,
    )
    fit = Fit({INITIAL: 1.0}, nash.fit.step_size)
    nash.current_gradient_accumulation_steps = 1  # which `train` sets

    def step():
        (scored,) = nash.scorer.centre(fit, [batch], live=Policy(1), first=1, references={})
        loss = nash.training_step(nash.model, scored)
        nash.stops.if_not_finite(None, "in a benchmark")  # as before every optimizer step
        return _forget(nash.model, loss)

    return step


def _first_is_better(prompts, completions, **_) -> list[float]:
    half = len(completions) // 2
    return [1.0] * half + [0.0] * half


def _forget(model: torch.nn.Module, loss: torch.Tensor) -> float:
    model.zero_grad()
    return float(loss)


def memory(threads: int, trainer: str, setting: Setting) -> dict:
    """Peak memory of a step, after one on a single prompt of a few tokens."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        build_step(trainer, setting._replace(prompts=1, prompt_tokens=4, new_tokens=4), folder)()
        step = build_step(trainer, setting, folder)
        before = reset_peak()
        step()
        return {"before_mib": before / 2**20, "peak_mib": peak() / 2**20}


def times(threads: int, repeats: int, setting: Setting) -> dict[str, list[float]]:
    """Seconds of each trainer's step and of our head's part, in turn, after one each to warm up."""
    torch.set_num_threads(threads)
    now, _ = clock(threads)
    seconds = {name: [] for name in (*TRAINERS, HEAD)}
    compute = fused_head.linear_logprob

    def timed(*args, **kwargs):
        start = now()
        try:
            return compute(*args, **kwargs)
        finally:
            seconds[HEAD][-1] += now() - start

    with tempfile.TemporaryDirectory() as folder:
        steps = {trainer: build_step(trainer, setting, folder) for trainer in TRAINERS}
        fused_head.linear_logprob = timed
        for _ in range(repeats + 1):
            seconds[HEAD].append(0.0)
            for trainer, step in steps.items():
                start = now()
                step()
                seconds[trainer].append(now() - start)
    return {name: found[1:] for name, found in seconds.items()}


def measure(lora: bool, options: argparse.Namespace) -> dict:
    """One row of the table."""
    setting = Setting(options.shape, options.bf16, lora, options.prompts, options.prompt_tokens, options.new_tokens)
    memories = {trainer: alone(memory, options.threads, trainer, setting) for trainer in TRAINERS}
    seconds = alone(times, options.threads, options.repeats, setting)
    head = statistics.median(part / whole for part, whole in zip(seconds[HEAD], seconds[TRAINERS[0]], strict=True))
    ratios = [ours / theirs for ours, theirs in zip(*(seconds[trainer] for trainer in TRAINERS), strict=True)]
    peaks = [memories[trainer]["peak_mib"] for trainer in TRAINERS]
    own = [found["peak_mib"] - found["before_mib"] for found in memories.values()]
    return {
        "training": "LoRA" if lora else "full",
        "seconds": {trainer: round(statistics.median(found), 3) for trainer, found in seconds.items()},
        "time_ratio": round(statistics.median(ratios), 3),
        "time_ratios": [round(ratio, 3) for ratio in ratios],
        "head_part": round(head, 3),
        "peak_mib": {trainer: round(found["peak_mib"]) for trainer, found in memories.items()},
        "peak_ratio": round(peaks[0] / peaks[1], 3),
        "step_mib": dict(zip(TRAINERS, map(round, own), strict=True)),
        "step_ratio": round(own[0] / own[1], 3),
    }


def table(results: list[dict], options: argparse.Namespace) -> str:
    """The results in Markdown."""
    lines = [
        f"{options.prompts} prompts x 2 completions of {options.new_tokens} tokens behind {options.prompt_tokens} of "
        f"the prompt, {options.shape}, {'bf16' if options.bf16 else 'fp32'}, on a CPU: `NashTrainer` beside "
        f"`OnlineDPOTrainer`, {clock(options.threads)[1]} time, {options.repeats} repeats.",
        "",
        "| training | time, ratio (smallest to largest) | of ours in the head | peak of the process, MiB | ratio | "
        "of the step alone, MiB | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        ratios, peaks, own = result["time_ratios"], result["peak_mib"].values(), result["step_mib"].values()
        lines.append(
            f"| {result['training']} | {result['time_ratio']:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | "
            f"{result['head_part']:.0%} | "
            f"{' : '.join(f'{value:,}' for value in peaks)} | {result['peak_ratio']:.2f} | "
            f"{' : '.join(f'{value:,}' for value in own)} | {result['step_ratio']:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", nargs="+", choices=["full", "LoRA"], default=["full", "LoRA"])
    parser.add_argument("--shape", choices=list(SLOWEST), default="small", help="of the model")
    parser.add_argument("--bf16", action="store_true", help="weights and training in bf16")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--prompt_tokens", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "training_step.json", help="JSON file"
    )
    parser.add_argument("--docs", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    logging.getLogger("trl_nash").setLevel(logging.ERROR)
    torch.set_num_threads(1)  # in this process, which is forked
    found = machine(threads=options.threads)
    results = [measure(training == "LoRA", options) for training in options.training]
    report = {
        "benchmark": "training_step",
        **{name: getattr(options, name) for name in ("prompts", "prompt_tokens", "new_tokens", "repeats")},
        "shape": options.shape,
        "dtype": "bf16" if options.bf16 else "fp32",
        "time": f"{clock(options.threads)[1]} time",
        "memory": "resident set of a process of its own, its peak reset before the step",
        "limits": {"time_ratio": SLOWEST[options.shape], "peak_ratio": LARGEST[options.shape]},
        "machine": found,
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    text = table(results, options)
    print(text)
    if options.docs:
        fill(options.docs, MARKER + (f" of {options.shape}" if options.shape != "small" else ""), text)
    missed = [
        r for r in results if r["time_ratio"] > SLOWEST[options.shape] or r["peak_ratio"] > LARGEST[options.shape]
    ]
    for result in missed:
        print(f"{result['training']} training is slower or takes more memory than it may.", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
