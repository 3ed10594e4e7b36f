# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Equilibria against closed forms, an independent solver (nashpy), and the inequalities that define them."""

import re

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import log_softmax

from trl_nash.games.equilibria import (
    geometric_mixture,
    nash_equilibrium,
    nash_md_fixed_point,
    regularized_equilibrium,
)
from trl_nash.games.matrix import MatrixGame, kl_divergence
from trl_nash.games.named import bradley_terry, load_game, random_game, rock_paper_scissors


def game_of(advantage) -> MatrixGame:
    upper = np.triu(advantage, 1)
    return MatrixGame(0.5 + upper - upper.T)


def tied_game(seed: int) -> MatrixGame:
    """Preferences of ¼, ½ and ¾ only: most such games have many equilibria."""
    generator = np.random.default_rng(seed)
    size = 2 + seed % 9
    return game_of(generator.integers(-1, 2, (size, size)) / 4)


def entropy(policy) -> float:
    return -kl_divergence(policy, np.ones(len(policy)))


# ---- Nash policies ----


def test_comal_cycle():
    np.testing.assert_allclose(nash_equilibrium(load_game("comal-cycle")), np.array([4, 3, 4]) / 11, atol=1e-15)


@pytest.mark.parametrize("edges", [(0.4, 0.4, 0.4), (0.1, 0.3, 0.5), (1e-4, 0.5, 0.2), (1e-5, 1e-5, 0.5)])
def test_weighted_cycle(edges):
    """For a > b > c > a by x, y, z, the weights are (y, z, x)."""
    x, y, z = edges
    expected = np.array([y, z, x]) / sum(edges)
    game = MatrixGame(0.5 + np.array([[0, x, -z], [-x, 0, y], [z, -y, 0]]))
    np.testing.assert_allclose(nash_equilibrium(game), expected, atol=1e-12)


def test_bradley_terry_is_the_best_answer():
    assert nash_equilibrium(bradley_terry([0, 3, 1, 2.9])).tolist() == [0, 1, 0, 0]


def test_duplicated_answer_shares_its_weight():
    """Rock twice: every split of its third is an equilibrium, the even one has the most entropy."""
    rps = rock_paper_scissors().preferences
    twice = [0, 0, 1, 2]
    np.testing.assert_allclose(
        nash_equilibrium(MatrixGame(rps[np.ix_(twice, twice)])), [1 / 6, 1 / 6, 1 / 3, 1 / 3], atol=1e-15
    )


def test_all_ties_are_uniform():
    assert nash_equilibrium(MatrixGame(np.full((5, 5), 0.5))).tolist() == [0.2] * 5


def test_two_tied_winners():
    """a and b tie and beat all others: ½ each."""
    game = game_of([[0, 0, 0.2, 0.3], [0, 0, 0.1, 0.4], [0] * 4, [0] * 4])
    np.testing.assert_allclose(nash_equilibrium(game), [0.5, 0.5, 0, 0], atol=1e-15)


def test_tied_winners_that_c_holds_in_check():
    """a and b tie, c loses .4 against a and beats b by .1: p_b <= 4 p_a allows even shares."""
    game = game_of([[0, 0, 0.4], [0, 0, -0.1], [0, 0, 0]])
    np.testing.assert_allclose(nash_equilibrium(game), [0.5, 0.5, 0], atol=1e-15)


def test_entropy_at_a_binding_constraint():
    """a and b tie, c loses .1 against a and beats b by .4: p_a >= 4 p_b, so (.8, .2) and not even shares."""
    game = game_of([[0, 0, 0.1], [0, 0, -0.4], [0, 0, 0]])
    policy = nash_equilibrium(game)
    np.testing.assert_allclose(policy, [0.8, 0.2, 0], atol=1e-12)
    assert game.duality_gap(policy) <= 1e-12


@pytest.mark.parametrize("size", [3, 4, 5, 8, 13, 30])
def test_random_games(size):
    for seed in range(8):
        game = random_game(size, seed)
        policy = nash_equilibrium(game)
        assert game.duality_gap(policy) <= 1e-12
        assert policy.min() >= 0 and policy.sum() == pytest.approx(1, abs=1e-14)
        # Value and complementarity: what is given wins half of the time.
        np.testing.assert_allclose(game.win_rates(policy)[policy > 0], 0.5, atol=1e-13)
        # It is the only one: any move between two answers opens a gap.
        generator = np.random.default_rng(seed)
        for other in generator.dirichlet(np.ones(size), 20):
            assert game.duality_gap(0.999 * policy + 0.001 * other) > 1e-9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_against_nashpy():
    nashpy = pytest.importorskip("nashpy")
    for size in (3, 4, 5):
        for seed in range(5):
            game = random_game(size, seed)
            found = list(nashpy.Game(game.preferences, game.preferences.T).support_enumeration())
            assert len(found) == 1
            for side in found[0]:
                np.testing.assert_allclose(nash_equilibrium(game), side, atol=1e-12)


