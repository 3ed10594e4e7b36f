# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`--dry_run`: every check that a trainer makes of its model, without its weights, and what the run will cost."""

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ...data.messages import prompt_of
from ...usage import UsageError
from .sizes import count, load_model_sizes


if TYPE_CHECKING:
    from ...planning.run import Run

_LOOKED_AT = 256  # prompts, for their mean length


def check_model_without_weights(path: str, arguments, peft_config) -> None:
    """
    Refuses what a trainer would refuse of the model, which is built without memory.

    Raises:
        ValueError: As the trainer does.
        OSError: If there is no such model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from ...trainers.checks.arguments import check_devices, check_model

    training, model = arguments.training, arguments.model
    check_devices(training)
    options = {"trust_remote_code": training.trust_remote_code}
    config = AutoConfig.from_pretrained(path, revision=model.model_revision, **options)
    with torch.device("meta"):
        check_model(AutoModelForCausalLM.from_config(config, **options), None, peft_config, training.max_length)


def costs(run: "Run", path: str, arguments, render, prompts) -> dict[str, str]:
    """
    What `trl-nash plan` has to say of the run on this machine.

    Args:
        run ([`Run`]): what [`~trl_nash.cli.training.sizes.choose_sizes`] returned.
        path (`str`): of the model, without its adapter.
        arguments ([`~trl_nash.cli.options.arguments.Arguments`]): what the options say.
        render ([`PromptRenderer`]): of the run.
        prompts ([`~trl_nash.cli.training.data.Prompts`]): the data.

    Returns:
        `dict[str, str]`: lines by their headings.
    """
    from ...planning.costs import Plan
    from ...planning.machine import device_here
    from ...planning.run.config import epoch_of, length_of
    from ...planning.run.evaluation import evaluations
    from ...planning.words import duration, gib

    training = arguments.training
    total = count(prompts.train)
    length = length_of(training, training, total)
    if length is None:
        return {"costs": "not known: nobody knows how many prompts a stream has (--max_steps N)"}
    lengths = [len(render.ids(prompt_of(row))[0]) for row in itertools.islice(iter(prompts.train), _LOOKED_AT)]
    run = replace(
        run,
        rounds=length[0],
        max_steps=length[1],
        evaluations=evaluations(training, length[1], epoch_of(training, total)),
        prompt_length=max(1, round(sum(lengths) / len(lengths))),
    )
    try:
        name, device = device_here(training)
        sizes = load_model_sizes(path, arguments)
    except UsageError as error:
        return {"costs": f"not known: {error}"}
    plan = Plan(sizes, run, device)
    tokens = ", ".join(f"{count:,.0f} {kind}" for kind, count in plan.tokens._asdict().items())
    share = f"{duration(sum(plan.seconds.values()))}, if {name} and its use are as `trl-nash plan` assumes"
    return {
        "tokens": tokens,
        "judged": f"{plan.judge_calls:,} calls of the judge at most",
        **({"asked": f"{plan.user_calls:,} calls of the user at most"} if run.user else {}),
        "memory": f"{gib(plan.peak)} of {gib(plan.limit)} GiB of each device: {plan.advice() or 'it fits'}",
        "time": share if name != "cpu" else f"{share}: of a CPU no more than the order of magnitude",
    }


def rate_of(training) -> str:
    """The learning rate and how it goes, as one reads it."""
    kind: Any = training.lr_scheduler_type
    warm_up = f", warm-up {training.warmup_steps:g}" if training.warmup_steps else ""
    restarts = " in each round" if training.restart_each_round else ""
    return f"{training.learning_rate:g}, {getattr(kind, 'value', kind)}{warm_up}{restarts}"
