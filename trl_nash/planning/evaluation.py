# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How often a run is evaluated, and on how many prompts."""

import math

from .known import GROUP_JUDGES, SCORERS
from .run import Run


SHARE, LEAST, MOST = 0.05, 16, 128  # of the prompts that there are, and how many may be held out
LARGEST_SHARE = 0.2  # where even the least would be more than this, none are


def held_out_count(total: int, prompts_per_round: int) -> int:
    """How many of `total` prompts are held out; 0 where there are too few."""
    count = min(max(round(SHARE * total), LEAST), MOST)
    return 0 if count > LARGEST_SHARE * total or total - count < prompts_per_round else count


def evaluations(training, steps: int) -> int:
    """
    How often a run is evaluated: at its end, and when `eval_strategy` says.

    Args:
        training ([`~transformers.TrainingArguments`] or what has its names): when.
        steps (`int`): optimizer steps of the run.
    """
    strategy = getattr(training.eval_strategy, "value", training.eval_strategy)
    if strategy == "epoch":
        return max(1, math.ceil(training.num_train_epochs))
    if strategy == "no":
        return 1
    every = training.eval_steps or training.logging_steps
    return math.ceil(steps / max(1, math.ceil(steps * every) if every < 1 else int(every)))


def pool_calls(run: Run) -> int:
    """
    Questions to the judge for one prompt, over a run, at most, of an opponent pool: what joins plays all who are
    there, what is evaluated plays the pool, and the best so far all newcomers.
    """
    if not run.opponent_pool_rounds:
        return 0
    if run.judge in SCORERS:  # each evaluation scores what plays
        return run.evaluations * (run.pool + 3)
    if run.judge in GROUP_JUDGES:  # each evaluation has one group of what is left to judge
        return run.evaluations * run.judge_orders
    pairs = run.pool * (run.pool + 1) // 2 + run.evaluations * (run.pool + 1) + run.pool
    return pairs * run.judge_orders
