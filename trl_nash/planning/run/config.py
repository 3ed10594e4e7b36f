# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A training run, as its config and options describe it, in the terms of a plan: the one place that translates."""

import math
from typing import Any

from ..known import DEFAULTS
from .description import Run
from .judge import Judge


def run_of(
    algorithm: str, training, model=None, *, judge: Judge | None = None, adapter: dict | None = None, **known: Any
) -> Run:
    """
    A training run in the terms of a plan.

    Args:
        algorithm (`str`): the command, `"comal"`.
        training ([`NashConfig`] or what has its names): settings of the trainer; `None` is the command's default.
        model ([`~trl.ModelConfig`] or what has its names, *optional*): how the model is loaded and what of it is
            trained; without it all weights, in float32.
        judge ([`Judge`], *optional*): what [`judge_of`] knows of it.
        adapter (`dict`, *optional*): the configuration of the adapter that is trained further.
        known: fields of [`Run`] that go before all others.

    Returns:
        [`Run`]: Of 10 rounds, unless [`length_of`] or somebody says otherwise.
    """
    values = dict(DEFAULTS.get(algorithm, {}))
    for source in (model, training):
        found = {name: getattr(source, name, None) for name in Run.__dataclass_fields__}
        values |= {name: getattr(value, "value", value) for name, value in found.items() if value is not None}
    values["dtype"] = {"auto": "bfloat16"}.get(values.get("dtype"), values.get("dtype", "float32"))
    values["precision"] = "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32"
    values["num_processes"] = getattr(training, "world_size", values.get("num_processes", 1))
    if adapter is not None:
        values |= {"use_peft": True, "lora_r": adapter.get("r", Run.lora_r)}
        values["lora_target_modules"] = adapter.get("target_modules")
    judge = Judge() if judge is None else judge
    values |= {"judge": judge.kind, "judge_orders": judge.orders, "judge_parameters": judge.parameters}
    values |= {"algorithm": algorithm, "rounds": Run.rounds, "max_steps": None} | known
    values["history_weights"] = tuple(_listed(values.get("history_weights", Run.history_weights)))
    values["mixture_coef"] = max(_listed(values.get("mixture_coef", Run.mixture_coef)))
    values["lora_target_modules"] = tuple(_listed(values.get("lora_target_modules"))) or None
    return Run(**values)


def length_of(sizes, training, prompts: int | None) -> tuple[int, int] | None:
    """
    Rounds and optimizer steps of a run.

    Args:
        sizes ([`Run`] or [`NashConfig`]): how large a round is.
        training ([`NashConfig`] or what has its names): `max_steps` or `num_train_epochs`.
        prompts (`int`, *optional*): how many there are to train on; `None` of a stream.

    Returns:
        `tuple[int, int]`: `None` if nobody knows, as neither prompts nor steps are given.
    """
    epoch = epoch_of(sizes, prompts)
    if training.max_steps is not None and training.max_steps > 0:
        steps = training.max_steps
    elif epoch is not None:
        steps = math.ceil(training.num_train_epochs * epoch)
    else:
        return None
    return math.ceil(steps / sizes.optimizer_steps_per_round), steps


def epoch_of(sizes, prompts: int | None) -> int | None:
    """Optimizer steps of an epoch of so many prompts; `None` of a stream."""
    return None if prompts is None else prompts // sizes.prompts_per_round * sizes.optimizer_steps_per_round


def _listed(value) -> list:
    return [] if value is None else [value] if isinstance(value, str | int | float) else list(value)
