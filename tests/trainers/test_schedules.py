# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Step sizes go by round and KL coefficients by epoch: what does not go together is refused before anything runs."""

import itertools
import math

import pytest
from datasets import IterableDataset
from helpers import make_config, make_trainer, prompt_dataset

from trl_nash.trainers.checks.schedules import rounds_and_epochs


def prompts(count: int):
    return prompt_dataset(["a"] * count)


def stream():
    return IterableDataset.from_generator(lambda: iter([{"prompt": "a"}]))


REFUSED = r"In round 2, sampled in epoch 1: `step_size \* beta` .* got 10 \* 0.2 = 2. Lower one"


@pytest.mark.parametrize(
    "dataset, options, refused",
    [
        (prompts(2), {}, False),  # one round an epoch: 10 meets .05
        (prompts(3), {}, False),  # the row that fills no round is left out
        (prompts(4), {}, True),  # two: 10 meets .2
        (prompts(4), {"max_steps": 1}, False),
        (prompts(8), {"num_train_epochs": 0.25}, False),
        (prompts(8), {"num_train_epochs": 0.3}, True),
        (prompts(8), {"num_iterations": 2, "max_steps": 2}, False),
        (prompts(8), {"num_iterations": 2, "max_steps": 3}, True),
        (stream(), {"max_steps": 1}, False),
        (stream(), {"max_steps": 2}, True),  # a stream may have one round or more
    ],
)
def test_what_meets_in_a_run(dataset, options, refused, tmp_path):
    """With `step_size=[1, 10, 1]`, `beta=[.2, .05]` and rounds of two prompts the first and the last entries fit."""

    def build():
        return make_trainer("comal", tmp_path, dataset=dataset, step_size=[1, 10, 1], beta=[0.2, 0.05], **options)

    if refused:
        with pytest.raises(ValueError, match=REFUSED):
            build()
    else:
        build()


def test_only_what_occurs_is_refused(tmp_path):
    """Where round and epoch change together, a run goes through pairs whose neighbours would be refused."""
    options = {"step_size": [4.0, 20.0], "beta": [0.2, 0.05], "num_generations": 2}
    trainer = make_trainer("comal", tmp_path, dataset=prompts(2), max_steps=3, **options)
    trainer.train(), trainer.evaluate(prompts(2))
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("by_round, by_epoch, in_epoch", list(itertools.product([1, 2, 5], [1, 3], [1, 2, 7])))
def test_every_pair_of_entries_is_looked_at_once(by_round, by_epoch, in_epoch, tmp_path):
    """Against the enumeration of all rounds of runs of 1 to 20 rounds, of a dataset and of a stream."""
    options = {"step_size": [1.0] * by_round, "beta": [0.0] * (by_epoch - 1) + [0.1]}
    for count in range(1, 21):
        args = make_config("comal", tmp_path, max_steps=count, **options)

        def entries(pairs, args=args):
            lengths = [len(value) if isinstance(value, list) else 1 for value in (args.step_size, args.beta)]
            return [tuple(min(i, n - 1) for i, n in zip(pair, lengths, strict=True)) for pair in pairs]

        found = entries(rounds_and_epochs(args, prompts(2 * in_epoch)))
        assert set(found) == set(entries((t, t // in_epoch) for t in range(count)))
        assert len(found) <= by_round + by_epoch + math.ceil(by_round / in_epoch)
        found = entries(rounds_and_epochs(args, stream()))
        assert set(found) == set(entries((t, e) for t in range(count) for e in range(t + 1)))