@pytest.mark.parametrize("seed", range(90))
def test_maximum_entropy_where_equilibria_are_many(seed):
    """
    Entropy is concave: p has the most among Nash policies q if and only if `q · log p >= p · log p` for all q, whose
    smallest left side is a linear program. Answers outside of p's support are in no Nash policy (log p = -50).
    """
    game = tied_game(seed)
    policy = nash_equilibrium(game)
    assert game.duality_gap(policy) <= 1e-12 and policy.min() >= 0
    log_policy = np.where(policy > 0, np.log(np.maximum(policy, 1e-300)), -50.0)
    smallest = linprog(
        log_policy, A_ub=game.advantage, b_ub=np.zeros(len(game)), A_eq=np.ones((1, len(game))), b_eq=[1]
    )
    assert smallest.status == 0
    assert smallest.fun >= -entropy(policy) - 1e-7


@pytest.mark.parametrize("size", [1e-3, 1e-5])
def test_nearly_tied_games(size):
    for seed in range(30):
        tied = tied_game(seed)
        noise = np.random.default_rng(seed).uniform(-size, size, tied.preferences.shape)
        game = game_of(tied.advantage + noise)
        assert game.duality_gap(nash_equilibrium(game)) <= 1e-12


def test_ties_that_cannot_be_resolved_raise_or_are_right():
    """Differences of 1e-8 are near the solver's tolerance: no wrong policy comes back."""
    refused = 0
    for seed in range(60):
        tied = tied_game(seed)
        noise = np.random.default_rng(seed).uniform(-1e-8, 1e-8, tied.preferences.shape)
        game = game_of(tied.advantage + noise)
        try:
            assert game.duality_gap(nash_equilibrium(game)) <= 1e-12
        except ValueError as error:
            refused += 1
            assert "too small to resolve: round `preferences`" in str(error)
    assert refused < 30


# ---- Regularised equilibria ----


@pytest.mark.parametrize("beta", [1e-4, 1e-3, 0.01, 0.1, 1.0, 100.0])
def test_regularized_equilibrium_is_a_fixed_point(beta):
    """The residual is worked out again in log space; rounding of the logits, of size 1/τ, is what is left."""
    for seed in range(12):
        game = random_game(3 + seed, seed)
        reference = np.random.default_rng(seed).dirichlet(np.ones(len(game)))
        policy, residual = regularized_equilibrium(game, reference, beta)
        assert residual <= 1e-14 * max(1, 10 / beta)
        assert game.regularized_duality_gap(policy, reference, beta) <= 1e-12 * max(1, beta)
        with np.errstate(divide="ignore"):
            log_policy = np.log(policy)
        response = log_softmax(np.log(reference) + game.win_rates(policy) / beta)
        held = policy > 1e-300
        np.testing.assert_allclose(log_policy[held], response[held], atol=1e-13 * max(1, 10 / beta))


def test_regularized_equilibrium_by_iteration():
    """Small damped steps, which need no derivative, arrive at the same policy."""
    game, reference, beta = load_game("comal-cycle"), np.array([0.2, 0.5, 0.3]), 0.1
    log_policy = np.log(reference)
    for _ in range(4000):
        response = np.log(reference) + game.win_rates(np.exp(log_policy)) / beta
        log_policy = log_softmax(0.95 * log_policy + 0.05 * response)
    policy = regularized_equilibrium(game, reference, beta).policy
    np.testing.assert_allclose(policy, np.exp(log_policy), atol=1e-14)
    assert game.duality_gap(policy) == pytest.approx(0.0588, abs=5e-5)  # the published figure of INPO


def test_regularized_limits():
    for seed in range(5):
        game = random_game(5, seed)
        reference = np.random.default_rng(seed).dirichlet(np.ones(5))
        nash = nash_equilibrium(game)
        for beta in (1, 0.1, 1e-2, 1e-3, 1e-4):
            gap = game.duality_gap(regularized_equilibrium(game, reference, beta).policy)
            # Answer y gains at most what it pays for: τ KL(y‖ref) = -τ log ref(y).
            assert gap <= -2 * beta * np.log(reference.min())
        np.testing.assert_allclose(regularized_equilibrium(game, reference, 1e-4).policy, nash, atol=5e-2)
        np.testing.assert_allclose(regularized_equilibrium(game, reference, 1e6).policy, reference, atol=1e-6)


