# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from trl_nash.games.matrix import MatrixGame
from trl_nash.games.sampled import SampledPairs


CYCLE = MatrixGame([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
OPPONENT = np.log([0.2, 0.5, 0.3])
ANCHOR = np.log([0.6, 0.3, 0.1])
STEP = 2.0


def exact(game: MatrixGame, log_opponent: np.ndarray = OPPONENT) -> np.ndarray:
    return softmax(ANCHOR + STEP * game.win_rates(np.exp(log_opponent)))


def fitted(game: MatrixGame, log_opponent: np.ndarray = OPPONENT, **settings) -> np.ndarray:
    return np.exp(SampledPairs(game, **settings)(log_opponent)(ANCHOR, STEP))


def random_game(size: int, spread: float, seed: int = 0) -> MatrixGame:
    noise = np.random.default_rng(seed).uniform(-spread, spread, (size, size))
    return MatrixGame(0.5 + (noise - noise.T) / 2)


def slope(game: MatrixGame, **settings) -> tuple[float, float]:
    """How the fitted step compares with the win rates against a uniform opponent: its length, and the correlation."""
    opponent = np.full(len(game), 1 / len(game))
    step = SampledPairs(game, pairs=20_000, **settings)(np.log(opponent))(np.zeros(len(game)), 1.0)
    step, wins = step - step.mean(), game.win_rates(opponent) - 0.5
    return step @ wins / (wins @ wins), np.corrcoef(step, wins)[0, 1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"preference_label": "sampled"},
        {"num_generations": 5},
        {"num_generations": 5, "pair_selection": "iid"},
        {"num_generations": 5, "pair_selection": "circular"},
        {"num_generations": 5, "pair_selection": "random", "pairs_per_prompt": 3},
        {"num_generations": 5, "pair_selection": "active", "pairs_per_prompt": 3},
        {"pair_selection": "best_worst"},  # of two answers: the only pair
    ],
)
def test_many_pairs_give_the_exact_step(settings):
    # The error of a mean over M pairs is about 1 / √M.
    assert np.abs(fitted(CYCLE, pairs=100_000, **settings) - exact(CYCLE)).max() < 0.006


def test_the_error_falls_with_the_root_of_the_pairs():
    def error(pairs: int) -> float:
        misses = [fitted(CYCLE, pairs=pairs, preference_label="sampled", seed=seed) for seed in range(40)]
        return np.abs(np.array(misses) - exact(CYCLE)).mean()

    assert error(400) / error(6400) == pytest.approx(4, rel=0.3)


def test_argmax_labels_solve_the_game_of_majorities():
    game = MatrixGame([[0.5, 0.55, 0.1], [0.45, 0.5, 0.55], [0.9, 0.45, 0.5]])
    majorities = MatrixGame([[0.5, 1.0, 0.0], [0.0, 0.5, 1.0], [1.0, 0.0, 0.5]])
    policy = fitted(game, pairs=100_000, preference_label="argmax")
    assert np.abs(policy - exact(majorities)).max() < 0.006
    assert np.abs(policy - exact(game)).max() > 0.05


def test_a_tie_stays_a_tie_under_argmax():
    game = MatrixGame([[0.5, 0.5], [0.5, 0.5]])
    anchor = np.log([0.7, 0.3])
    fit = SampledPairs(game, pairs=50, preference_label="argmax")(np.log([0.5, 0.5]))
    np.testing.assert_allclose(fit(anchor, 3.0), anchor)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_temperature_steps_against_the_flattened_policy(temperature):
    flattened = log_softmax(OPPONENT / temperature)
    policy = fitted(CYCLE, pairs=100_000, temperature=temperature)
    assert np.abs(policy - exact(CYCLE, flattened)).max() < 0.006
    assert np.abs(exact(CYCLE, flattened) - exact(CYCLE)).max() > 0.015
    first, second, *_ = SampledPairs(CYCLE, pairs=100_000, temperature=temperature).sample(OPPONENT)
    shares = np.bincount(np.concatenate([first, second]), minlength=3) / 200_000
    np.testing.assert_allclose(shares, np.exp(flattened), atol=0.005)


