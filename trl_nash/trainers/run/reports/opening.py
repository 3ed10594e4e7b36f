# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run says when it is built and when it begins: rate, sizes, precision, and what speaks against them."""

from typing import TYPE_CHECKING

from accelerate.logging import get_logger

from ....learning_rates import LEAST_OF_ADAPTERS, OF_ADAPTERS
from ....policies import is_peft_model
from ...checks.precision import movable_share, precision_of


if TYPE_CHECKING:
    from ...base import NashTrainer


logger = get_logger("trl_nash")  # speaks on the main process only

LEAST_MOVABLE = 0.5  # share of the weights that a step must be able to change, or a warning says so


def say_small_rate(trainer: "NashTrainer") -> None:
    """Says of a trainer that is built that its learning rate, such as the default, is none for an adapter."""
    rate = trainer.args.learning_rate
    if is_peft_model(trainer.model) and trainer.optimizer is None and 0 < rate < LEAST_OF_ADAPTERS:
        trainer.reporter.say_once(
            f"An adapter is trained with `learning_rate={rate:g}`, which is one for all weights: it will hardly move. "
            f"Set `learning_rate={OF_ADAPTERS:g}`."
        )


def say_opening(trainer: "NashTrainer") -> None:
    """Says it of a trainer whose optimizer is made."""
    _say_sizes(trainer)
    _say_precision(trainer)
    _say_short_rounds(trainer)


def _say_sizes(trainer: "NashTrainer") -> None:
    args = trainer.args
    logger.info(
        "%s: %d prompts a round (generation_batch_size), %d a micro-step and device "
        "(per_device_train_batch_size), %d a generation call (per_device_generation_batch_size); "
        "optimizer steps a round: %d.",
        trainer._name,
        args.prompts_per_round,
        args.per_device_train_batch_size,
        args.generation_chunk,
        args.optimizer_steps_per_round,
    )


def _say_precision(trainer: "NashTrainer") -> None:
    logger.info("%s: %s.", trainer._name, precision_of(trainer.model, trainer.accelerator.mixed_precision))
    if trainer.is_deepspeed_enabled:
        return  # which keeps float32 copies of weights in other formats
    rate = max(group.get("initial_lr", group["lr"]) for group in trainer.optimizer.param_groups)
    if rate and (share := movable_share(trainer.model, rate)) < LEAST_MOVABLE:
        trainer.reporter.say_once(
            f"A step of the learning rate's size, {rate:g}, changes {share:.1%} of the trainable weights: for the "
            'others it is lost in rounding. Load the model in float32 (`model_init_kwargs={"dtype": "float32"}`; '
            "`bf16=True` still computes in bfloat16), train an adapter, or raise `learning_rate`."
        )


def _say_short_rounds(trainer: "NashTrainer") -> None:
    steps = trainer.args.optimizer_steps_per_round
    if trainer.assumes_fitted_rounds and steps < 10:
        trainer.reporter.say_once(
            f"Optimizer steps a round: {steps}. {trainer._name}'s guarantees, and its published results, assume "
            "rounds that are fitted: raise `steps_per_generation` or `num_iterations` to 10 optimizer steps or more. "
            "Shorter rounds are online learning."
        )
