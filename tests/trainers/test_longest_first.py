# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The prompts of a round are sampled longest first, and nothing but the sampling can tell."""

import random

import pytest
import torch
from helpers import ALGORITHMS, equal, favours_a, history, make_trainer, prompt_dataset, weights

from trl_nash.rounds.rows import Filler
from trl_nash.trainers.run import collector


WORDS = "a b c d e f g h".split()
DRAW = random.Random(0)
PROMPTS = [" ".join(DRAW.choices(WORDS, k=DRAW.randint(1, 9))) for _ in range(12)]
ROUND = {"dataset": prompt_dataset(PROMPTS), "per_device_train_batch_size": 2, "steps_per_generation": 6}


class Killed(BaseException):
    """What no code catches, like a SIGKILL."""


def judge_of(waits: bool, seen: list | None = None):
    def judge(prompts, first, second):
        if seen is not None:
            seen.extend(zip(prompts, first, second, strict=True))
        return favours_a(prompts, first, second)

    judge.symmetric, judge.waits = True, waits
    return judge


def build(folder, algorithm="comal", waits=False, fixed=False, at=None, seen=None, **options):
    """
    A trainer that notes the prompts of each generation, and is killed at one.

    With `fixed` the completions of a prompt depend on nothing but the prompt.
    """
    calls: list[list[str]] = []

    class Noting(ALGORITHMS[algorithm][0]):
        def sample_pairs(self, prompts):
            if len(calls) == at:
                raise Killed
            calls.append(list(prompts))
            return super().sample_pairs(prompts)

        def generate(self, prompts, count, policy=None):
            if not fixed:
                return super().generate(prompts, count, policy)
            ids = [self.processing_class(prompt)["input_ids"] for prompt in prompts]
            draws = [random.Random(prompt + str(policy)) for prompt in prompts]
            return ids, [[draw.choices(range(5, 13), k=draw.randint(1, 5)) for _ in range(count)] for draw in draws]

    options = ROUND | {"max_steps": 12, "learning_rate": 0.05} | options
    judge = judge_of(waits, seen)
    return make_trainer(algorithm, folder, trainer_class=Noting, judge=judge, **options), calls


def test_the_longest_prompts_of_a_round_come_first(tmp_path):
    """Of the whole round, in chunks of 2, however few chunks become micro-batches at a time."""
    trainer, calls = build(tmp_path, per_device_generation_batch_size=2)
    trainer.train()
    for sampled in (calls[:6], calls[6:]):
        assert [len(chunk) for chunk in sampled] == [2] * 6
        lengths = [len(prompt.split()) for chunk in sampled for prompt in chunk]
        assert lengths == sorted(lengths, reverse=True) and sorted(lengths) == sorted(len(p.split()) for p in PROMPTS)


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(
    "algorithm, options",
    [
        ("comal", {}),
        ("ipo", {"pair_selection": "tournament", "num_generations": 4}),
        ("nash-md", {"gradient_accumulation_steps": 6}),
    ],
)
def test_a_run_is_that_of_a_round_in_its_own_order(algorithm, options, size, waits, tmp_path, monkeypatch):
    """
    Where what is sampled depends on the prompt alone, chunks of 1 or 5 sorted prompts give the verdicts, metrics and
    weights, bitwise, of one chunk that is sampled as it stands.
    """
    monkeypatch.setattr(collector, "CHUNKS_AT_ONCE", 2)
    seen, sorted_seen = [], []
    plain, in_order = build(
        tmp_path / "one", algorithm, fixed=True, seen=seen, per_device_generation_batch_size=12, **options
    )
    long, calls = build(
        tmp_path / "many",
        algorithm,
        waits,
        fixed=True,
        seen=sorted_seen,
        per_device_generation_batch_size=size,
        **options,
    )
    plain.train()
    long.train()
    assert [p for chunk in in_order[:1] for p in chunk] != [p for chunk in calls[: -(-12 // size)] for p in chunk]
    assert sorted(seen) == sorted(sorted_seen)
    assert equal(weights(plain.model), weights(long.model))
    for metric in ("loss", "judge/preference", "judge/longer_wins", "completions/mean_length", "prompts/cut_ratio"):
        assert history(plain, metric) == pytest.approx(history(long, metric), rel=1e-6)


@pytest.mark.parametrize("waits", [False, True])
def test_a_killed_round_goes_on(waits, tmp_path, monkeypatch):
    """Killed before chunk 5 of 12: four are read, the others are sampled, and the run is the undisturbed one."""
    monkeypatch.setattr(collector, "CHUNKS_AT_ONCE", 2)
    options = {"waits": waits, "per_device_generation_batch_size": 1, "num_generations": 3}
    whole, calls = build(tmp_path / "whole", **options)
    whole.train()
    killed, _ = build(tmp_path / "run", at=4, **options)
    with pytest.raises(Killed):
        killed.train()
    resumed, rest = build(tmp_path / "run", **options)
    resumed.train()
    assert rest == calls[4:]
    assert equal(weights(whole.model), weights(resumed.model))
    assert history(whole, "loss") == history(resumed, "loss")


def test_rows_come_back_in_order_and_fillers_are_sampled_last(tmp_path, monkeypatch):
    """An evaluation's fillers are longer than all other prompts, and are not judged before these are."""
    monkeypatch.setattr(collector, "CHUNKS_AT_ONCE", 1)
    trainer, calls = build(tmp_path, per_device_generation_batch_size=2)
    rows = [{"prompt": prompt} for prompt in PROMPTS[:3]] + [Filler({"prompt": " ".join(WORDS + WORDS[:3])})] * 2
    with torch.no_grad():
        judged = list(trainer.collector.collect(rows))
    assert [row["prompt"] for part in judged for row in part.rows] == [row["prompt"] for row in rows]
    assert [ids for part in judged for ids in part.samples.prompt_ids] == [
        trainer.processing_class(row["prompt"])["input_ids"] for row in rows
    ]
    assert [prompt for chunk in calls for prompt in chunk][3:] == [" ".join(WORDS + WORDS[:3])] * 2
