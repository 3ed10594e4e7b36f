# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Prompts that a training command sets aside, so that a run ends with a result on prompts that it has not seen."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ...planning.run.evaluation import held_out_count


if TYPE_CHECKING:
    from .data import Prompts


def hold_out(prompts: "Prompts", training, *, none: bool = False) -> tuple["Prompts", str | None]:
    """
    Sets some of the training prompts aside, the same ones for the same seed, unless there are others to evaluate on.

    Args:
        prompts ([`~trl_nash.cli.training.data.Prompts`]): what was read.
        training ([`NashConfig`]): its `seed`, and how many prompts a round takes.
        none (`bool`, *optional*, defaults to `False`): whether the user wants them all trained on.

    Returns:
        `tuple[Prompts, str | None]`: The prompts, and what the plan says of it.
    """
    if prompts.evaluation is not None:
        return prompts, None
    if none:
        return prompts, "none, as you set it: the run ends without a win rate"
    how = "Name others to be judged on with --dataset_test_split NAME, or a share with --test_split_size 0.1."
    if not hasattr(prompts.train, "train_test_split"):
        return prompts, f"none, of a stream: the run ends without a win rate. {how}"
    total = len(prompts.train)
    count = held_out_count(total, training.prompts_per_round)
    if count == 0:
        return prompts, f"none, as there are only {total} prompts: the run ends without a win rate. {how}"
    halves = prompts.train.train_test_split(test_size=count, seed=training.seed)
    said = f"{count} of the {total:,} prompts, to judge the result against its start (--test_split_size 0: none)"
    return replace(prompts, train=halves["train"], evaluation=halves["test"]), said
