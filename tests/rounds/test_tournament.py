# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""INPO's knock-out among K completions: how much is asked, who is found, and what is trained on."""

import math

import numpy as np
import pytest
import torch
from helpers import answer_with, make_trainer, prompt_dataset

from trl_nash.rounds.tournament import best_and_worst_by_tournament


def referee(strength: np.ndarray):
    """Bradley-Terry verdicts on completions of the given strength, and a list of how many were asked at each call."""
    asked = []

    def compare(players, pairs):
        asked.append(len(pairs))
        played = np.take_along_axis(strength, players, axis=1)
        first, second = np.array(pairs).T
        return 1 / (1 + np.exp(played[:, second] - played[:, first]))

    return compare, asked


@pytest.mark.parametrize(("count", "comparisons"), [(3, 3), (4, 5), (5, 6), (6, 8), (7, 9), (8, 11), (16, 23)])
def test_the_best_and_the_worst_are_found(count, comparisons):
    """
    K - 1 games for the best, of which floor(K/2) are the first stage, floor(K/2) - 1 more for the worst, and a final:
    K + floor(K/2) - 1. Of an odd K the last never plays for the worst, so it is made a strong one here.
    """
    strength = np.random.default_rng(0).normal(size=(200, count))
    strength[:, -1] += 10 * (count % 2)
    compare, asked = referee(strength)
    final, preference = best_and_worst_by_tournament(compare, 200, count)
    assert sum(asked) == comparisons == count + count // 2 - 1
    assert len(asked) == 1 + math.ceil(math.log2(math.ceil(count / 2))) + 1
    np.testing.assert_array_equal(final[:, 0], strength.argmax(axis=1))
    np.testing.assert_array_equal(final[:, 1], strength.argmin(axis=1))
    gap = strength.max(axis=1) - strength.min(axis=1)
    np.testing.assert_allclose(preference[:, 0], 1 / (1 + np.exp(-gap)))


def test_an_abstention_is_a_tie_in_which_the_first_goes_on():
    final, preference = best_and_worst_by_tournament(lambda players, pairs: np.full((2, len(pairs)), np.nan), 2, 4)
    assert final.tolist() == [[0, 3], [0, 3]]
    assert np.isnan(preference).all()


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
    assert batch.pairs.tolist() == [[[0, 1]], [[0, 1]]] and batch.num_completions == 8
    texts = [
        trainer.judging.decode(row[labels != -100].tolist())
        for row, labels in zip(batch.input_ids, batch.labels, strict=True)
    ]
    assert texts[:2] == ["a a a a", "b"] and sorted(texts[:8]) == sorted(answers)
    torch.testing.assert_close(batch.preference, torch.full((2, 1), 1 / (1 + math.exp(-4))))


def test_training_and_evaluation_run(tmp_path):
    trainer = make_trainer(
        "onpo-one",
        tmp_path,
        num_generations=5,
        pair_selection="tournament",
        max_steps=2,
        extra={"eval_dataset": prompt_dataset(["a", "b"])},
    )
    trainer.train()
    assert 0 <= trainer.evaluate()["eval_policy/win_rate_reference"] <= 1


def test_two_completions_are_no_tournament(tmp_path):
    with pytest.raises(ValueError, match="'tournament'` needs `num_generations` of at least 3, got 2"):
        make_trainer("comal", tmp_path, pair_selection="tournament", num_generations=2)
