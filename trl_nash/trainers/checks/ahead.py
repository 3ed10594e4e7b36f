# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is refused before a model is loaded, by a trainer and by a dry run."""

from ...judges import PairwiseJudge
from ...judges.groups.judge import check_waves
from ..config import NashConfig
from . import arguments
from .schedules import check_schedules


def check_run(args: NashConfig, judge, reward_funcs, train_dataset, eval_dataset) -> None:
    """Refuses what cannot be trained with, of all that is there before a model is loaded."""
    arguments.check_judge(judge, reward_funcs, args)
    arguments.check_datasets(train_dataset, eval_dataset, args)
    check_schedules(args, train_dataset)
    check_held_out(args)
    if args.opponent_pool_rounds is not None and eval_dataset is None:
        raise ValueError(
            f"`opponent_pool_rounds={args.opponent_pool_rounds}` plays in evaluations, and no prompts are held out "
            "for them: give an `eval_dataset` (`dataset_test_split` or `test_split_size` on the command line)."
        )


def check_pairing(judge: PairwiseJudge, args: NashConfig) -> None:
    """Refuses a pairing whose waves a group judge would answer one by one."""
    check_waves(judge, args.pairing, args.num_generations)


def check_held_out(args: NashConfig) -> None:
    """Refuses a share of a round's prompts that is none of them, or leaves an optimizer step without any."""
    held_out, asked = args.held_out, f"`fit_held_out={args.fit_held_out:g}`"
    if args.fit_held_out and not held_out.count:
        raise ValueError(
            f"{asked} holds out none of the {held_out.prompts} prompts of a round: raise it to "
            f"{1 / held_out.prompts:.2g}, or make rounds of more prompts (`generation_batch_size`)."
        )
    if held_out.count > held_out.most:
        raise ValueError(
            f"{asked} holds out {held_out.count} of the {held_out.prompts} prompts of a round, and at most "
            f"{held_out.most} can be, so that every optimizer step has one to train on: lower it, or take more "
            "prompts in a step (`per_device_train_batch_size`, `gradient_accumulation_steps`)."
        )


def check_columns(judge: PairwiseJudge, train_dataset, eval_dataset) -> None:
    """Refuses a judge that asks for columns that a dataset lacks. Of a stream that does not say which it has, none."""
    for name, dataset in arguments.named_datasets(train_dataset, eval_dataset).items():
        columns = getattr(dataset, "column_names", None)
        if columns is not None and (missing := sorted(judge.needs - set(columns))):
            there = ", ".join(map(repr, columns))
            raise ValueError(
                f"The judge {judge.name} asks for the column {missing[0]!r}, which `{name}` lacks: there are "
                f"{there}. Add it, or give the judge's argument a default."
            )
