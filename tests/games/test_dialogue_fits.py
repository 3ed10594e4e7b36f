# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What fits to dialogues do: the exact step, the regression of a trainer, the step in each state. Where they agree."""

import inspect

import numpy as np
import pytest
from scipy.optimize import minimize

from trl_nash.algorithms.table import METHODS
from trl_nash.games import (
    DIALOGUES,
    DialogueGame,
    SampledPairs,
    contraction,
    dialogue_pairs,
    nash_equilibrium,
    regularized_equilibrium,
    state_pairs,
)
from trl_nash.games.dialogues.named import default_policy
from trl_nash.games.solvers import SOLVERS, comal, exact_pairs, inpo, mirror_descent, nash_md, onpo
from trl_nash.games.stability import rotation_rates


CALM, MOODY = DIALOGUES["two-turns"](), DIALOGUES["moody-user"]()
GAMES = {"two turns": CALM, "random user": MOODY}
EXECUTORS = {"exact": exact_pairs, "regression": dialogue_pairs, "in each state": state_pairs}
SETTINGS = {"step_size": 2.0, "beta": 0.1, "reference_rounds": 10}


def settings(name: str) -> dict:
    return {key: SETTINGS[key] for key in SETTINGS if key in inspect.signature(SOLVERS[name]).parameters}


def random_logps(game: DialogueGame, seed: int) -> np.ndarray:
    return game.normalized(np.random.default_rng(seed).normal(size=len(game)))


# ---- The regression ----


@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_regression_minimises_the_loss_on_pairs(game):
    """Against a general minimiser, which is given the sum over all pairs of dialogues and knows no closed form."""
    opponent, centre, step = random_logps(game, 1), random_logps(game, 2), 2.5
    chance = game.distribution(np.exp(opponent))
    weight = np.outer(chance, chance)

    def loss(logits):
        h = game.passes @ (game.normalized(logits) - centre)
        return (weight * (h[:, None] - h - step * game.advantage) ** 2).sum()

    found = minimize(loss, centre, jac="3-point", method="BFGS", options={"gtol": 1e-9, "maxiter": 2000}).x
    fitted = dialogue_pairs(game)(opponent)(centre, step)
    assert loss(fitted) <= loss(found) + 1e-12
    np.testing.assert_allclose(fitted, game.normalized(found), atol=1e-5)


def test_many_sampled_pairs_are_the_regression():
    opponent, centre = np.log(default_policy(MOODY)), random_logps(MOODY, 2)
    sampled = SampledPairs(MOODY, pairs=2_000_000, seed=0)(opponent)(centre, 2.0)
    np.testing.assert_allclose(sampled, dialogue_pairs(MOODY)(opponent)(centre, 2.0), atol=0.01)
    assert np.abs(sampled - exact_pairs(MOODY)(opponent)(centre, 2.0)).max() > 0.1  # which is not what pairs can tell


@pytest.mark.parametrize("seed", range(3))
def test_regression_is_the_exact_step_with_a_deterministic_user(seed):
    """Whatever the centre and the policy that pairs come from, and it is that of dialogues as answers."""
    opponent, centre = random_logps(CALM, seed), random_logps(CALM, seed + 10)
    exact, fitted = (pairs(CALM)(opponent)(centre, 3.0) for pairs in (exact_pairs, dialogue_pairs))
    np.testing.assert_allclose(fitted, exact, atol=1e-10)
    gains = CALM.advantage @ CALM.distribution(np.exp(opponent))
    answers = CALM.distribution(np.exp(centre)) * np.exp(3.0 * gains)
    np.testing.assert_allclose(CALM.distribution(np.exp(exact)), answers / answers.sum(), atol=1e-14)


def test_regression_with_a_random_user_is_near_the_exact_step():
    """
    O(η²) off around the policy that pairs come from, O(η) around another. Its error is the luck that no policy
    explains.
    """
    around, elsewhere = np.log(default_policy(MOODY)), np.log(MOODY.uniform)

    def off(centre, step):
        exact, fitted = (pairs(MOODY)(around)(centre, step) for pairs in (exact_pairs, dialogue_pairs))
        return np.abs(exact - fitted).max()

    assert off(around, 1.0) == pytest.approx(4.2e-3, abs=1e-4) and off(around, 4.0) == pytest.approx(0.10, abs=5e-3)
    assert off(around, 0.25) / off(around, 0.125) == pytest.approx(4, abs=0.1)
    assert off(elsewhere, 1.0) == pytest.approx(0.060, abs=1e-3)
    assert off(elsewhere, 0.25) / off(elsewhere, 0.125) == pytest.approx(2, abs=0.05)


