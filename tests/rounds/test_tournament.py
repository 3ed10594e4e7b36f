# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Trainers with a pairing whose waves depend on verdicts: what they ask, and what they train on."""

import math

import pytest
import torch
from helpers import answer_with, make_trainer, prompt_dataset


class Recorder:
    """Prefers more words "a"; keeps the pairs that it is asked about."""

    symmetric = True

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, first, second):
        self.asked += zip(first, second, strict=True)
        return [1 / (1 + math.exp(b.count("a") - a.count("a"))) for a, b in zip(first, second, strict=True)]


def test_a_trainer_fits_the_best_against_the_worst(tmp_path):
    judge = Recorder()
    trainer = make_trainer(
        "comal",
        tmp_path,
        judge=judge,
        dataset=prompt_dataset(["b"] * 2),
        num_generations=8,
        pair_selection="tournament",
        max_steps=1,
    )
    answers = ["a a b", "b", "a b", "a a a a", "a a a", "b b a a", "a", "c a a"]
    answer_with(trainer, answers)
    batch = trainer._prepare_inputs([{"prompt": "b"}] * 2)
    assert len(judge.asked) <= 11  # the two prompts are alike, and repeated questions are asked once
    assert batch.pairs.shape == (2, 1, 2) and batch.num_completions == 8
    texts = [
        trainer.judging.decode(row[labels != -100].tolist())
        for row, labels in zip(batch.input_ids, batch.labels, strict=True)
    ]
    assert texts[:8] == answers
    assert [[answers[k] for k in pair] for (pair,) in batch.pairs.tolist()] == [["a a a a", "b"]] * 2
    torch.testing.assert_close(batch.preference, torch.full((2, 1), 1 / (1 + math.exp(-4))))


@pytest.mark.parametrize("selection, pairs", [("tournament", None), ("swiss", None), ("active", 4)])
def test_training_and_evaluation_run(tmp_path, selection, pairs):
    trainer = make_trainer(
        "onpo-one",
        tmp_path,
        num_generations=5,
        pair_selection=selection,
        pairs_per_prompt=pairs,
        max_steps=2,
        extra={"eval_dataset": prompt_dataset(["a", "b"])},
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_policy/win_rate_reference"] <= 1


def test_weights_of_active_pairs_reach_the_loss(tmp_path):
    trainer = make_trainer(
        "ipo",
        tmp_path,
        judge=Recorder(),
        dataset=prompt_dataset(["b"] * 2),
        num_generations=4,
        pair_selection="active",
        pairs_per_prompt=3,
    )
    answer_with(trainer, ["a a a a", "b", "a b", "a a b"])
    batch = trainer._prepare_inputs([{"prompt": "b"}] * 2)
    assert batch.weights.shape == (2, 3) and (batch.weights > 0).all() and (batch.weights != 1).any()
    logps = torch.zeros(8, batch.labels.size(1) - 1)
    batch = trainer.scorer.complete(batch, logps)
    logps = batch.centre_logps  # no margin: what is left is the targets
    expected = (batch.weights * (trainer.fit.step_size * (batch.preference - 0.5)) ** 2).mean(-1)
    torch.testing.assert_close(trainer.objective(logps, batch), expected)


def test_what_a_pairing_draws_depends_on_the_run_and_not_on_when_it_is_drawn(tmp_path):
    drawn = []
    for seed in (1, 1, 2):
        trainer = make_trainer(
            "ipo",
            tmp_path,
            dataset=prompt_dataset(["b"] * 2),
            num_generations=5,
            pair_selection="random",
            pairs_per_prompt=4,
            seed=seed,
        )
        answer_with(trainer, ["a a b", "b", "a b", "a a a a", "a a a"])
        torch.rand(seed)
        drawn.append(trainer._prepare_inputs([{"prompt": "b"}] * 2).pairs)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0][0], drawn[0][1])  # each prompt has its own


def test_two_completions_are_no_tournament(tmp_path):
    with pytest.raises(ValueError, match="'tournament'` needs `num_generations` of at least 3, got 2"):
        make_trainer("comal", tmp_path, pair_selection="tournament", num_generations=2)


def test_what_fills_up_a_row_is_no_verdict(tmp_path):
    """
    Three of four completions are equal: 3 of 6 pairs are uncertain, and with M = 4 two of them are asked. A judge that
    wins each with .75 has a mean of .75, and one that says nothing has abstained on all that it was asked.
    """
    found = {}
    for verdict in (0.75, None):
        trainer = make_trainer(
            "ipo",
            tmp_path,
            judge=lambda prompts, first, second, p=verdict: [
                p and (p if len(a) > len(b) else 1 - p) for a, b in zip(first, second, strict=True)
            ],
            dataset=prompt_dataset(["b"] * 2),
            num_generations=4,
            pair_selection="active",
            pairs_per_prompt=4,
            max_nan_rate=0.9,
            max_steps=1,
        )
        answer_with(trainer, ["a a a a", "b", "b", "b"])
        if verdict is None:
            with pytest.raises(RuntimeError, match="^4 of the 4 pairs of round 1 have no verdict"):
                trainer.train()
            continue
        trainer._prepare_inputs([{"prompt": "b"}] * 2)
        found = trainer.reporter.metrics.flush()
    assert found["judge/preference"] == 0.75 and found["judge/abstained"] == 0.0


def test_a_fit_is_measured_with_the_weights_of_its_loss(tmp_path):
    """R² = 1 - Σ w (h - t)² / Σ w t², and what a filled-up pair or one without a verdict would be does not matter."""
    trainer = make_trainer("ipo", tmp_path, max_steps=1)
    margin = torch.tensor([[1.0, 0.5, 7.0], [-2.0, 5.0, 0.0]])
    target = torch.tensor([[2.0, -1.0, 0.0], [-2.0, math.nan, 4.0]])
    weights = torch.tensor([[0.5, 2.0, 0.0], [1.0, 1.0, 3.0]])
    trainer.reporter.record_fit(margin, target, weights)
    found = trainer.reporter.metrics.flush()
    lost, total = 0.5 * 1 + 2 * 2.25 + 0 + 3 * 16, 0.5 * 4 + 2 * 1 + 4 + 3 * 16
    assert found["fit/r2"] == pytest.approx(1 - lost / total)
    assert found["fit/margin"] == pytest.approx((0.5 * 1 - 2 * 0.5 + 2 + 0) / 6.5)
    assert found["fit/target"] == pytest.approx((0.5 * 2 + 2 * 1 + 2 + 3 * 4) / 6.5)
