# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From the options of `trl-nash plan` to the runs that they describe."""

import argparse
import json
import math
from dataclasses import replace

from ...planning.known import PLAYED, SHARDED, STRATEGIES, UNFITTED
from ...planning.run import Run
from ...planning.run.config import epoch_of, length_of, run_of
from ...planning.run.evaluation import evaluations, held_out_count
from ...planning.run.judge import judge_of
from ...planning.sizes import fitted_round
from ...usage import UsageError
from .options import OWN, STRATEGY_OF


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
    least_one = ("rounds", "num_iterations", "num_generations", "per_device_train_batch_size", "num_processes")
    for name in (*least_one, "opponent_pool_rounds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    if options.max_turns is not None and not options.user:
        raise UsageError("--max_turns does nothing without --user: leave it out, or add --user.")
    if options.max_turns is not None and options.max_turns < 1:
        raise UsageError(f"--max_turns must be at least 1, got {options.max_turns}.")
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
        options.notes.append("dtype auto is bfloat16")
    judge = judge_of(_judges(options), _judge_kwargs(options), options.judge_parameters)
    options.notes += judge.notes
    steps = _steps_per_generation(options)
    runs = []
    for strategy in _strategies(options):
        one = argparse.Namespace(**vars(options))
        one.bf16 = strategy != "cpu" and not options.fp16 if options.bf16 is None else options.bf16
        runs.append(run_of(options.algorithm, one, one, judge=judge, strategy=strategy, steps_per_generation=steps))
    if runs[0].algorithm not in PLAYED:
        try:
            runs[0].pairing.check(runs[0].num_generations)
        except ValueError as error:
            raise UsageError(f"{error}") from None
    for run in runs:
        if run.strategy in SHARDED and run.plays_mixture and not run.use_peft:
            raise UsageError(
                f"{run.algorithm} cannot run two policies at once under {run.strategy}: add --use_peft or "
                "--mixture_coef 0."
            )
        if run.use_vllm and run.plays_mixture:
            raise UsageError("vLLM samples from no mixture of two policies: --mixture_coef is 0 or 1 with it.")
        if run.strategy == "zero3" and (run.load_in_4bit or run.load_in_8bit):
            raise UsageError("transformers cannot take quantised weights apart under zero3: plan zero2 or ddp.")
    found = _length(options, runs[0])
    return [replace(run, **found) for run in runs]


def _strategies(options: argparse.Namespace) -> list[str]:
    on_cpu = options.device is not None and options.device.lower() == "cpu"
    if options.strategy is None and options.accelerate_config is not None:
        if options.accelerate_config not in STRATEGY_OF:
            raise UsageError(
                f"--accelerate_config {options.accelerate_config}: say with --strategy which of "
                f"{', '.join(STRATEGIES)} it is."
            )
        options.strategy = [STRATEGY_OF[options.accelerate_config]]
    strategies = list(dict.fromkeys(options.strategy or (["cpu"] if on_cpu else ["ddp"])))
    if "cpu" in strategies and (len(strategies) > 1 or not on_cpu):
        if options.device is not None or len(strategies) > 1:
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
    passes = options.num_iterations or 1
    if steps * passes % accumulation:
        raise UsageError(
            f"micro-steps of a round ({steps} times --num_iterations {passes}) must be a multiple of "
            f"--gradient_accumulation_steps {accumulation}."
        )
    if options.algorithm in PLAYED and steps * passes != accumulation:
        raise UsageError(
            f"{options.algorithm} is on-policy, a round is one optimizer step: leave --num_iterations at 1 and the "
            f"round at --gradient_accumulation_steps, got {steps} micro-steps for {accumulation}."
        )
    return steps


def _length(options: argparse.Namespace, run: Run) -> dict[str, int | None]:
    """How large a round is, how many there are, and what is left out of them to evaluate on."""
    total, found = options.dataset_size, {}
    held_out = 0 if total is None else _held_out(options, total, run)
    chosen = options.steps_per_generation is not None or options.generation_batch_size is not None
    if not chosen and run.algorithm not in UNFITTED:
        prompts = None if total is None else total - held_out
        steps, passes = fitted_round(run, prompts, options.num_iterations, options.max_steps)
        found = {"steps_per_generation": steps, "num_iterations": passes}
        run = replace(run, **found)
    left = None if total is None else total - held_out
    length = length_of(run, options, left)
    if options.rounds is not None:
        length = options.rounds, options.rounds * run.optimizer_steps_per_round
    if length is None:
        length = Run.rounds, Run.rounds * run.optimizer_steps_per_round
        options.notes.append(f"{Run.rounds} rounds: no --rounds, --max_steps or --dataset_size was given")
    rounds, steps = length
    if rounds < 1:
        raise UsageError(f"--dataset_size {total} is less than a round of {run.prompts_per_round:,} prompts.")
    if total is None:
        held_out = _held_out(options, rounds * run.prompts_per_round, run)
        if held_out and options.test_split_size is None:
            options.notes.append(f"{held_out} prompts held out, of as many as the rounds take (--dataset_size)")
    counts = {"evaluation_prompts": held_out, "evaluations": evaluations(options, steps, epoch_of(run, left))}
    return found | counts | {"rounds": rounds, "max_steps": steps}


def _held_out(options: argparse.Namespace, total: int, run: Run) -> int:
    """How many of `total` prompts a run is evaluated on, as the training commands divide them."""
    size = options.test_split_size
    if size is not None:
        return min(int(size), total) if size >= 1 else math.ceil(size * total)
    if options.dataset_test_split is not None:
        options.notes.append("an evaluation on --dataset_test_split is not counted: give --test_split_size N for it")
        return 0
    return held_out_count(total, run.prompts_per_round)


def _judges(options: argparse.Namespace) -> list[str]:
    if options.reward_model_path:
        return [f"reward:{options.reward_model_path}"]
    return [spec.get("judge") if isinstance(spec, dict) else spec for spec in options.judge or [] if spec]


def _judge_kwargs(options: argparse.Namespace) -> dict | None:
    if not isinstance(options.judge_kwargs, str):
        return options.judge_kwargs
    try:
        return json.loads(options.judge_kwargs)
    except ValueError as error:
        raise UsageError(f"--judge_kwargs must be JSON: {error} in {options.judge_kwargs!r}.") from None