def test_the_gradient_of_the_regression_is_exact_where_the_pairs_come_from():
    """With any user and any centre: only steps on pairs of an older policy see the user's luck."""
    policy, centre, step = random_logps(MOODY, 1), random_logps(MOODY, 2), 3.0
    chance = MOODY.distribution(np.exp(policy))

    def objective(logits):
        policy = np.exp(MOODY.normalized(logits))
        kl = MOODY.kl_divergences(policy, np.exp(centre)[None])[0]
        return step * MOODY.distribution(policy) @ (MOODY.advantage @ chance) - kl

    h = MOODY.passes @ (policy - centre)
    excess = h - step * MOODY.advantage @ chance
    gradient = MOODY.scores(np.exp(policy)).T @ (chance * (excess - chance @ excess))
    eps = 1e-6 * np.eye(len(MOODY))
    slopes = [(objective(policy + e) - objective(policy - e)) / 2e-6 for e in eps]
    np.testing.assert_allclose(gradient, -np.array(slopes), atol=1e-8)


def test_too_long_a_step_leaves_the_equilibrium():
    """From about one over the bad luck of a state on, .2 times .6 after the reply y, and exact steps do not."""
    nash = np.log(nash_equilibrium(MOODY))
    near = MOODY.normalized(nash + 1e-4 * np.random.default_rng(0).normal(size=len(MOODY)))
    assert np.abs(dialogue_pairs(MOODY)(near)(near, 7.0) - nash).max() < 1e-3
    assert np.abs(dialogue_pairs(MOODY)(near)(near, 10.0) - nash).max() > 0.5
    assert np.abs(exact_pairs(MOODY)(near)(near, 10.0) - nash).max() < 1e-3


# ---- The step in each state ----


def test_the_step_in_each_state_is_exact_at_the_last_turn():
    """Before it, it is O(η²) off with any user."""
    around = np.log(default_policy(CALM))

    def off(step):
        exact, stated = (pairs(CALM)(around)(around, step) for pairs in (exact_pairs, state_pairs))
        np.testing.assert_allclose(stated[3:], exact[3:], atol=1e-13)
        return np.abs(exact - stated)[:3].max()

    assert off(1.0) == pytest.approx(3.4e-4, abs=1e-5) and off(0.5) / off(0.25) == pytest.approx(4, abs=0.1)


def test_values_of_answers_are_those_of_rollouts():
    """Q by enumeration: the mean gain of the dialogues that contain an answer."""
    policy = np.exp(random_logps(MOODY, 1))
    chance, gains = MOODY.distribution(policy), MOODY.gains(policy)
    np.testing.assert_allclose(MOODY.answer_gains(policy), (chance * gains) @ MOODY.passes / (chance @ MOODY.passes))


# ---- Methods ----


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_runs_and_knows_its_equilibrium(name, executor):
    """Their definitions, as they are: started at a Nash policy that is the reference, too, they stay."""
    pairs = EXECUTORS[executor](MOODY)
    nash = nash_equilibrium(MOODY)
    history = SOLVERS[name](MOODY, start=nash, rounds=4, pairs=pairs, **settings(name))
    np.testing.assert_allclose(history.policies, np.tile(nash, (5, 1)), atol=1e-10)
    moved = SOLVERS[name](MOODY, start=default_policy(MOODY), rounds=4, pairs=pairs, **settings(name))
    assert np.ptp(moved.policies, axis=0).max() > 0.01
    np.testing.assert_allclose([MOODY.policy(policy) for policy in moved.policies], moved.policies, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("nash-md", "nash-ema")])
def test_methods_on_dialogues_are_those_on_answers(name):
    """With a deterministic user, round by round. (A mixture as an opponent is one in each state, another policy.)"""
    start = default_policy(CALM)
    dialogues = SOLVERS[name](CALM, start=start, rounds=30, pairs=dialogue_pairs(CALM), **settings(name))
    answers = SOLVERS[name](CALM.whole, start=CALM.distribution(start), rounds=30, **settings(name))
    said = [CALM.distribution(policy) for policy in dialogues.policies]
    np.testing.assert_allclose(said, answers.policies, atol=1e-10)


def test_regularised_methods_rest_at_their_own_equilibrium_by_regression_too():
    """The luck of a random user does not move them; Q without the KL to come does, and pairs from a mixture do."""
    start = default_policy(MOODY)
    own = regularized_equilibrium(MOODY, start, 0.1).policy
    setting = {"start": start, "rounds": 150, "step_size": 2.0, "beta": 0.1}

    def rest(solver, executor):
        run = solver(MOODY, pairs=EXECUTORS[executor](MOODY), **setting)
        assert np.abs(run.policies[-1] - run.policies[-2]).max() < 1e-10
        return run.last

    for executor in ("exact", "regression"):
        np.testing.assert_allclose(rest(inpo, executor), own, atol=1e-10)
    assert 1e-4 < np.abs(rest(inpo, "in each state") - own).max() < 1e-2
    assert 1e-3 < np.abs(rest(nash_md, "regression") - rest(nash_md, "exact")).max() < 3e-2


def test_stability_is_that_of_the_factors():
    """Near the equilibrium the distance grows as the linear map says, in the directions that policies have."""
    nash = nash_equilibrium(MOODY)
    rates = rotation_rates(MOODY, nash)
    assert len(rates) == 7  # of 14 directions: two in each of seven states
    start = MOODY.normalized(np.log(nash) + 1e-8 * np.random.default_rng(0).normal(size=len(MOODY)))
    run = mirror_descent(MOODY, start=np.exp(start), rounds=800, step_size=2.0)
    distance = np.sqrt(run.kl_to(nash))
    factor = contraction("iterative-ipo", step_size=2.0, kappa=rates)
    assert (distance[-1] / distance[-101]) ** (1 / 100) == pytest.approx(factor, abs=1e-4) and factor > 1.01