@pytest.mark.parametrize("label", ["soft", "sampled", "argmax"])
@pytest.mark.parametrize("selection", ["all", "iid", "best_worst", "swiss", "active"])
def test_the_fit_is_the_least_squares_solution_on_its_pairs(label, selection):
    game = random_game(7, 0.4)
    opponent = np.log(np.random.default_rng(1).dirichlet(np.ones(7)))
    settings = dict(pairs=300, preference_label=label, pair_selection=selection, num_generations=4, seed=3)
    settings["pairs_per_prompt"] = 3 if selection == "active" else None
    first, second, target, weight = SampledPairs(game, **settings).sample(opponent)
    design, root = np.eye(7)[first] - np.eye(7)[second], np.sqrt(weight)
    expected = np.linalg.lstsq(root[:, None] * design, root * STEP * (target - 0.5), rcond=None)[0]
    anchor = np.log(np.random.default_rng(2).dirichlet(np.ones(7)))
    policy = SampledPairs(game, **settings)(opponent)(anchor, STEP)
    np.testing.assert_allclose(policy, log_softmax(anchor + expected), atol=1e-10)


def test_answers_that_are_in_no_pair_keep_their_anchor():
    game = random_game(4, 0.4)
    sampler = SampledPairs(game, pairs=1)
    sampler.sample = lambda opponent: (np.array([0]), np.array([2]), np.array([0.9]), np.ones(1))
    policy = sampler(np.log(np.full(4, 0.25)))(np.zeros(4), STEP)
    assert policy[0] - policy[2] == pytest.approx(STEP * 0.4)
    assert policy[1] == pytest.approx(policy[3])
    assert policy[1] == pytest.approx((policy[0] + policy[2]) / 2)


def test_one_set_of_pairs_serves_several_fits_and_the_next_round_draws_anew():
    sampler = SampledPairs(CYCLE, pairs=20)
    fit, other = sampler(OPPONENT), sampler(OPPONENT)
    step = fit(np.zeros(3), 1.0) - fit(np.zeros(3), 1.0).mean()
    twice = fit(fit(np.zeros(3), 1.0), 1.0)
    np.testing.assert_allclose(twice - twice.mean(), 2 * step, atol=1e-12)
    assert not np.allclose(fit(ANCHOR, STEP), other(ANCHOR, STEP))


def test_a_seed_repeats_a_run():
    runs = [fitted(CYCLE, pairs=20, preference_label="sampled", seed=seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert not np.allclose(runs[0], runs[2])


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"pairs": 10}, 10),
        ({"pairs": 10, "num_generations": 4}, 12),  # two prompts of six pairs
        ({"pairs": 10, "num_generations": 5, "pair_selection": "iid"}, 10),
        ({"pairs": 10, "num_generations": 8, "pair_selection": "best_worst"}, 10),
    ],
)
def test_a_round_has_the_pairs_that_were_asked_for(settings, count):
    drawn = SampledPairs(CYCLE, **settings).sample(OPPONENT)
    assert [values.shape for values in drawn] == [(count,)] * 4


def test_soft_labels_are_the_game_and_identical_answers_tie():
    first, second, label, _ = SampledPairs(CYCLE, pairs=200, num_generations=3).sample(OPPONENT)
    np.testing.assert_array_equal(label, CYCLE.preferences[first, second])
    assert (label[first == second] == 0.5).all() and (first == second).any()


def test_best_and_worst_of_eight_take_another_step():
    # Weak preferences that no reward explains: about twice the step. All pairs of eight keep it.
    weak = random_game(20, 0.15, seed=1)
    length, _ = slope(weak, num_generations=8)
    assert length == pytest.approx(1, abs=0.1)
    length, _ = slope(weak, num_generations=8, pair_selection="best_worst")
    assert length > 1.6


def test_best_and_worst_of_eight_turn_the_step_where_preferences_cycle():
    def turn(selection: str) -> float:
        fit = SampledPairs(CYCLE, pairs=20_000, num_generations=8, pair_selection=selection)(OPPONENT)
        return np.corrcoef(fit(np.zeros(3), 1.0), CYCLE.win_rates(np.exp(OPPONENT)))[0, 1]

    assert turn("all") > 0.999
    assert turn("best_worst") < 0.8


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pairs": 0}, "`pairs` must be at least 1 a round, got 0"),
        ({"pairs": 5, "num_generations": 1}, "`num_generations` must be at least 2 to make a pair, got 1"),
        (
            {"pairs": 5, "preference_label": "hard"},
            "`preference_label` must be one of soft, sampled, argmax; got 'hard'",
        ),
        ({"pairs": 5, "pair_selection": "best"}, "`pair_selection` must be one of 'all', 'iid', 'random', "),
        ({"pairs": 5, "temperature": 0.0}, "`temperature` must be a positive number, got 0.0"),
    ],
)
def test_bad_settings_are_refused_with_a_sentence(settings, sentence):
    with pytest.raises(ValueError) as error:
        SampledPairs(CYCLE, **settings)
    assert sentence in str(error.value)


def test_torch_is_imported_only_when_it_samples():
    code = "import sys, trl_nash.games.sampled; assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
