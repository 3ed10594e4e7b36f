# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What the trainers' own losses are minimised by, on a game of three answers: the closed-form mirror-descent steps.

The closed forms run beside the trainers from the same start and are never told where the trainers are.
"""

import math

import pytest
import torch
from helpers import PAIR_ALGORITHMS, make_trainer
from tabular import GAME, START, ExactGame, mirror_step

from trl_nash.algorithms import Policy


ROUNDS = 6
STEP = 0.7
# Majorities: 1 for the winner, the diagonal is a tie.
MAJORITY_GAME = (GAME - 0.5).sign() / 2 + 0.5
assert (MAJORITY_GAME - GAME).abs().max() > 0.19


def closed_forms(algorithm: str, rounds: int, game=GAME, step=STEP, rho=0.25, reference_rounds=2):
    """Yields π_2, π_3 ... of the papers, from π_1 = `START`."""
    policy, reference, auxiliary = START, START, START
    for t in range(rounds):
        if algorithm == "ipo":
            policy = mirror_step(policy.log(), step, policy, game)
        elif algorithm == "comal":
            if t > 0 and t % reference_rounds == 0:
                reference = policy
            policy = mirror_step(rho * reference.log() + (1 - rho) * policy.log(), step, policy, game)
        elif algorithm == "onpo-two":
            auxiliary = mirror_step(auxiliary.log(), step, policy, game)
            policy = mirror_step(auxiliary.log(), step, policy, game)
        elif algorithm == "onpo-one":
            policy = mirror_step(auxiliary.log(), 2 * step, policy, game)
            auxiliary = (0.5 * auxiliary.log() + 0.5 * policy.log()).softmax(-1)
        yield policy


def options(algorithm: str) -> dict:
    return {
        "ipo": {"step_size": STEP},
        "comal": {"step_size": STEP, "beta": 0.25 / STEP, "reference_rounds": 2},
        "onpo-one": {"step_size": STEP, "anchor_history": 50},
        "onpo-two": {"step_size": STEP},
    }[algorithm]


def check_rounds(game: ExactGame, expected, **fit_options) -> None:
    before = START
    for policy in expected:
        game.play_round(**{name: make(game) for name, make in fit_options.items()})
        torch.testing.assert_close(game.policy, policy, rtol=0, atol=1e-6)
        assert (policy - before).abs().max() > 1e-3  # there is something to be equal to
        before = policy


@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
@pytest.mark.parametrize(
    "count, selection", [(2, "all"), (3, "all"), (4, "iid"), (5, "iid"), (4, "circular"), (2, "best_worst")]
)
def test_soft_labels_make_the_mirror_descent_step(algorithm, count, selection, tmp_path):
    """Six rounds of exact fits are six steps of the paper, for every K, all pairs or disjoint ones, to 1e-6."""
    game = ExactGame(algorithm, tmp_path, count, pair_selection=selection, **options(algorithm))
    check_rounds(game, closed_forms(algorithm, ROUNDS))


@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_argmax_labels_make_the_step_in_the_game_of_majorities(algorithm, tmp_path):
    """With labels 1[P > ½] the same loss solves the game whose preferences are those labels, not P."""
    game = ExactGame(algorithm, tmp_path, preference_label="argmax", **options(algorithm))
    check_rounds(game, closed_forms(algorithm, ROUNDS, MAJORITY_GAME))
    others = list(closed_forms(algorithm, ROUNDS))
    assert (game.policy - others[-1]).abs().max() > 0.02


@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_sampled_labels_make_the_mirror_descent_step_in_expectation(algorithm, tmp_path, monkeypatch):
    """Each pair is there twice, with the label 1 weighted P and the label 0 weighted 1 - P: no sampling noise."""
    asked = []

    def both_outcomes(probability, generator=None):
        asked.append(probability)
        half = len(probability) // 2
        return torch.cat([torch.ones_like(probability[:half]), torch.zeros_like(probability[half:])])

    monkeypatch.setattr(torch, "bernoulli", both_outcomes)
    game = ExactGame(algorithm, tmp_path, repeats=2, preference_label="sampled", **options(algorithm))
    wins = GAME[game.draws[:, 0], game.draws[:, 1]]
    chance = torch.cat([wins[:9], 1 - wins[9:]])
    check_rounds(game, closed_forms(algorithm, ROUNDS), chance=lambda game: chance)
    assert len(asked) == ROUNDS  # once a round: ONPO's second fit has the labels of the first
    for probability in asked:
        torch.testing.assert_close(probability[:, 0].double(), wins)


def test_the_opponent_is_the_policy_that_the_pairs_come_from(tmp_path):
    """Pairs from ν around the anchor π: the step is π exp(η P(· ≻ ν)), whatever the policy itself is."""
    sampler = torch.tensor([0.6, 0.1, 0.3], dtype=torch.float64)
    game = ExactGame("ipo", tmp_path, **options("ipo"))
    game.play_round(sampler=sampler)
    torch.testing.assert_close(game.policy, mirror_step(START.log(), STEP, sampler), rtol=0, atol=1e-6)
    assert (game.policy - mirror_step(START.log(), STEP, START)).abs().max() > 0.01


def test_comal_that_never_moves_its_reference_is_inpo(tmp_path):
    """`reference_rounds` beyond the run: π ∝ ref^ρ π_t^{1-ρ} exp(η r_t) with the start as reference throughout."""
    game = ExactGame("comal", tmp_path, **options("comal") | {"reference_rounds": 100})
    check_rounds(game, closed_forms("comal", ROUNDS, reference_rounds=100))
    *_, moved = closed_forms("comal", ROUNDS)
    assert (game.policy - moved).abs().max() > 0.005


def test_onpo_in_one_fit_is_onpo_in_two(tmp_path):
    """60 rounds with the whole history in the anchor: the main policies agree to 1e-10, and they move all the time."""
    one = ExactGame("onpo-one", tmp_path, in_fp64=True, step_size=1.0, anchor_history=100)
    two = ExactGame("onpo-two", tmp_path, in_fp64=True, step_size=1.0)
    for _ in range(60):
        before = one.policy
        one.play_round()
        two.play_round()
        torch.testing.assert_close(one.policy, two.policy, rtol=0, atol=1e-10)
        assert (one.policy - before).abs().max() > 1e-3


@pytest.mark.parametrize("history", [2, 3, 5, 100])
def test_onpo_anchor_is_the_recursion_truncated(history, tmp_path):
    """
    Unrolling log π'_{t+1} = ½ log π'_t + ½ log π_{t+1} gives weights ½, ¼, ⅛ ... on π_t, π_{t-1} ..., and what is
    left on the oldest policy that is kept.
    """
    trainer = make_trainer("onpo-one", tmp_path, anchor_history=history)
    recursion = [1.0]  # weights of log π'_t on log π_t, log π_{t-1} ... log π_1
    for t in range(1, 12):
        trainer.past = trainer.args.past(t - 1)
        weights = trainer.fit.centre
        kept = min(t, history)
        assert list(weights) == [Policy(t - 1 - age) for age in range(kept)]
        assert list(weights.values()) == [*recursion[: kept - 1], sum(recursion[kept - 1 :])]
        assert math.fsum(weights.values()) == 1.0
        recursion = [0.5, *(0.5 * w for w in recursion)]


def test_onpo_anchor_is_the_auxiliary_policy_at_every_round(tmp_path):
    """The anchor over frozen policies equals π' of the recursion kept in logs, after rounds that moved the policy."""
    game = ExactGame("onpo-one", tmp_path, in_fp64=True, step_size=1.0, anchor_history=100)
    auxiliary = START.log()
    for _ in range(20):
        game.play_round()
        batch = game.trainer.batches[0]
        anchor = {int(label): logp for label, logp in zip(batch.labels[:, 1], batch.centre_logps[:, 0], strict=True)}
        anchor = torch.stack([anchor[label] for label in sorted(anchor)])
        torch.testing.assert_close(anchor.log_softmax(-1), auxiliary.log_softmax(-1), rtol=0, atol=1e-10)
        auxiliary = 0.5 * auxiliary + 0.5 * game.policy.log()


