# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The round and the generation call that a run has where nobody has chosen them."""

from dataclasses import replace

import pytest

import trl_nash
from trl_nash.cli.options.typed import ALGORITHMS
from trl_nash.planning.costs.memory import memory
from trl_nash.planning.known import UNFITTED
from trl_nash.planning.model import sizes_by_hand
from trl_nash.planning.run import Run
from trl_nash.planning.sizes import FITTED, LEFT_OUT, SAFE, fitted_round, generation_batch
from trl_nash.planning.words import remarks_on


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


@pytest.mark.parametrize("accumulation", [1, 2, 3, 4, 8])
def test_hardly_any_prompts_are_left_out_where_they_are_few(accumulation):
    """At most a tenth, unless no number of micro-steps takes so many; and the round is one that configs accept."""
    run = Run(per_device_train_batch_size=4, num_processes=2, gradient_accumulation_steps=accumulation)
    for prompts in range(8 * accumulation, 8 * accumulation * FITTED):
        steps, passes = fitted_round(run, prompts)
        assert 8 * steps <= prompts and steps * passes % accumulation == 0
        assert steps * passes // accumulation >= FITTED
        assert prompts - 8 * steps <= max(LEFT_OUT * prompts, prompts % 8)


def test_few_prompts_with_chosen_passes_or_few_steps():
    """30 prompts in micro-steps of 8, of which two are an optimizer step."""
    run = Run(per_device_train_batch_size=8, gradient_accumulation_steps=2)
    assert fitted_round(run, 30) == (3, 8)  # 12 optimizer steps; 10 of two micro-steps would leave 14 prompts out
    assert fitted_round(run, 30, passes=4) == (3, 4)
    assert fitted_round(run, 30, passes=3) == (2, 3)  # 9 micro-steps would end within an optimizer step
    assert fitted_round(run, 30, max_steps=12) == (3, 8) and fitted_round(run, 30, max_steps=11) == (2, 10)


def test_prompts_that_every_epoch_leaves_out_are_counted_aloud():
    run = Run(per_device_train_batch_size=8, steps_per_generation=1)
    said = remarks_on(run, ["steps_per_generation"], prompts=15, rounds=3)["steps"]
    assert said.startswith("; 7 of the 15 prompts fill no round, and every epoch leaves so many out")
    assert "steps" not in remarks_on(run, [], prompts=17, rounds=6)  # one of them is a tenth
    assert "steps" not in remarks_on(run, [], prompts=15, rounds=0)  # nor is there an epoch
    assert "steps" not in remarks_on(run, [], prompts=None, rounds=3)


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
