# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The settings that make a run what it is: for its model card, and for who goes on with it."""

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from ...compat import OnlineDPOConfig
from ...policies import is_peft_model


if TYPE_CHECKING:
    from ..base import NashTrainer


_INHERITED = {f.name for f in fields(OnlineDPOConfig)} | {f.name for f in fields(TrainingArguments)}
# Of the inherited options, those by which the same prompts make another policy. None of them can be secret.
_DECISIVE = """
    beta temperature top_p top_k min_p repetition_penalty generation_kwargs max_length max_new_tokens use_vllm
    reward_model_path reward_weights missing_eos_penalty num_train_epochs max_steps per_device_train_batch_size
    gradient_accumulation_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps optim optim_args
    weight_decay adam_beta1 adam_beta2 adam_epsilon max_grad_norm bf16 fp16 seed data_seed
""".split()
# Of the own ones, those that do not, or say what another one says.
_OTHERS = {"log_completions", "num_completions_to_print", "generation_batch_size", "opponent_pool_rounds"}
# Attributes of a PEFT configuration, and the options of `trl-nash` that set them.
_ADAPTER = {
    "peft_type": "adapter",
    "r": "lora_r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "target_modules": "lora_target_modules",
}
SHAPE_OF_ADAPTER = {"adapter", "lora_r", "lora_target_modules"}
# Of the optimizer's groups, whose state takes the place of what is set.
OF_OPTIMIZER = {"learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"}
LENGTHS = {"max_steps", "num_train_epochs"}  # raised where a run is to go on


def settings_of(trainer: "NashTrainer") -> dict[str, str]:
    """
    Who was trained on how much, under which judge, and how.

    Of the judge it is the description, as arguments may be secret, and of a model on the disk the folder's name.
    """
    args, start = trainer.args, trainer.started_from
    own = [f.name for f in fields(args) if f.name not in _INHERITED | _OTHERS]
    values: dict[str, Any] = {
        "model": Path(start).name if os.path.isdir(start) else start or None,
        "judge": trainer.judge.description,
        "dialogues": trainer.sampler.source and trainer.sampler.source.identity,
        "training prompts": len(trainer.train_dataset) if hasattr(trainer.train_dataset, "__len__") else None,
    }
    if is_peft_model(trainer.model):
        adapter = trainer.model.active_peft_config
        values |= {option: getattr(adapter, name, None) for name, option in _ADAPTER.items()}
    values |= {name: getattr(args, name) for name in own + _DECISIVE}
    return {name: _shown(value) for name, value in values.items() if value is not None}


def changes(before: dict[str, str], now: dict[str, str]) -> dict[str, str]:
    """What has changed, as `"1e-05 before, 1e-06 now"`, by setting."""
    names = [name for name in now | before if before.get(name) != now.get(name)]
    return {name: f"{before.get(name, 'not set')} before, {now.get(name, 'not set')} now" for name in names}


def _shown(value: Any) -> str:
    if isinstance(value, set | frozenset):
        return ", ".join(sorted(map(str, value)))
    return str(getattr(value, "value", value))
