# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Matrix games against sums written out by hand."""

import itertools
import re

import numpy as np
import pytest

from trl_nash.games.matrix import MatrixGame, check_positive, default_names, kl_divergence


CYCLE = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]
POLICY = [0.2, 0.5, 0.3]
REFERENCE = [0.6, 0.1, 0.3]


@pytest.fixture
def game():
    return MatrixGame(CYCLE)


def test_win_rates_by_hand(game):
    expected = [0.1 + 0.05 + 0.24, 0.18 + 0.25 + 0.03, 0.04 + 0.45 + 0.15]
    np.testing.assert_allclose(game.win_rates(POLICY), expected, atol=1e-15)
    assert game.win_rate(REFERENCE, POLICY) == pytest.approx(np.dot(REFERENCE, expected), abs=1e-15)
    assert game.win_rate(POLICY, POLICY) == pytest.approx(0.5, abs=1e-15)
    assert game.win_rate(POLICY, REFERENCE) + game.win_rate(REFERENCE, POLICY) == pytest.approx(1, abs=1e-15)


def test_best_response_and_gap(game):
    """c wins .64 of the time against (.2, .5, .3): the gap is twice what that has over ½."""
    assert game.best_response(POLICY).tolist() == [0, 0, 1]
    assert game.duality_gap(POLICY) == pytest.approx(0.28, abs=1e-15)
    assert game.duality_gap([4 / 11, 3 / 11, 4 / 11]) == pytest.approx(0, abs=1e-15)
    assert MatrixGame(np.full((3, 3), 0.5)).best_response(POLICY).tolist() == [1, 0, 0]  # the first of equals


@pytest.mark.parametrize("beta", [0.05, 0.3, 5.0])
def test_regularized_best_response_is_best(game, beta):
    """Its payoff `P(π'≻π) - τ KL(π'‖ref)` is τ log E_ref exp(P/τ), and no policy on a grid has more."""
    win_rates = game.win_rates(POLICY)

    def payoff(policy):
        return np.dot(policy, win_rates) - beta * kl_divergence(policy, REFERENCE)

    best = game.regularized_best_response(POLICY, REFERENCE, beta)
    value = beta * np.log(np.dot(REFERENCE, np.exp(win_rates / beta)))
    assert payoff(best) == pytest.approx(value, abs=1e-13)
    grid = [np.array(c) / 40 for c in itertools.product(range(41), repeat=3) if sum(c) == 40]
    assert max(map(payoff, grid)) <= value
    expected = 2 * (value - payoff(POLICY))
    assert game.regularized_duality_gap(POLICY, REFERENCE, beta) == pytest.approx(expected, abs=1e-13)


def test_regularized_with_answers_that_the_reference_never_gives(game):
    assert game.regularized_best_response(POLICY, [0.5, 0.5, 0], 0.1)[2] == 0
    assert game.regularized_duality_gap(POLICY, [0.5, 0.5, 0], 0.1) == np.inf
    assert np.isfinite(game.regularized_duality_gap([0.5, 0.5, 0], [0.5, 0.5, 0], 1e-3))


def test_rounded_input_becomes_exact():
    game = MatrixGame([[0.5, 0.3333333], [0.6666666, 0.5]])
    assert (game.preferences + game.preferences.T == 1).all()
    assert (game.advantage == -game.advantage.T).all()
    assert game.policy([0.3333333, 0.6666666]).sum() == pytest.approx(1, abs=1e-16)


def test_game_is_read_only_and_a_copy():
    matrix = np.array(CYCLE)
    game = MatrixGame(matrix)
    matrix[0, 1] = 0.7
    assert game.preferences[0, 1] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="read-only"):
        game.preferences[0, 1] = 0.7


def test_names_length_and_repr(game):
    assert len(game) == 3 and game.actions == ("a", "b", "c")
    assert MatrixGame(CYCLE, ["x", "y", "z"]).actions == ("x", "y", "z")
    again = eval(repr(game))
    np.testing.assert_array_equal(again.preferences, game.preferences)
    assert default_names(27)[25:] == ("a26", "a27") and default_names(26)[-1] == "z"


@pytest.mark.parametrize(
    "matrix, message",
    [
        ([[0.5, 0.1, 0.2], [0.9, 0.5, 0.3]], "square matrix P(row ≻ column), got shape (2, 3)"),
        ([0.5, 0.5], "got shape (2,)"),
        ([], "got shape (0,)"),
        ([[0.5, 0.1], [0.9]], "square matrix of numbers"),
        ([["x", 0.1], [0.9, 0.5]], "square matrix of numbers"),
        (None, "got shape ()"),
        ([[0.5]], "at least two answers"),
        ([[0.5, np.nan], [0.5, 0.5]], "P[0, 1] is nan: every preference must be a number"),
        ([[0.5, 0.5], [np.inf, 0.5]], "P[1, 0] is inf"),
        ([[0.5, 1.2], [-0.2, 0.5]], "P[0, 1] = 1.2 is no probability"),
        ([[0.5, 0.3], [0.6, 0.5]], "P[0, 1] + P[1, 0] = 0.9 must be 1"),
        ([[0.6, 0.3], [0.7, 0.5]], "P[0, 0] = 0.6 must be 0.5: an answer ties with itself"),
        ([[0.0, 0.3], [0.7, 0.0]], "P[0, 0] = 0 must be 0.5"),
    ],
)
def test_bad_matrices(matrix, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MatrixGame(matrix)


@pytest.mark.parametrize("actions", [["a", "b"], ["a", "b", "b"], []])
def test_bad_names(actions):
    with pytest.raises(ValueError, match="`actions` must name the 3 answers, each once"):
        MatrixGame(CYCLE, actions)


@pytest.mark.parametrize(
    "policy, message",
    [
        ([0.5, 0.5], "has 3 probabilities, got shape (2,)"),
        (0.5, "got shape ()"),
        (["x", 0, 1], "is a list of 3 probabilities"),
        ([0.5, 0.6, 0.2], "add up to 1"),
        ([1.5, -0.5, 0], "add up to 1"),
        ([np.nan, 0.5, 0.5], "add up to 1"),
        ([np.inf, 0, 0], "add up to 1"),
    ],
)
def test_bad_policies(game, policy, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        game.duality_gap(policy)


@pytest.mark.parametrize("beta", [0, -1, np.nan, np.inf])
def test_bad_beta(game, beta):
    with pytest.raises(ValueError, match="`beta` must be a positive number"):
        game.regularized_best_response(POLICY, REFERENCE, beta)
    with pytest.raises(ValueError, match="`beta` must be a positive number"):
        game.regularized_duality_gap(POLICY, REFERENCE, beta)


def test_kl_divergence_and_check_positive():
    assert kl_divergence([0.5, 0.5], [0.25, 0.75]) == pytest.approx(0.5 * np.log(2) + 0.5 * np.log(2 / 3))
    assert kl_divergence([0, 1], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert kl_divergence([0.5, 0.5], [0, 1]) == np.inf
    check_positive("x", 1e-300)
