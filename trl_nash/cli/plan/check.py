# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From the options of `trl-nash plan` to the runs that they describe."""

import argparse
import math

from ...algorithms import Past
from ...planning.evaluation import evaluation_prompts, evaluations
from ...planning.judge import judge_of
from ...planning.run import PLAYED, SHARDED, STRATEGIES, Run
from ...usage import UsageError
from .options import OWN, STRATEGY_OF


# Of the commands' defaults those that differ from ONPO's, which are those of `Run`.
_DEFAULTS = {
    "comal": {"num_generations": 5},
    "inpo": {"num_generations": 8},
    "mnpo": {"num_generations": 5},
    "mpo": {"reference_rounds": 10},
    "nash-prox": {"reference_rounds": 100},
    "online-ipo": {"mixture_coef": 0.0},
    "sppo": {"num_generations": 5},
}


def check(options: argparse.Namespace) -> list[Run]:
    """
    The runs that the options describe, one for each strategy. What had to be assumed goes to `options.notes`.

    Raises:
        UsageError: In one sentence.
    """
    options.notes = []
    for name, algorithms in OWN.items():
        if getattr(options, name) is not None and options.algorithm not in algorithms:
            raise UsageError(f"--{name} means nothing to {options.algorithm}: it is an option of {algorithms[0]}.")
    for name in ("rounds", "num_iterations", "num_generations", "per_device_train_batch_size", "num_processes"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    if options.max_new_tokens >= options.max_length:
        raise UsageError(
            f"--max_length {options.max_length} counts prompt and completion: it must exceed --max_new_tokens "
            f"{options.max_new_tokens}."
        )
    for name, most in (
        ("prompt_length", options.max_length - options.max_new_tokens),
        ("completion_length", options.max_new_tokens),
    ):
        if getattr(options, name) is not None and not 1 <= getattr(options, name) <= most:
            raise UsageError(f"--{name} {getattr(options, name)} must be between 1 and {most}, as prompts are cut.")
    if (options.load_in_4bit or options.load_in_8bit) and not options.use_peft:
        raise UsageError("--load_in_4bit and --load_in_8bit cannot train all weights: add --use_peft.")
    if "adam" not in options.optim:
        raise UsageError(f"--optim {options.optim}: only AdamW and its 8-bit and paged kinds can be planned.")
    if options.dtype == "auto":
        options.dtype = "bfloat16"
        options.notes.append("dtype auto is bfloat16")
    strategies = _strategies(options)
    steps = _steps_per_generation(options)
    kind, orders = judge_of(options)
    names = {name for name in Run.__dataclass_fields__ if getattr(options, name, None) is not None}
    values = {name: getattr(options, name) for name in names} | {
        "steps_per_generation": steps,
        "judge": kind,
        "judge_orders": orders,
    }
    values = _DEFAULTS.get(options.algorithm, {}) | values
    if options.history_weights is not None:
        values["history_weights"] = tuple(options.history_weights)
    if options.lora_target_modules is not None:
        values["lora_target_modules"] = tuple(options.lora_target_modules)
    if options.mixture_coef is not None:
        values["mixture_coef"] = max(options.mixture_coef)
    if options.pair_selection == "tournament" and values["num_generations"] < 3:
        raise UsageError("--pair_selection tournament needs --num_generations of at least 3.")
    prompts = options.per_device_train_batch_size * steps * options.num_processes
    optimizer_steps = _optimizer_steps(options, steps)
    rounds, held_out = _rounds(options, prompts, optimizer_steps)
    values |= {"rounds": rounds, "evaluation_prompts": held_out}
    values["evaluations"] = evaluations(options, rounds * optimizer_steps)
    runs = []
    for strategy in strategies:
        half = strategy != "cpu" if options.bf16 is None and not options.fp16 else bool(options.bf16)
        precision = "fp16" if options.fp16 else "bf16" if half else "fp32"
        run = Run(**values | {"strategy": strategy, "precision": precision})
        if strategy in SHARDED and run.plays_mixture and not run.use_peft:
            raise UsageError(
                f"{run.algorithm} cannot run two policies at once under {strategy}: add --use_peft or "
                "--mixture_coef 0."
            )
        if run.use_vllm and run.plays_mixture:
            raise UsageError("vLLM samples from no mixture of two policies: --mixture_coef is 0 or 1 with it.")
        if strategy == "zero3" and (run.load_in_4bit or run.load_in_8bit):
            raise UsageError("transformers cannot take quantised weights apart under zero3: plan zero2 or ddp.")
        runs.append(run)
    return runs


def _strategies(options: argparse.Namespace) -> list[str]:
    on_cpu = options.device.lower() == "cpu"
    if options.strategy is None and options.accelerate_config is not None:
        if options.accelerate_config not in STRATEGY_OF:
            raise UsageError(
                f"--accelerate_config {options.accelerate_config}: say with --strategy which of "
                f"{', '.join(STRATEGIES)} it is."
            )
        options.strategy = [STRATEGY_OF[options.accelerate_config]]
    strategies = list(dict.fromkeys(options.strategy or (["cpu"] if on_cpu else ["ddp"])))
    if "cpu" in strategies and (len(strategies) > 1 or not on_cpu):
        if options.device_typed or len(strategies) > 1:
            raise UsageError("--strategy cpu trains on the CPU: leave out --device and the other strategies.")
        options.device = "cpu"
    return strategies


def _steps_per_generation(options: argparse.Namespace) -> int:
    accumulation = options.gradient_accumulation_steps
    steps = options.steps_per_generation or accumulation
    if options.generation_batch_size is not None:
        per_step = options.per_device_train_batch_size * options.num_processes
        steps, left = divmod(options.generation_batch_size, per_step)
        if steps == 0 or left:
            raise UsageError(
                f"--generation_batch_size {options.generation_batch_size} must be a multiple of "
                f"--per_device_train_batch_size times the devices, {per_step}."
            )
    if steps * options.num_iterations % accumulation:
        raise UsageError(
            f"micro-steps of a round ({steps} times --num_iterations {options.num_iterations}) must be a multiple of "
            f"--gradient_accumulation_steps {accumulation}."
        )
    if options.algorithm in PLAYED and steps * options.num_iterations != accumulation:
        raise UsageError(
            f"{options.algorithm} is on-policy, a round is one optimizer step: leave --num_iterations at 1 and the "
            f"round at --gradient_accumulation_steps, got {steps} micro-steps for {accumulation}."
        )
    return steps


def _optimizer_steps(options: argparse.Namespace, steps: int) -> int:
    """Of a round."""
    fits = len(Run(algorithm=options.algorithm, fits=options.fits or "one").fits_of(Past(0)))
    return max(1, steps * options.num_iterations * fits // options.gradient_accumulation_steps)


def _rounds(options: argparse.Namespace, prompts: int, optimizer_steps: int) -> tuple[int, int]:
    """The rounds of a run, and how many prompts are left out of them to evaluate on."""
    rounds = options.rounds
    if rounds is None and options.max_steps is not None and options.max_steps > 0:
        rounds = math.ceil(options.max_steps / optimizer_steps)
    if options.dataset_size is not None:
        held_out = evaluation_prompts(options, options.dataset_size, prompts)
        if rounds is None:
            rounds = math.ceil((options.dataset_size - held_out) // prompts * options.num_train_epochs)
        if rounds < 1:
            raise UsageError(f"--dataset_size {options.dataset_size} is less than a round of {prompts:,} prompts.")
        return rounds, held_out
    if rounds is None:
        rounds = 10
        options.notes.append("10 rounds: no --rounds, --max_steps or --dataset_size was given")
    held_out = evaluation_prompts(options, rounds * prompts, prompts)
    if held_out and options.test_split_size is None:
        options.notes.append(f"{held_out} prompts held out, of as many as the rounds take (--dataset_size)")
    return rounds, held_out
