# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Games of dialogues against their normal form, in which every plan for all that a user may say is one answer."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linprog

from trl_nash.games import DIALOGUES, DialogueGame, MatrixGame, load_game, nash_equilibrium, regularized_equilibrium
from trl_nash.games.dialogues.equilibria import sequence_form_equilibrium
from trl_nash.games.dialogues.named import dialogue_cycle, load_any_game
from trl_nash.games.history import History


RANDOM_USER = [[0.35, 0.65]]
SHAPES = {
    "two turns": ([2, 3], [1], None),
    "two turns, random user": ([2, 2], [2], RANDOM_USER),
    "a user who listens": ([2, 2], [2], [[[0.2, 0.8], [0.9, 0.1]]]),
    "three turns": ([2, 2, 2], [1, 1], None),
    "three turns, random user": ([2, 2, 2], [1, 2], [[1.0], [0.3, 0.7]]),
}


def random_dialogues(answers, replies, user, seed=0) -> DialogueGame:
    size = int(np.prod(answers) * np.prod(replies))
    upper = np.triu(np.random.default_rng(seed).uniform(-0.5, 0.5, (size, size)), 1)
    names = [[word + str(i) for i in range(n)] for word, counts in (("a", answers), ("u", replies)) for n in counts]
    return DialogueGame(0.5 + upper - upper.T, names[: len(answers)], names[len(answers) :], user)


def random_policy(game: DialogueGame, seed: int = 0) -> np.ndarray:
    return np.exp(game.normalized(np.random.default_rng(seed).normal(size=len(game))))


def plans(game: DialogueGame) -> np.ndarray:
    """Every pure strategy as a policy, those that talk alike once, shape (plans, S)."""
    states = np.bincount(game.state_of)
    choices = itertools.product(*map(range, states))
    pure = [np.concatenate([np.eye(n)[c] for n, c in zip(states, choice, strict=True)]) for choice in choices]
    kept = np.unique([game.plan(policy) for policy in pure], axis=0, return_index=True)[1]
    return np.array(pure)[kept]


@pytest.fixture(params=SHAPES, scope="module")
def game(request) -> DialogueGame:
    return random_dialogues(*SHAPES[request.param])


