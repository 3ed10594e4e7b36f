# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How often a run is evaluated, and on how many prompts."""

import argparse
import math

from ..cli.held_out import held_out_count


def evaluation_prompts(options: argparse.Namespace, total: int, prompts_per_round: int) -> int:
    """How many of `total` prompts a run is evaluated on, as `trl_nash.cli.train` divides them."""
    size = options.test_split_size
    if size is not None:
        return min(int(size), total) if size >= 1 else math.ceil(size * total)
    if options.dataset_test_split is not None:
        options.notes.append("an evaluation on --dataset_test_split is not counted: give --test_split_size N for it")
        return 0
    return held_out_count(total, prompts_per_round)


def evaluations(options: argparse.Namespace, steps: int) -> int:
    """How often a run of that many optimizer steps is evaluated: at its end, and when `--eval_strategy` says."""
    if options.eval_strategy == "epoch":
        return max(1, math.ceil(options.num_train_epochs))
    if options.eval_strategy == "no":
        return 1
    every = options.eval_steps or options.logging_steps
    return math.ceil(steps / max(1, math.ceil(steps * every) if every < 1 else int(every)))
