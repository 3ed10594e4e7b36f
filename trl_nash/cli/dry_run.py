# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`--dry_run`: every check that a trainer makes of its model, without its weights, and what the run will cost."""

import argparse
import itertools
import math
import os
from typing import Any

import torch

from ..data.messages import prompt_of
from ..usage import UsageError


_LOOKED_AT = 256  # prompts, for their mean length


def check_model_without_weights(path: str, arguments, peft_config) -> None:
    """
    Refuses what a trainer would refuse of the model, which is built without memory.

    Raises:
        ValueError: As the trainer does.
        OSError: If there is no such model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from ..trainers.checks.arguments import check_devices, check_model

    training, model = arguments.training, arguments.model
    check_devices(training)
    options = {"trust_remote_code": training.trust_remote_code}
    config = AutoConfig.from_pretrained(path, revision=model.model_revision, **options)
    with torch.device("meta"):
        check_model(AutoModelForCausalLM.from_config(config, **options), None, peft_config, training.max_length)


def costs(algorithm: str, path: str, arguments, render, prompts, adapter: dict | None = None) -> dict[str, str]:
    """
    What `trl-nash plan` has to say of the run on this machine.

    Args:
        algorithm (`str`): a key of `ALGORITHMS`.
        path (`str`): of the model, without its adapter.
        arguments ([`~trl_nash.cli.arguments.Arguments`]): what the options say.
        render ([`PromptRenderer`]): of the run.
        prompts ([`~trl_nash.cli.data.Prompts`]): the data.
        adapter (`dict`, *optional*): the configuration of the adapter that is trained further.

    Returns:
        `dict[str, str]`: lines by their headings.
    """
    from ..planning.costs import Plan
    from ..planning.report import duration, record
    from .plan import hardware, load_model
    from .plan.check import check

    try:
        options = _plan_options(algorithm, path, arguments, render, prompts, adapter)
        (run,) = check(options)
        device, speed = hardware(options)
        found = record(Plan(load_model(options), run, device, speed))
    except UsageError as error:
        return {"costs": f"not known: {error}"}
    total, memory = found["in_all"], found["memory"]
    tokens = {name.removeprefix("tokens_"): count for name, count in total.items() if name.startswith("tokens_")}
    gib = 2**30
    fits = "it fits" if memory["fits"] else found["advice"]
    seconds = sum(total["seconds"].values())
    share = f"{duration(seconds)}, if {options.device} and its use are as `trl-nash plan` assumes"
    return {
        "tokens": ", ".join(f"{count:,.0f} {name}" for name, count in tokens.items()),
        "judged": f"{total['judge_calls']:,} calls of the judge at most",
        "memory": f"{memory['peak'] / gib:.2f} of {memory['limit'] / gib:.1f} GiB of each device: {fits}",
        "time": share if options.device != "cpu" else f"{share}: of a CPU no more than the order of magnitude",
    }


def steps_of(training, prompts) -> tuple[int, int] | None:
    """Rounds and optimizer steps of the run, `None` if nobody knows how many prompts there are."""
    a_round = training.optimizer_steps_per_round
    if training.max_steps > 0:
        steps = training.max_steps
    elif hasattr(prompts.train, "__len__"):
        steps = math.ceil(training.num_train_epochs * (len(prompts.train) // training.prompts_per_round * a_round))
    else:
        return None
    return math.ceil(steps / a_round), steps


def _plan_options(algorithm: str, path: str, arguments, render, prompts, adapter) -> argparse.Namespace:
    """The options of `trl-nash plan` that mean this run."""
    from .plan.options import OWN, add_options

    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args([])
    training = arguments.training
    for part in (arguments.script, arguments.mixture, arguments.model, training):
        for name, value in vars(part).items():
            if hasattr(options, name) and value is not None:
                setattr(options, name, getattr(value, "value", value))
    for name, algorithms in OWN.items():
        if algorithm not in algorithms:
            setattr(options, name, None)
    if adapter is not None:
        targets = adapter.get("target_modules")
        options.lora_target_modules = [targets] if isinstance(targets, str) else targets and list(targets)
        options.use_peft, options.lora_r = True, adapter.get("r", options.lora_r)
    for name in ("mixture_coef", "history_weights"):
        if (value := getattr(options, name)) is not None and not isinstance(value, list):
            setattr(options, name, [value])
    rounds, _ = steps_of(training, prompts) or (None, None)
    on_cpu = training.device.type == "cpu"
    lengths = [len(render.ids(prompt_of(row))[0]) for row in itertools.islice(iter(prompts.train), _LOOKED_AT)]
    known = {
        "algorithm": algorithm,
        "model_name_or_path": path,
        "generation_batch_size": None,  # which has become `steps_per_generation`
        "num_processes": training.world_size,
        "rounds": rounds,
        "dataset_size": len(prompts.train) if rounds is not None and hasattr(prompts.train, "__len__") else None,
        "dataset_test_split": None,
        "test_split_size": 0 if prompts.evaluation is None else len(prompts.evaluation),
        "prompt_length": max(1, round(sum(lengths) / len(lengths))),
        "judge": arguments.judge.names or None,
        "judge_kwargs": arguments.judge.judge_kwargs,
        "device": "cpu" if on_cpu else _known_device(),
        "strategy": ["cpu" if on_cpu else _strategy(training)],
    }
    for name, value in known.items():
        setattr(options, name, value)
    return options


def _strategy(training) -> str:
    """How accelerate, or the options, distribute the run, in the names of `trl-nash plan`."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    def uses(what: str) -> bool:
        return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() == "true"

    if uses("FSDP") or training.fsdp:
        return "fsdp2"
    if uses("DEEPSPEED") or training.deepspeed:
        return (
            "zero3" if is_deepspeed_zero3_enabled() else f"zero{os.environ.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', 2)}"
        )
    return "ddp"


def _known_device() -> str:
    """This machine's accelerator, as `trl-nash plan` calls it."""
    from ..planning.time import DEVICES

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.accelerator.current_accelerator().type
    words = name.upper().replace("-", " ").split()
    for known in sorted(DEVICES, key=len, reverse=True):
        if all(part in words for part in known.upper().replace("-", " ").split()):
            return known
    raise UsageError(f"`trl-nash plan` knows no {name}: give it --memory, --tflops and --bandwidth there.")


def rate_of(training) -> str:
    """The learning rate and how it goes, as one reads it."""
    kind: Any = training.lr_scheduler_type
    warm_up = f", warm-up {training.warmup_steps:g}" if training.warmup_steps else ""
    restarts = " in each round" if training.restart_each_round else ""
    return f"{training.learning_rate:g}, {getattr(kind, 'value', kind)}{warm_up}{restarts}"