def test_regularized_around_the_nash_policy_stays():
    nash = nash_equilibrium(load_game("comal-cycle"))
    policy = regularized_equilibrium(load_game("comal-cycle"), nash, 0.01).policy
    np.testing.assert_allclose(policy, nash, atol=1e-14)


def test_answers_that_the_reference_never_gives():
    game = random_game(5, 1)
    reference = np.array([0.3, 0, 0.5, 0, 0.2])
    policy = regularized_equilibrium(game, reference, 0.05).policy
    assert policy[[1, 3]].tolist() == [0, 0]
    smaller = MatrixGame(game.preferences[np.ix_([0, 2, 4], [0, 2, 4])])
    np.testing.assert_allclose(
        policy[[0, 2, 4]], regularized_equilibrium(smaller, [0.3, 0.5, 0.2], 0.05).policy, atol=1e-15
    )
    assert regularized_equilibrium(game, [0, 0, 1, 0, 0], 0.05).policy.tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("beta", [0, -0.1, np.nan])
def test_bad_beta(beta):
    game = load_game("comal-cycle")
    with pytest.raises(ValueError, match="`beta` must be a positive number"):
        regularized_equilibrium(game, [0.2, 0.5, 0.3], beta)
    with pytest.raises(ValueError, match="`beta` must be a positive number"):
        nash_md_fixed_point(game, [0.2, 0.5, 0.3], beta, 0.1)


def test_bad_reference():
    with pytest.raises(ValueError, match="add up to 1"):
        regularized_equilibrium(load_game("comal-cycle"), [0.2, 0.5, 0.9], 0.1)


# ---- Nash-MD ----


@pytest.mark.parametrize("coef", [0.0, 0.125, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("beta", [0.01, 0.1, 2.0])
def test_nash_md_fixed_point_identities(coef, beta):
    """π ∝ μ exp(P(·≻mix)/τ), and the mixture is the regularised equilibrium for τ/(1-c)."""
    for seed in range(4):
        game = random_game(4 + seed, seed)
        reference = np.random.default_rng(seed).dirichlet(np.ones(len(game)))
        policy = nash_md_fixed_point(game, reference, beta, coef)
        mix = geometric_mixture(policy, reference, coef)
        np.testing.assert_allclose(policy, game.regularized_best_response(mix, reference, beta), atol=1e-11)
        if coef < 1:
            assert game.regularized_duality_gap(mix, reference, beta / (1 - coef)) == pytest.approx(0, abs=1e-12)


def test_nash_md_with_a_mixture_of_its_own():
    """The mixture as a callable goes through the other solver; an arithmetic one has no closed form."""
    game, reference = random_game(5, 2), np.array([0.1, 0.3, 0.2, 0, 0.4])
    again = nash_md_fixed_point(game, reference, 0.1, 0.3, lambda *args: geometric_mixture(*args))
    np.testing.assert_allclose(again, nash_md_fixed_point(game, reference, 0.1, 0.3), atol=1e-12)

    def arithmetic(policy, reference, coef):
        return (1 - coef) * policy + coef * reference

    policy = nash_md_fixed_point(game, reference, 0.1, 0.3, arithmetic)
    response = game.regularized_best_response(arithmetic(policy, reference, 0.3), reference, 0.1)
    np.testing.assert_allclose(policy, response, atol=1e-11)
    assert policy[3] == 0


@pytest.mark.parametrize("coef", [-0.1, 1.1, np.nan])
def test_bad_mixture_coef(coef):
    with pytest.raises(ValueError, match=re.escape("`mixture_coef` must be between 0 and 1")):
        nash_md_fixed_point(load_game("comal-cycle"), [0.2, 0.5, 0.3], 0.1, coef)


def test_fixed_point_that_does_not_exist():
    """A mixture that jumps has no fixed point to find."""

    def jump(policy, reference, coef):
        return np.eye(3)[policy.argmax()]

    with pytest.raises(ValueError, match="fixed point for `beta` 0.1 was not found"):
        nash_md_fixed_point(load_game("comal-cycle"), [0.2, 0.5, 0.3], 0.1, 0.5, jump)


def test_geometric_mixture_ends():
    first, second = np.array([0.2, 0.8, 0.0]), np.array([0.5, 0.25, 0.25])
    np.testing.assert_allclose(geometric_mixture(first, second, 0.0), first)
    np.testing.assert_allclose(geometric_mixture(first, second, 1.0), second)
    np.testing.assert_allclose(
        geometric_mixture(first, second, 0.5), np.sqrt(first * second) / np.sqrt(first * second).sum()
    )