@pytest.mark.parametrize(
    "selection, count, pairs",
    [("iid", 2, [(0, 1)]), ("iid", 5, [(0, 1), (2, 3)]), ("all", 3, [(0, 1), (0, 2), (1, 2)])],
)
def test_pairs_of_a_prompt(selection, count, pairs, tmp_path):
    """`"iid"` is floor(K/2) pairs that share no completion, `"all"` is K(K-1)/2."""
    game = ExactGame("ipo", tmp_path, count, pair_selection=selection)
    game.fit()
    assert game.trainer.batches[0].pairs.tolist() == [[list(pair) for pair in pairs]] * 3**count


def test_best_worst_trains_one_pair_a_prompt_with_its_soft_preference(tmp_path):
    """Draw (a, b, c) has rates (.1 + .8)/2, (.9 + .1)/2, (.2 + .9)/2 = .45, .5, .55: c against a, P = .2."""
    game = ExactGame("ipo", tmp_path, 3, pair_selection="best_worst")
    game.fit()
    batch = game.trainer.batches[0]
    row = game.draws.tolist().index([0, 1, 2])
    assert batch.pairs.shape == (27, 1, 2) and batch.pairs[row].tolist() == [[2, 0]]
    assert batch.preference[row].item() == pytest.approx(0.2)