@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
@pytest.mark.parametrize("kind", ["exact", "regression", "sampled"])
def test_who_converges(game, kind):
    """COMAL and ONPO do, iterative IPO does not, INPO ends at an equilibrium of its own."""
    pairs = SampledPairs(game, pairs=3072, seed=0) if kind == "sampled" else EXECUTORS[kind](game)
    rounds = 150
    common = {"start": default_policy(game), "rounds": rounds, "pairs": pairs}

    def tail(history):
        return history.gaps[-rounds // 5 :]

    assert tail(comal(game, **common, step_size=2.0, beta=1 / 6, reference_rounds=6)).mean() <= 0.05
    assert tail(onpo(game, **common, step_size=2.0)).mean() <= 0.05
    assert tail(mirror_descent(game, **common, step_size=2.0)).mean() > 0.2
    own = regularized_equilibrium(game, common["start"], 0.1).policy
    run = inpo(game, **common, step_size=2.0, beta=0.1)
    assert run.kl_to(own)[-rounds // 5 :].mean() < (0.01 if kind == "sampled" else 1e-6)
    assert game.duality_gap(own) > 0.1


# ---- What breaks it ----


def shared_prefix_pairs(game: DialogueGame):
    """Wrong: pairs of dialogues that part at a random turn, as if an answer were compared in its own state."""

    def pairs(log_opponent):
        policy = np.exp(log_opponent)
        chance = game.distribution(policy)
        gains = np.zeros(len(game))
        for state in range(len(game.answer_before)):
            answers = game.state_of == state
            here = chance * game.passes[:, answers].sum(axis=1)  # dialogues through the state
            mine = game.passes[:, answers] * here[:, None]
            gains[answers] = mine.T @ game.advantage @ here / mine.sum(axis=0) / here.sum()
        return lambda centre, step: game.normalized(centre + step * gains)

    return pairs


def test_a_partner_that_shares_the_prefix_is_biased():
    """
    Two openings; then an answer may be `plain` or `bold`. Bold beats plain .9 of the time after the same opening,
    plain beats bold .7 of the time after another. From the root, half of the partners have opened otherwise: for both
    openings alike, bold has .5 (.4 - .2) = .1 more against an even opponent that is plain, and .1 against one that is
    bold. With a third opening it is .4/3 - 2 (.2)/3 = 0, with a fourth it is -.05, and plain is right. A partner that
    shares the opening never tells: bold has .4 more whatever the number of openings.
    """
    openings, step = 4, 1.0
    first, answer = np.divmod(np.arange(2 * openings), 2)  # answer 1 is bold
    same = first[:, None] == first
    game = DialogueGame(
        0.5 + np.where(same, 0.4, -0.2) * (answer[:, None] - answer), ["abcd"[:openings], ["plain", "bold"]]
    )
    start = np.log(game.uniform)
    root, shared = (pairs(game)(start)(start, step) for pairs in (state_pairs, shared_prefix_pairs))
    bold = {name: fit[5::2] - fit[4::2] for name, fit in (("root", root), ("shared", shared))}
    np.testing.assert_allclose(bold["root"], 0.25 * 0.4 - 0.75 * 0.2)  # -.05: fewer of them
    np.testing.assert_allclose(bold["shared"], 0.4)  # eight times as far, and the wrong way
    regression = dialogue_pairs(game)(start)(start, step)
    np.testing.assert_allclose(regression[5::2] - regression[4::2], bold["root"])
    # Trained to the end: the partner from the root finds the equilibrium, the other the policy that loses most to it.
    run = {
        pairs: comal(game, start=game.uniform, rounds=600, step_size=2.0, beta=1 / 6, reference_rounds=6,
        pairs=pairs(game)) for pairs in (dialogue_pairs, shared_prefix_pairs)
    }  # fmt: skip
    assert run[dialogue_pairs].gaps[-1] < 1e-3
    assert run[shared_prefix_pairs].gaps[-1] == pytest.approx(2 * 0.05, abs=1e-3)


def test_a_partner_that_shares_the_prefix_misses_the_equilibrium_of_two_turns():
    setting = {"start": default_policy(CALM), "rounds": 600, "step_size": 2.0, "beta": 1 / 6, "reference_rounds": 6}
    assert comal(CALM, **setting).gaps[-1] < 0.01
    assert comal(CALM, **setting, pairs=shared_prefix_pairs(CALM)).gaps[-1] > 0.1


@pytest.mark.parametrize("name", ["iterative-dpo", "sppo", "grpo"])
def test_other_losses_are_for_one_turn(name):
    with pytest.raises(ValueError, match="is played on games of one turn"):
        SOLVERS[name](CALM, start=default_policy(CALM), rounds=2, step_size=1.0)
