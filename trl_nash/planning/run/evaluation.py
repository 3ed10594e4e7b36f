# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How often a run is evaluated, on how many prompts, and what an evaluation consists of."""

import math

from ...algorithms import INITIAL, Policy
from ..known import GROUP_JUDGES, PLAYED, SCORERS
from .description import KL_SAMPLE, Run, as_kept


SHARE, LEAST, MOST = 0.05, 16, 128  # of the prompts that there are, and how many may be held out
LARGEST_SHARE = 0.2  # where even the least would be more than this, none are


def held_out_count(total: int, prompts_per_round: int) -> int:
    """How many of `total` prompts are held out; 0 where there are too few."""
    count = min(max(round(SHARE * total), LEAST), MOST)
    return 0 if count > LARGEST_SHARE * total or total - count < prompts_per_round else count


def evaluations(training, steps: int, epoch: int | None = None) -> int:
    """
    How often a run is evaluated: at its end, and when `eval_strategy` says.

    Args:
        training ([`~transformers.TrainingArguments`] or what has its names): when.
        steps (`int`): optimizer steps of the run.
        epoch (`int`, *optional*): optimizer steps of an epoch; `None` of a stream, whose epochs end nobody knows when.
    """
    strategy = getattr(training.eval_strategy, "value", training.eval_strategy)
    if strategy == "epoch":
        return math.ceil(steps / epoch) if epoch else 1
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


def pool_samplings(run: Run) -> int:
    """
    Completions of one prompt, over a run, at most, of an opponent pool: one of the start, of each policy that joins it
    and of each that is evaluated.
    """
    return 1 + run.pool + run.evaluations if run.opponent_pool_rounds else 0


def samplings(run: Run) -> int:
    """How often a prompt's K completions are sampled: as in a fit, and those of policy and start that play."""
    return (2 if run.algorithm in PLAYED else 1) + (not run.trains_on_policy) + 1


def judge_calls(run: Run) -> int:
    """Questions to the judge for one prompt: the pairs of a fit, and each completion against one of the start."""
    count = run.num_generations
    if run.judge in SCORERS:
        return (2 if run.algorithm in PLAYED else 1) * count + 2 * count
    return (2 if run.judge in GROUP_JUDGES else run.judged_pairs + count) * run.judge_orders


def scorings(run: Run) -> float:
    """
    Passes over the rows of an evaluation after the last round: for its loss, for the other policies in the centre of
    the fit that would begin now, and for a metric.
    """
    live = as_kept(Policy(run.rounds, 0))
    centre = {as_kept(p) for p, weight in run.fits_of(run.past(run.rounds))[0].centre.items() if weight}
    total = 1.0 + len(centre - {live})
    if run.trains_on_policy and INITIAL not in centre | {live}:
        total += min(1.0, KL_SAMPLE / (run.per_device_eval_batch_size * run.num_generations))
    return total
