# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The round and the generation call that a run has where nobody has chosen them."""

from dataclasses import replace

import pytest

import trl_nash
from trl_nash.cli.options import ALGORITHMS
from trl_nash.planning.memory import memory
from trl_nash.planning.model import sizes_by_hand
from trl_nash.planning.run import UNFITTED, Run
from trl_nash.planning.sizes import SAFE, fitted_round, generation_batch


def test_methods_that_fit_rounds_are_those_of_the_trainers():
    fitted = {name for name, one in ALGORITHMS.items() if getattr(trl_nash, one.trainer).assumes_fitted_rounds}
    assert fitted == ALGORITHMS.keys() - set(UNFITTED)


@pytest.mark.parametrize(
    "steps, expected",
    [
        (1, (1, 10)),
        (4, (4, 3)),
        (9, (9, 2)),
        (10, (10, 1)),
        (26, (13, 1)),
        (31, (31, 1)),
        (40, (20, 1)),
        (999, (16, 1)),
    ],
)
def test_few_prompts_are_left_out_of_an_epoch(steps, expected):
    """Of so many optimizer steps in an epoch: the length of a round, and its passes."""
    assert fitted_round(Run(per_device_train_batch_size=4, num_processes=2), 8 * steps + 7) == expected


@pytest.mark.parametrize("run", [Run(), Run(fits="two"), Run(gradient_accumulation_steps=4)], ids=str)
@pytest.mark.parametrize("prompts", [None, 40, 2000])
@pytest.mark.parametrize("passes", [None, 3])
def test_a_run_of_few_steps_has_a_whole_round(run, prompts, passes):
    for max_steps in (6, 9, 20, 100, 1000):
        steps, made = fitted_round(run, prompts, passes, max_steps)
        one = replace(run, steps_per_generation=steps, num_iterations=made)
        assert one.optimizer_steps_per_round <= max_steps and made == (passes or made)
    assert fitted_round(run, prompts, passes, -1) == fitted_round(run, prompts, passes)


def test_the_steps_of_a_run_are_whole_rounds_where_they_can_be():
    rounds = {steps: fitted_round(Run(), None, None, steps) for steps in (4, 20, 100, 160, 1000)}
    assert rounds == {4: (4, 1), 20: (20, 1), 100: (20, 1), 160: (16, 1), 1000: (16, 1)}


def test_the_largest_generation_batch_that_fits():
    """By the plan's own figures: the next larger one would not."""
    model, run = sizes_by_hand(int(1e9)), Run(algorithm="comal", num_generations=5, steps_per_generation=16)

    def sampling(count: int) -> float:
        return sum(memory(model, replace(run, per_device_generation_batch_size=count)).sampling.values())

    for count in (128, 64, 16):
        limit = sampling(count) / SAFE
        assert generation_batch(model, run, int(limit) + 2) == count
        assert generation_batch(model, run, int(limit * 0.99)) == count // 2
    assert generation_batch(model, run, 1) == run.per_device_train_batch_size
