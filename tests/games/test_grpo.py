# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""GRPO on win rates: against derivatives, against all groups that there are, and how it turns on a cycle."""

import itertools

import numpy as np
import pytest
from scipy.special import softmax

from trl_nash.algorithms.stability import contraction, largest_stable_step
from trl_nash.games.equilibria import nash_equilibrium
from trl_nash.games.named import bradley_terry, load_game, random_game
from trl_nash.games.settings import check_stability
from trl_nash.games.solvers import grpo
from trl_nash.games.stability import gradient_rotation_rates, rotation_rates
from trl_nash.judges import as_reward_func


CYCLE = load_game("comal-cycle")
START = np.array([0.2, 0.5, 0.3])
NASH = np.array([4, 3, 4]) / 11


def test_a_step_is_the_gradient_of_the_win_rate_against_the_policy():
    step = np.log(grpo(CYCLE, start=START, rounds=1, step_size=0.01).last) - np.log(START)
    h = 1e-6 * np.eye(3)
    win_rates = CYCLE.win_rates(START)
    gradient = [(softmax(np.log(START) + e) - softmax(np.log(START) - e)) @ win_rates / 2e-6 for e in h]
    np.testing.assert_allclose(step - step.mean(), 0.01 * (gradient - np.mean(gradient)), atol=1e-11)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_scaled_steps_are_the_mean_over_all_groups_of_trls_advantages(size):
    """Rewards of `as_reward_func`, their standard deviation as TRL takes it, and `A ∇ log π` answer by answer."""
    names = CYCLE.actions

    def judge(prompts, first, second):
        pairs = zip(first, second, strict=True)
        return [CYCLE.preferences[names.index(a), names.index(b)] for a, b in pairs]

    reward_func = as_reward_func(judge)
    expected = np.zeros(3)
    for group in itertools.product(range(3), repeat=size):
        rewards = np.array(reward_func(["p"] * size, [names[answer] for answer in group]))
        advantages = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
        gradient = advantages @ (np.eye(3)[list(group)] - START) / size
        expected += START[list(group)].prod() * gradient
    policy = grpo(CYCLE, start=START, rounds=1, step_size=0.7, num_generations=size).last
    np.testing.assert_allclose(policy, softmax(np.log(START) + 0.7 * expected), atol=1e-12)


def test_the_settings_are_those_of_trl():
    trl = pytest.importorskip("trl")
    defaults = {field.name: field.default for field in trl.GRPOConfig.__dataclass_fields__.values()}
    assert (defaults["scale_rewards"], defaults["num_generations"], defaults["beta"]) == ("group", 8, 0.0)


# ---- It turns ----


@pytest.mark.parametrize("game", [CYCLE, load_game("weak-edge"), random_game(4, 0)], ids=["cycle", "weak", "four"])
def test_rotation_rates_of_the_gradient(game):
    """The eigenvalues of its derivative by central differences at the equilibrium, among the answers that it gives."""
    nash = nash_equilibrium(game)
    kept = nash > 1e-9
    game = type(game)(game.preferences[np.ix_(kept, kept)])
    nash, size, h = nash[kept], kept.sum(), 1e-6

    def gradient(logits):
        policy = softmax(logits)
        return policy * (game.advantage @ policy)

    at = np.log(nash)
    jacobian = np.stack([(gradient(at + h * e) - gradient(at - h * e)) / (2 * h) for e in np.eye(size)], axis=1)
    eigenvalues = np.linalg.eigvals(jacobian)
    np.testing.assert_allclose(eigenvalues.real, 0, atol=1e-8)
    turning = np.sort(eigenvalues.imag[eigenvalues.imag > 1e-7])[::-1]
    np.testing.assert_allclose(gradient_rotation_rates(game, nash), turning, atol=1e-8)


@pytest.mark.parametrize("step_size", [0.5, 2.0])
def test_it_leaves_the_equilibrium_of_a_cycle_as_mirror_descent_does(step_size):
    (kappa,) = gradient_rotation_rates(CYCLE, NASH)
    factor = contraction("grpo", step_size=step_size, kappa=kappa)
    assert factor == pytest.approx(abs(1 + 1j * step_size * kappa)) and factor > 1
    assert largest_stable_step("grpo", kappa=kappa) == 0
    run = grpo(CYCLE, start=NASH + 1e-5 * np.array([1, -1, 0]), rounds=50, step_size=step_size)
    deviations = np.log(run.policies / NASH)
    distances = np.linalg.norm(deviations - deviations.mean(axis=1, keepdims=True), axis=1)
    np.testing.assert_allclose(distances[1:] / distances[:-1], factor, rtol=1e-4)
    (message,) = check_stability("grpo", CYCLE, step_size=step_size)
    assert message.startswith("No `step_size` converges")


def test_uniform_equilibria_are_turned_more_slowly_by_their_probability():
    third = np.full(3, 1 / 3)
    dice = load_game("dice")
    np.testing.assert_allclose(gradient_rotation_rates(dice, third), rotation_rates(dice, third) / 3)


def test_it_finds_the_best_answer_where_nothing_turns():
    game = bradley_terry([0, 1, 3])
    assert check_stability("grpo", game, step_size=3.0) == []
    for size in (None, 8):
        assert grpo(game, start=START, rounds=400, step_size=3.0, num_generations=size).gaps[-1] < 0.02


# Mean gap of the last fifth of 3000 rounds; the start has .28, and no policy more than .8.
GAPS = {
    None: {0.1: 0.24, 0.3: 0.32, 1.0: 0.60, 3.0: 0.66, 10.0: 0.67},
    8: {0.1: 0.48, 0.3: 0.67, 1.0: 0.77, 3.0: 0.66, 10.0: 0.79},
}


@pytest.mark.parametrize("size", GAPS)
def test_gaps_on_the_cycle_at_every_learning_rate(size):
    for step_size, gap in GAPS[size].items():
        run = grpo(CYCLE, start=START, rounds=3000, step_size=step_size, num_generations=size)
        assert run.gaps[-600:].mean() == pytest.approx(gap, abs=0.01)


def test_slow_steps_have_an_average_that_converges():
    run = grpo(CYCLE, start=START, rounds=3000, step_size=0.1)
    assert run.average_gaps[-1] < 0.04 and run.gaps[-600:].min() > 0.1


def test_scaling_by_the_deviation_of_two_rewards_solves_the_game_of_majorities():
    """Their advantages are ±1/√2 whatever the preference: (1, 1, 1)/3 is at rest, and the Nash policy is not."""
    for start, moves in ((np.full(3, 1 / 3), False), (NASH, True)):
        run = grpo(CYCLE, start=start, rounds=1, step_size=1.0, num_generations=2)
        assert (np.abs(np.log(run.last / start)).max() > 0.02) == moves
    larger = grpo(CYCLE, start=NASH, rounds=1, step_size=1.0, num_generations=8)
    assert np.abs(np.log(larger.last / NASH)).max() > 0.03
