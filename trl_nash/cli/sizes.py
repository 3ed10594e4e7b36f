# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Sizes of a training command that nobody has chosen: a round that is fitted, generation calls that fill the device.

The configs of Python keep OnlineDPOTrainer's meaning: a round of one optimizer step, generated as it is trained.
"""

import math
import os
from dataclasses import replace

from ..planning.memory import GIB, memory
from ..planning.model import ModelSizes, sizes_from_config
from ..planning.run import Run
from ..planning.time import machine_memory


STEPS = 16  # optimizer steps in a pass over a round, where there are prompts for them
MANY = 10 * STEPS  # in an epoch, from which on a part of a round that is left out is little
FITTED = 10  # optimizer steps from which on a round counts as fitted, as trainers advise
MOST = 128  # prompts in a generation call: beyond, a call gains little, and waits for its longest answer
ROOM = 0.85  # of a device's memory, for what is counted
REMOTE = ("openai", "hf")  # judges that are asked while the next call generates
UNKNOWN_JUDGE = 8_000_000_000  # weights


def fitted_round(training, prompts: int | None, passes: int | None = None) -> tuple[int, int]:
    """
    A round of `STEPS` optimizer steps; of few prompts the number near it that leaves fewest of an epoch out, and of
    still fewer all, with as many passes as make `FITTED` steps.

    Args:
        training ([`NashConfig`]): its batch sizes.
        prompts (`int`, *optional*): how many there are to train on; `None` of a stream.
        passes (`int`, *optional*): the passes, if somebody has chosen them.

    Returns:
        `tuple[int, int]`: `steps_per_generation` and `num_iterations`.
    """
    accumulation = training.gradient_accumulation_steps
    a_step = training.per_device_train_batch_size * training.world_size * accumulation
    there = MANY if prompts is None else max(prompts // a_step, 1)  # optimizer steps in an epoch
    steps = STEPS if there >= MANY else there
    if FITTED <= there < MANY:
        steps = min(range(FITTED, 2 * STEPS), key=lambda steps: (there % steps, abs(steps - STEPS)))
    return steps * accumulation, passes or math.ceil(FITTED / steps)


def generation_batch(sizes: ModelSizes, run: Run, limit: float) -> int:
    """
    The largest number of prompts in a generation call, halved from `MOST`, that fits, and that a round has for it.

    Args:
        sizes ([`ModelSizes`]): of the policy.
        run ([`Run`]): the run.
        limit (`float`): bytes of a device.

    Returns:
        `int`: No less than the prompts of a micro-step.
    """
    own = run.per_device_train_batch_size
    share = run.prompts_per_round // run.num_processes
    count = min(MOST, share // 4 if run.judge in REMOTE else share)
    while count > own:
        needed = memory(sizes, replace(run, per_device_generation_batch_size=count), int(limit))
        if sum(needed.sampling.values()) <= ROOM * limit:
            return count
        count //= 2
    return own


def planned(algorithm: str, arguments, path: str) -> tuple[ModelSizes, Run] | None:
    """
    The run in the terms of `trl-nash plan`.

    Args:
        algorithm (`str`): a key of `ALGORITHMS`.
        arguments ([`~trl_nash.cli.train.Arguments`]): what the options say.
        path (`str`): the model, or that beneath an adapter.

    Returns:
        `tuple[ModelSizes, Run]`: `None` where the sizes of the model cannot be counted.
    """
    training, model = arguments.training, arguments.model
    sizes = _sizes(path, model.model_revision, training.trust_remote_code)
    if sizes is None:
        return None
    judges = [name.partition(":")[::2] for name in arguments.judge.names]
    judges += [("reward", name) for name in _listed(training.reward_model_path)]
    targets = model.lora_target_modules
    values = {name: getattr(training, name) for name in Run.__dataclass_fields__ if hasattr(training, name)}
    values |= {name: getattr(model, name) for name in ("use_peft", "lora_r", "load_in_4bit", "load_in_8bit")}
    values |= {
        "algorithm": algorithm,
        "history_weights": tuple(values.get("history_weights", ())),
        "mixture_coef": max(_listed(values.get("mixture_coef", 0.0))),
        "lora_target_modules": tuple(_listed(targets)) or None,
        "dtype": model.dtype if model.dtype in ("float32", "bfloat16", "float16") else "float32",
        "precision": "bf16" if training.bf16 else "fp16" if training.fp16 else "fp32",
        "optim": getattr(training.optim, "value", training.optim),
        "judge": next((key for key, _ in judges if key in REMOTE), None),
        "judge_parameters": sum(_judge_parameters(key, target) for key, target in judges),
        "num_processes": training.world_size,
        "strategy": _strategy(training),
    }
    return sizes, Run(**values)


def device_memory(training) -> float:
    """Bytes that a process may use on what it trains on."""
    import torch

    if training.device.type == "cuda":
        return torch.cuda.get_device_properties(training.device).total_memory
    return machine_memory() * GIB / int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def _sizes(path: str, revision: str | None = None, trust_remote_code: bool = False) -> ModelSizes | None:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        return sizes_from_config(config, path)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, ImportError):
        return None  # not at hand, or no language model whose parts are known


def _judge_parameters(key: str, target: str) -> int:
    if key not in ("reward", "pairwise-lm", "gpm", "pairrm"):
        return 0
    sizes = _sizes(target) if target else None
    return UNKNOWN_JUDGE if sizes is None else sizes.parameters


def _strategy(training) -> str:
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        return f"zero{stage}" if stage in "123" else "ddp"
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp2"
    return "cpu" if training.device.type == "cpu" else "ddp"


def _listed(value) -> list:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
