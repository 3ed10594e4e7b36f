# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash plan` counts of evaluations and of the judge, against trainers and by hand."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from helpers import ALGORITHMS, make_trainer, prompt_dataset

from trl_nash import OnlineIPOConfig, OnlineIPOTrainer
from trl_nash.cli.main import main
from trl_nash.planning.run import Run
from trl_nash.planning.run.evaluation import judge_calls, samplings, scorings


def planned(*argv: str, capsys) -> list[dict]:
    assert main(["plan", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_time_of_a_judge_is_what_the_text_says(capsys):
    """A function takes none, a model its FLOP, one whose size nobody knows those of 8B, a server its rate."""

    def judged(*argv):
        argv = ("--parameters=1B", "--steps_per_generation=1", "--judge", *argv)
        assert main(["plan", "onpo", *argv]) == 0
        printed = " ".join(capsys.readouterr().out.split())
        (found,) = planned("onpo", *argv, capsys=capsys)
        return found["in_all"]["seconds"]["judge"], printed

    seconds, printed = judged("openai:model", "--judge_rate", "4")
    assert seconds == 8 * 10 * 2 / 4 and "the judge answers 4 calls a second" in printed
    seconds, printed = judged("my_judges:longer_wins")
    assert seconds == 0 and "takes no time" in printed and "calls a second" not in printed
    calls, length = 8 * 2 * 10, 448 + 64
    for name, size, said in (
        ("reward:org/Reward-V2-0.6B", 0.6e9, "has 0.6B parameters, by its name"),
        ("reward:org/model", 8e9, "is taken for one of 8B parameters"),
    ):
        seconds, printed = judged(name)
        assert seconds == pytest.approx(calls * 2 * size * length / (989e12 * 0.45)) and said in printed


def test_the_evaluation_at_the_end_is_counted(capsys):
    """5 % of 2000 prompts: two samplings of K, the pairs of a fit and K against the start, in both orders."""
    argv = (
        "comal --parameters 1B --generation_batch_size 512 --dataset_size 2000 --num_train_epochs 1 --judge openai:m"
    )
    argv += " --prompt_length 100 --completion_length 50"
    (found,) = planned(*argv.split(), capsys=capsys)
    assert found["run"]["evaluation_prompts"] == 100 and found["in_all"]["rounds"] == 3  # 1900 // 512
    assert found["in_all"]["judge_calls"] == 3 * 512 * 20 + 100 * (10 + 5) * 2
    assert found["in_all"]["tokens_generated"] == (3 * 512 + 2 * 100) * 5 * 50
    assert found["in_all"]["seconds"]["evaluation"] > 100 * 30 / 10
    (often,) = planned(*argv.split(), "--eval_strategy", "steps", "--eval_steps", "96", capsys=capsys)
    assert often["run"]["evaluations"] == 2  # of 192 steps
    (pool,) = planned(*argv.split(), "--opponent_pool_rounds", "1", capsys=capsys)  # the start, 3 rounds, the last
    assert pool["in_all"]["tokens_generated"] == found["in_all"]["tokens_generated"] + 100 * (1 + 3 + 1) * 50
    calls = 100 * (6 + 4 + 3) * 2
    assert pool["in_all"]["judge_calls"] == found["in_all"]["judge_calls"] + calls
    evaluation = found["in_all"]["seconds"]["evaluation"]
    took = pool["in_all"]["seconds"]["evaluation"] - evaluation
    # Kernels that are started take the time of a call, not the number of its rows: 5 samplings instead of 2.
    assert took - calls / 10 == pytest.approx(5 / 2 * (evaluation - 3000 / 10), rel=0.1)
    assert pool["in_all"]["flop"]["evaluation"] > found["in_all"]["flop"]["evaluation"]
    (none,) = planned(*argv.split(), "--test_split_size", "0", capsys=capsys)
    assert "evaluation" not in none["in_all"]["seconds"] and none["in_all"]["judge_calls"] == 3 * 512 * 20
    (few,) = planned("comal", "--parameters", "1B", "--dataset_size", "40", capsys=capsys)
    assert few["run"]["evaluation_prompts"] == 0  # as 16 of 40 would be too many


def test_epochs_end_where_the_steps_do(capsys):
    """
    Of 1900 prompts, 3 rounds of 512 of 64 optimizer steps each: `max_steps` goes before `num_train_epochs`, which is
    3 if nobody says otherwise, and the epoch that it cuts short is evaluated too.
    """
    argv = "comal --parameters 1B --generation_batch_size 512 --dataset_size 2000 --eval_strategy epoch".split()
    (whole,) = planned(*argv, capsys=capsys)
    assert whole["run"]["evaluations"] == 3
    for steps, evaluations in ((100, 1), (192, 1), (193, 2)):
        (found,) = planned(*argv, "--max_steps", str(steps), capsys=capsys)
        assert found["run"]["evaluations"] == evaluations
    (stream,) = planned(*argv[:5], *argv[7:], "--test_split_size", "16", "--max_steps", "500", capsys=capsys)
    assert stream["run"]["evaluations"] == 1


@pytest.mark.parametrize(
    ("algorithm", "run"),
    [
        ("comal", Run(algorithm="comal", rounds=1)),
        ("onpo-one", Run(algorithm="onpo", rounds=1)),
        ("nash-md", Run(algorithm="nash-md", rounds=1)),
        ("online-ipo", Run(algorithm="online-ipo", mixture_coef=0.25, rounds=1)),
    ],
)
def test_an_evaluation_costs_what_is_counted(algorithm, run, tmp_path, monkeypatch):
    """Completions, pairs that are judged, and forward passes over the rows, of 6 prompts after a round."""
    monkeypatch.setitem(ALGORITHMS, "online-ipo", (OnlineIPOTrainer, OnlineIPOConfig, {"mixture_coef": 0.25}))
    run = replace(run, num_generations=3, per_device_eval_batch_size=3, judge_orders=1)
    trainer = make_trainer(
        algorithm,
        tmp_path,
        num_generations=3,
        per_device_eval_batch_size=3,
        max_steps=1,
        extra={"eval_dataset": prompt_dataset("abcdef")},
    )
    trainer.train()
    counted = Counter()
    generate, verdicts = trainer.sampler.generate, trainer.judging.verdicts
    under, compute_loss = trainer.scorer.under, trainer.compute_loss

    def counting_generate(prompts, count, *args):
        counted["completions"] += len(prompts) * count
        return generate(prompts, count, *args)

    def counting_verdicts(rows, samples, *args):
        judged = verdicts(rows, samples, *args)
        counted["pairs"] += judged.preference.numel()
        return judged

    def counting_under(policy, batches, *args, **kwargs):
        counted["rows"] += sum(batch.input_ids.size(0) for batch in batches)
        return under(policy, batches, *args, **kwargs)

    def counting_loss(model, batch, **kwargs):
        counted["rows"] += batch.input_ids.size(0)
        return compute_loss(model, batch, **kwargs)

    monkeypatch.setattr(trainer.sampler, "generate", counting_generate)
    monkeypatch.setattr(trainer.judging, "verdicts", counting_verdicts)
    monkeypatch.setattr(trainer.scorer, "under", counting_under)
    monkeypatch.setattr(trainer, "compute_loss", counting_loss)
    trainer.evaluate()
    assert counted["completions"] == 6 * 3 * samplings(run)
    assert counted["pairs"] == 6 * judge_calls(run)
    assert counted["rows"] == 6 * 3 * scorings(run)