def test_what_is_said_adds_up(game):
    policy = random_policy(game)
    assert game.distribution(policy).sum() == pytest.approx(1)
    last = game.reach(policy)[-len(game.dialogues) :] * policy[-len(game.dialogues) :]
    np.testing.assert_allclose(game.distribution(policy), last, atol=1e-15)
    np.testing.assert_allclose(game.behaviour(game.plan(policy)), policy, atol=1e-15)
    # The probability of a dialogue by its words, one after the other.
    for number, choices in enumerate(np.ndindex(*game.shape)):
        probability = 1.0
        for place in range(len(choices)):
            table = game.blocks(policy)[place // 2] if place % 2 == 0 else game.user[place // 2]
            probability *= table[choices[: place + 1]]
        assert game.distribution(policy)[number] == pytest.approx(probability)


def test_equilibrium_and_gap_against_the_normal_form(game):
    """A matrix game among all plans, solved by its own linear program, has the dialogues of the sequence form."""
    pure = plans(game)
    said = np.array([game.distribution(policy) for policy in pure])
    matrix = said @ game.advantage @ said.T
    size = len(matrix)
    mixed = linprog(
        np.eye(size + 1)[size],
        A_ub=np.hstack([matrix, -np.ones((size, 1))]),
        b_ub=np.zeros(size),
        A_eq=np.append(np.ones(size), 0)[None],
        b_eq=[1],
        bounds=[(0, None)] * size + [(None, None)],
    )
    assert abs(mixed.fun) < 1e-12
    policy = sequence_form_equilibrium(game)
    np.testing.assert_array_equal(nash_equilibrium(game), policy)
    np.testing.assert_allclose(game.distribution(policy), mixed.x[:size] @ said, atol=1e-9)
    assert game.duality_gap(policy) < 1e-12
    other = random_policy(game)
    best = (said @ game.gains(other)).max()
    assert game.duality_gap(other) == pytest.approx(2 * best, abs=1e-14)
    assert game.win_rate(game.best_response(other), other) == pytest.approx(0.5 + best)
    assert game.duality_gaps(np.array([policy, other])) == pytest.approx([0, 2 * best], abs=1e-12)


def test_averages_are_those_of_dialogues(game):
    policies = np.array([random_policy(game, seed) for seed in range(3)])
    history = History(game, policies)
    dialogues = np.array([game.distribution(policy) for policy in policies])
    for count in (1, 2, 3):
        average = game.distribution(history.averages[count - 1])
        np.testing.assert_allclose(average, dialogues[:count].mean(axis=0), atol=1e-15)


def test_kl_is_that_of_dialogues(game):
    policies = np.array([random_policy(game, seed) for seed in range(2)])
    first, second = map(game.distribution, policies)
    assert History(game, policies).kl_to(policies[0]) == pytest.approx([0, (first * np.log(first / second)).sum()])


def test_regularized_equilibrium_is_its_best_response(game):
    reference = random_policy(game)
    policy, residual = regularized_equilibrium(game, reference, 0.2)
    assert residual < 1e-12
    np.testing.assert_allclose(game.regularized_best_response(policy, reference, 0.2), policy, atol=1e-12)
    best = game.regularized_best_response(reference, reference, 0.2)

    def value(policy):
        kl = game.kl_divergences(policy, np.array([reference]))[0]
        return game.win_rate(policy, reference) - 0.2 * kl

    assert all(value(random_policy(game, seed)) < value(best) for seed in range(1, 20))
    near = [np.exp(game.normalized(np.log(best) + 0.01 * np.log(random_policy(game, seed)))) for seed in range(20)]
    assert all(value(policy) < value(best) for policy in near)


def test_with_a_deterministic_user_dialogues_are_answers():
    game = random_dialogues(*SHAPES["two turns"])
    np.testing.assert_allclose(game.distribution(nash_equilibrium(game)), nash_equilibrium(game.whole), atol=1e-12)
    reference = random_policy(game)
    dialogues = regularized_equilibrium(game, reference, 0.1).policy
    answers = regularized_equilibrium(game.whole, game.distribution(reference), 0.1).policy
    np.testing.assert_allclose(game.distribution(dialogues), answers, atol=1e-11)


@pytest.mark.parametrize("name", DIALOGUES)
def test_named_games(name):
    """Cycles at every turn: the equilibrium gives every answer in every state."""
    game = DIALOGUES[name]()
    policy = nash_equilibrium(game)
    assert game.duality_gap(policy) < 1e-12 and policy.min() > 0.08
    assert game.preferences.min() >= 0 and game.deterministic == (name != "moody-user")
    if name == "two-turns":
        np.testing.assert_allclose(policy[:3], np.array([4, 3, 4]) / 11, atol=1e-12)


def test_games_of_one_turn_and_of_dialogues_are_told_apart():
    with pytest.raises(ValueError, match="'two-turns' is a game of dialogues: `trl-nash simulate` plays it"):
        load_game("two-turns")
    assert load_any_game("two-turns").turns == 2 and len(load_any_game("dice")) == 3


def test_a_listening_user_changes_the_equilibrium():
    """The reply x wins .9 against y, whatever else is said: the opening after which it is likelier is given."""
    lucky = np.array([1, 0, 1, 0])
    game = DialogueGame(0.5 + 0.4 * (lucky[:, None] - lucky), ["ab", "c"], ["xy"], [[[0.9, 0.1], [0.2, 0.8]]])
    np.testing.assert_allclose(nash_equilibrium(game)[:2], [1, 0])
    assert game.duality_gap([0, 1, 1, 1, 1, 1]) == pytest.approx(2 * 0.4 * (0.9 - 0.2))


def test_bad_games_are_refused():
    half = np.full((4, 4), 0.5)
    for match, arguments in {
        "one fewer": (half, ["ab", "ab"], ["x", "x"]),
        r"shape \(4, 4\), as there are 4 dialogues; got \(3, 3\)": (half[:3, :3], ["ab", "ab"]),
        "`user` must have 1 arrays": (half, ["ab", "ab"], ["x"], []),
        r"broadcast to \(2, 1\)": (half, ["ab", "ab"], ["x"], [[1, 1, 1]]),
        r"add up to 1 over its last axis": (half, ["a", "ab"], ["xy"], [[0.5, 0.6]]),
    }.items():
        with pytest.raises(ValueError, match=match):
            DialogueGame(*arguments)
    game = DialogueGame(half, ["ab", "ab"])
    for policy in ([0.5, 0.5], [0.5, 0.5, 0.5, 0.6, 0.5, 0.5], [0.5, 0.5, 1.5, -0.5, 0.5, 0.5]):
        with pytest.raises(ValueError, match="A policy of"):
            game.policy(policy)
    for turns, luck in ((1, 0.0), (2, 0.6)):
        with pytest.raises(ValueError, match="must be"):
            dialogue_cycle(turns, luck=luck)


def test_a_game_of_one_turn_is_its_matrix():
    cycle = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]
    game = DialogueGame(cycle, ["abc"])
    np.testing.assert_allclose(nash_equilibrium(game), nash_equilibrium(MatrixGame(cycle)), atol=1e-12)
    assert game.duality_gap([0.2, 0.5, 0.3]) == pytest.approx(0.28)
