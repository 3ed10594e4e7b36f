# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Each solver, round by round, against a numerical minimisation of the loss that its paper writes down."""

import inspect
import itertools

import numpy as np
import pytest
from scipy.optimize import least_squares, minimize
from scipy.special import log_expit, log_softmax, rel_entr, softmax

from trl_nash import algorithms
from trl_nash.games.history import History
from trl_nash.games.matrix import MatrixGame, kl_divergence
from trl_nash.games.solvers import (
    SOLVERS,
    comal,
    egpo,
    exact_pairs,
    grpo,
    inpo,
    iterate,
    iterative_dpo,
    mirror_descent,
    mnpo,
    mpo,
    nash_ema,
    nash_md,
    nash_mirror_prox,
    onpo,
    sppo,
)


CYCLE = MatrixGame([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
START = np.array([0.2, 0.5, 0.3])
NASH = np.array([4, 3, 4]) / 11
# Four answers, no symmetry, a start and a reference that differ.
GAME = MatrixGame([[0.5, 0.15, 0.8, 0.6], [0.85, 0.5, 0.3, 0.45], [0.2, 0.7, 0.5, 0.9], [0.4, 0.55, 0.1, 0.5]])
P = GAME.preferences
BEGIN = np.array([0.15, 0.4, 0.25, 0.2])
REFERENCE = np.array([0.3, 0.1, 0.2, 0.4])
ROUNDS, STEP, BETA = 3, 1.3, 0.4
SETTINGS = {"step_size": 0.5, "beta": 0.1, "reference_rounds": 20}


def settings(name: str, **changes) -> dict:
    """Those of `SETTINGS` that a solver takes."""
    return {key: SETTINGS[key] for key in SETTINGS if key in inspect.signature(SOLVERS[name]).parameters} | changes


# ---- Numerical minimisers, which know the losses and none of the closed forms ----


def fit_pairs(opponent: np.ndarray, margin: float, **anchors: tuple[float, np.ndarray]) -> np.ndarray:
    """The policy with least `E (h(winner, loser) - margin)²`, `h` the difference of log π less that of the anchors."""
    anchor = sum(weight * np.log(policy) for weight, policy in anchors.values())
    weight = np.sqrt(np.outer(opponent, opponent) * P)  # of the pair (i, j) won by i

    def residuals(logits: np.ndarray) -> np.ndarray:
        h = logits - anchor
        return (weight * (h[:, None] - h - margin)).ravel()

    return softmax(least_squares(residuals, np.zeros(4), jac="3-point", xtol=1e-15, ftol=1e-15, gtol=1e-15).x)


def best_reply(opponent: np.ndarray, *costs: tuple[float, np.ndarray]) -> np.ndarray:
    """The policy with most `P(π ≻ opponent) - Σ weight KL(π‖centre)`."""

    def loss(logits: np.ndarray) -> float:
        policy = softmax(logits)
        return sum(weight * rel_entr(policy, centre).sum() for weight, centre in costs) - policy @ P @ opponent

    return softmax(minimize(loss, np.zeros(4), jac="3-point", options={"gtol": 1e-9}).x)


def assert_follows(history: History, update, tolerance: float = 1e-6):
    """Each policy of the run is `update` of those before it."""
    assert history.policies.shape == (ROUNDS + 1, 4)
    np.testing.assert_allclose(history.policies[0], BEGIN, atol=1e-15)
    for t in range(ROUNDS):
        np.testing.assert_allclose(history.policies[t + 1], update(t, history.policies[: t + 1]), atol=tolerance)


# ---- One round after the other ----


def test_exact_pairs_fit_any_anchor_to_any_opponent():
    anchor = np.array([0.3, -1.0, 2.0, 0.0])
    fitted = exact_pairs(GAME)(np.log(REFERENCE))(anchor, STEP)
    truth = fit_pairs(REFERENCE, STEP / 2, anchor=(1.0, np.exp(anchor)))
    np.testing.assert_allclose(np.exp(fitted), truth, atol=1e-9)


def test_mirror_descent():
    """IPO's `(h - 1/(2τ))²` around the latest policy, 1/τ being the step."""
    history = mirror_descent(GAME, start=BEGIN, rounds=ROUNDS, step_size=STEP)
    assert_follows(history, lambda t, past: fit_pairs(past[-1], STEP / 2, latest=(1.0, past[-1])), 1e-9)


def test_iterative_dpo():
    """DPO's logistic loss with β = 1/η."""

    def update(t, past):
        policy = past[-1]

        def loss(logits):
            h = logits - np.log(policy)
            return -np.sum(np.outer(policy, policy) * P * log_expit((h[:, None] - h) / STEP))

        return softmax(minimize(loss, np.log(policy), jac="3-point", options={"gtol": 1e-10}).x)

    assert_follows(iterative_dpo(GAME, start=BEGIN, rounds=ROUNDS, step_size=STEP), update)


@pytest.mark.parametrize("step_size", [STEP, 8.0])
def test_sppo(step_size):
    def update(t, past):
        policy = past[-1]

        def residuals(logits):
            return np.sqrt(policy) * (log_softmax(logits) - np.log(policy) - step_size * (P @ policy - 0.5))

        return softmax(least_squares(residuals, np.log(policy), jac="3-point", xtol=1e-15, ftol=1e-15, gtol=1e-15).x)

    assert_follows(sppo(GAME, start=BEGIN, rounds=ROUNDS, step_size=step_size), update)


def test_inpo():
    """The paper's η is 1/step: `h = Δ log π - τ/η Δ log ref - (1 - τ/η) Δ log π_t`, regressed to `1/(2η)`."""
    eta = 1 / STEP

    def update(t, past):
        return fit_pairs(past[-1], 1 / (2 * eta), ref=(BETA / eta, REFERENCE), latest=(1 - BETA / eta, past[-1]))

    history = inpo(GAME, start=BEGIN, reference=REFERENCE, rounds=ROUNDS, step_size=STEP, beta=BETA)
    assert_follows(history, update, 1e-9)


def test_mnpo():
    """The authors' `(h - 1/(2η))²`, h less a third of the reference and the rest of past policies by their weights."""
    eta, ratio = 1 / STEP, STEP * BETA

    def update(t, past):
        history = [past[-1], past[max(t - 1, 0)], past[max(t - 2, 0)]]
        anchors = {
            str(age): ((1 - ratio) * weight, policy)
            for age, (weight, policy) in enumerate(zip((0.5, 0.3, 0.2), history, strict=True))
        }
        return fit_pairs(past[-1], 1 / (2 * eta), ref=(ratio, REFERENCE), **anchors)

    settings = {"reference": REFERENCE, "step_size": STEP, "beta": BETA, "history_weights": [0.5, 0.3, 0.2]}
    assert_follows(mnpo(GAME, start=BEGIN, rounds=ROUNDS, **settings), update, 1e-9)


@pytest.mark.parametrize("fits", ["one", "two"])
def test_onpo(fits):
    """Algorithm 1: two regressions on the same pairs, π' of the first being the anchor of both."""
    auxiliary = [BEGIN]

    def update(t, past):
        auxiliary.append(fit_pairs(past[-1], STEP / 2, auxiliary=(1.0, auxiliary[-1])))
        return fit_pairs(past[-1], STEP / 2, auxiliary=(1.0, auxiliary[-1]))

    assert_follows(onpo(GAME, start=BEGIN, rounds=ROUNDS, step_size=STEP, fits=fits), update, 1e-9)


def test_truncated_onpo_puts_the_remainder_on_the_oldest_policy():
    def update(t, past):
        if t < 2:
            anchors = [{"a": (1.0, past[0])}, {"a": (0.5, past[-1]), "b": (0.5, past[0])}][t]
        else:
            anchors = {"a": (0.5, past[-1]), "b": (0.5, past[-2])}
        return fit_pairs(past[-1], STEP, **anchors)

    assert_follows(onpo(GAME, start=BEGIN, rounds=ROUNDS, step_size=STEP, anchor_history=2), update, 1e-9)


def test_comal():
    """References move at rounds 0 and 2, and so do a step size and a beta that are lists."""

    def update(t, past):
        step, beta, reference = [(STEP, BETA, past[0]), (2.0, 0.1, past[-1])][t // 2]
        rho = step * beta
        return fit_pairs(past[-1], step / 2, reference=(rho, reference), latest=(1 - rho, past[-1]))

    history = comal(GAME, start=BEGIN, rounds=ROUNDS, step_size=[STEP, 2.0], beta=[BETA, 0.1, 9.0], reference_rounds=2)
    assert_follows(history, update, 1e-9)


@pytest.mark.parametrize("step_size", [None, STEP])
def test_nash_md(step_size):
    """The paper's `argmax η P(π ≻ μ_t) - KL(π‖μ_t)`, μ_t a geometric mixture."""

    def update(t, past):
        step = step_size or 2 / (BETA * (t + 2))
        mixture = softmax(step * BETA * np.log(REFERENCE) + (1 - step * BETA) * np.log(past[-1]))
        return best_reply(mixture, (1 / step, mixture))

    history = nash_md(GAME, start=BEGIN, reference=REFERENCE, rounds=ROUNDS, step_size=step_size, beta=BETA)
    assert_follows(history, update)


def test_nash_ema():
    """INPO against the average: the mean of past logits, with weights .7, .3 · .7 ..."""
    logits = [np.log(BEGIN)]

    def update(t, past):
        if t:
            logits.append(0.3 * logits[-1] + 0.7 * np.log(past[-1]))
        opponent = softmax(logits[-1])
        return best_reply(opponent, (BETA, REFERENCE), (1 / STEP - BETA, past[-1]))

    history = nash_ema(GAME, start=BEGIN, reference=REFERENCE, rounds=ROUNDS, step_size=STEP, beta=BETA, ema_decay=0.3)
    assert_follows(history, update)


def test_egpo():
    def update(t, past):
        costs = (BETA, REFERENCE), (1 / STEP - BETA, past[-1])
        return best_reply(best_reply(past[-1], *costs), *costs)

    assert_follows(egpo(GAME, start=BEGIN, reference=REFERENCE, rounds=ROUNDS, step_size=STEP, beta=BETA), update)


def test_nash_mirror_prox():
    """The proximal steps: the KL to the reference is paid in full, at the new policy."""

    def update(t, past):
        costs = (BETA, REFERENCE), (1 / STEP, past[-1])
        return best_reply(best_reply(past[-1], *costs), *costs)

    history = nash_mirror_prox(GAME, start=BEGIN, reference=REFERENCE, rounds=ROUNDS, step_size=STEP, beta=BETA)
    assert_follows(history, update)


def test_mpo():
    """`argmax P(π ≻ π_t) - τ KL(π‖magnet) - KL(π‖π_t)/η`, the magnet moving at rounds 0 and 2."""

    def update(t, past):
        return best_reply(past[-1], (BETA, past[t // 2 * 2]), (1 / STEP, past[-1]))

    history = mpo(GAME, start=BEGIN, rounds=ROUNDS, step_size=STEP, beta=BETA, reference_rounds=2)
    assert_follows(history, update)


# ---- What the solvers share ----


@pytest.mark.parametrize("name", SOLVERS)
def test_an_equilibrium_is_a_fixed_point(name):
    """With the reference there as well, for the methods of the regularised game."""
    history = SOLVERS[name](CYCLE, start=NASH, rounds=10, **settings(name))
    np.testing.assert_allclose(history.last, NASH, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ("iterative-dpo", "sppo", "grpo")])
def test_pairs_come_through_the_argument(name):
    """Fits that ignore preferences leave a policy that is its own reference where it is."""
    opponents = []

    def pairs(log_opponent):
        opponents.append(np.exp(log_opponent))
        return lambda log_anchor, step_size: log_softmax(log_anchor)

    history = SOLVERS[name](CYCLE, start=START, rounds=2, pairs=pairs, **settings(name))
    np.testing.assert_allclose([*history.policies, *opponents], [START] * (3 + len(opponents)), atol=1e-15)
    assert len(opponents) == (4 if name in ("egpo", "nash-mp") else 2)


def test_two_fits_of_onpo_share_their_pairs():
    """Noise of a round in both fits is noise of twice the step in one: the forms still agree."""

    def pairs(seed):
        generator = np.random.default_rng(seed)

        def draw(log_opponent):
            noise = generator.normal(size=3)
            return lambda log_anchor, step_size: log_softmax(log_anchor + step_size * noise)

        return draw

    one, two = (onpo(CYCLE, start=START, rounds=20, step_size=0.3, fits=f, pairs=pairs(0)) for f in ("one", "two"))
    np.testing.assert_allclose(one.policies, two.policies, atol=1e-12)


def test_rounds_of_onpo_with_a_history_longer_than_the_run_are_the_whole_history():
    whole = onpo(CYCLE, start=START, rounds=12, step_size=1.0)
    np.testing.assert_allclose(
        onpo(CYCLE, start=START, rounds=12, step_size=1.0, anchor_history=13).policies, whole.policies, atol=1e-15
    )


@pytest.mark.parametrize("inner", ["inpo", "nash_md", "egpo", "nash_mirror_prox"])
def test_comal_with_any_inner_solver(inner):
    inner = getattr(algorithms, inner)
    history = comal(CYCLE, start=START, rounds=6000, step_size=0.5, beta=0.1, reference_rounds=100, inner=inner)
    assert history.gaps[-1] < 1e-10


def test_comal_with_regularised_equilibria_as_inner_solutions():
    """The scheme itself: one outer loop is one equilibrium, and KL to the game's own falls each time."""
    settings = {"step_size": 2.0, "beta": 0.1, "reference_rounds": 150, "inner": algorithms.nash_mirror_prox}
    references = comal(CYCLE, start=START, rounds=40 * 150, **settings).policies[::150]
    for reference, equilibrium in zip(references, references[1:], strict=False):
        assert CYCLE.regularized_duality_gap(equilibrium, reference, 0.1) < 1e-12
    assert np.diff(History(CYCLE, references).kl_to(NASH)).max() < 1e-14
    assert CYCLE.duality_gap(references[-1]) < 1e-10


def test_comal_that_never_moves_its_reference_is_inpo():
    run = comal(CYCLE, start=START, rounds=50, step_size=0.5, beta=0.1, reference_rounds=51)
    np.testing.assert_array_equal(run.policies, inpo(CYCLE, start=START, rounds=50, step_size=0.5, beta=0.1).policies)


def test_nash_ema_without_a_memory_is_inpo():
    run = nash_ema(CYCLE, start=START, rounds=50, step_size=0.5, beta=0.1, ema_decay=0.0)
    np.testing.assert_allclose(
        run.policies, inpo(CYCLE, start=START, rounds=50, step_size=0.5, beta=0.1).policies, atol=1e-15
    )


def test_probabilities_that_underflow_come_back():
    """Mirror descent passes policies of 1e-300 on its way round the cycle, and every answer returns."""
    history = mirror_descent(CYCLE, start=START, rounds=600, step_size=60.0)
    assert (history.policies.min(axis=0) < 1e-300).all()
    assert (history.policies[-300:].max(axis=0) > 0.9).all()


def test_many_answers():
    generator = np.random.default_rng(0)
    preferences = np.tril(generator.uniform(0.05, 0.95, size=(30, 30)), -1)
    preferences = preferences + np.triu(1 - preferences.T, 1) + np.eye(30) / 2
    game = MatrixGame(preferences)
    for name in SOLVERS:
        history = SOLVERS[name](game, start=np.full(30, 1 / 30), rounds=60, **settings(name))
        np.testing.assert_allclose(history.policies.sum(axis=1), 1)


# ---- History ----


def test_history_of_a_run():
    history = mirror_descent(CYCLE, start=START, rounds=4, step_size=1.0)
    assert history.policies.shape == (5, 3)
    np.testing.assert_array_equal(history.last, history.policies[4])
    np.testing.assert_allclose(history.gaps, [CYCLE.duality_gap(policy) for policy in history.policies], atol=1e-15)
    np.testing.assert_allclose(history.averages[2], history.policies[:3].mean(axis=0))
    np.testing.assert_allclose(history.average_gaps[3], CYCLE.duality_gap(history.policies[:4].mean(axis=0)))
    np.testing.assert_allclose(history.kl_to(NASH), [kl_divergence(NASH, policy) for policy in history.policies])
    assert history.gaps[0] == pytest.approx(0.28)


def test_kl_to_a_policy_is_infinite_where_an_answer_is_missing_and_0_at_the_policy():
    history = History(CYCLE, np.array([[0.0, 0.5, 0.5], NASH]))
    assert history.kl_to(NASH).tolist() == [np.inf, 0.0]


# ---- Bad input ----


@pytest.mark.parametrize("name", SOLVERS)
def test_bad_settings_are_a_sentence(name):
    solver = SOLVERS[name]
    cases = [({"rounds": 0}, "`rounds` must be at least 1, got 0")]
    cases += [({"step_size": step}, f"`step_size` must be a positive number, got {step}") for step in (0.0, -1.0)]
    cases += [
        ({"start": [0.5, 0.6, 0.4]}, "add up to 1"),
        ({"start": [0.5, 0.5, 0.0]}, "`start` must give every answer, but 'c' has probability 0"),
    ]
    if "reference" in inspect.signature(solver).parameters:
        cases += [({"reference": [0.0, 0.5, 0.5]}, "`reference` must give every answer, but 'a'")]
    if "beta" in settings(name):
        cases += [({"beta": beta}, f"`beta` must be a positive number, got {beta}") for beta in (0.0, -0.1, np.nan)]
    if name in ("inpo", "mnpo", "comal", "nash-md", "nash-ema", "egpo"):
        cases += [({"step_size": 12.5}, r"`step_size` \* `beta` = 1.25 must be at most 1.*lower `step_size` to 10")]
    if "reference_rounds" in settings(name):
        cases += [({"reference_rounds": 0}, "`reference_rounds` must be at least 1, got 0")]
    for case, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            solver(CYCLE, **({"start": START, "rounds": 3} | settings(name) | case))


@pytest.mark.filterwarnings("error")
# At a pure answer GRPO's gradient is 0: there it stays, after however large a step.
@pytest.mark.parametrize("name", [name for name in SOLVERS if "beta" not in settings(name) and name != "grpo"])
def test_steps_that_overflow_are_a_sentence(name):
    with pytest.raises(ValueError, match=r"Round \d+ overflows with `step_size` 1.7e\+308: make it smaller"):
        SOLVERS[name](CYCLE, start=START, rounds=20, step_size=1.7e308)


def test_a_method_of_ones_own():
    """Half way back to the start, against the policy before the latest."""

    def method(past):
        return [algorithms.Fit({past.now: 0.5, past.initial: 0.5}, 2.0, pairs_from={past.before(1): 1.0})]

    policies = [np.log(BEGIN)]
    for policy in itertools.islice(iterate(GAME, method, start=BEGIN), 5):
        opponent = np.exp(policies[-2] if len(policies) > 1 else policies[0])
        expected = log_softmax((policies[-1] + np.log(BEGIN)) / 2 + 2 * (P @ opponent))
        np.testing.assert_allclose(policy, expected, atol=1e-14)
        policies.append(policy)


def test_bad_options_of_single_solvers():
    with pytest.raises(ValueError, match="`fits` must be 'one' or 'two', got 'three'"):
        onpo(CYCLE, start=START, rounds=1, step_size=1.0, fits="three")
    with pytest.raises(ValueError, match="`anchor_history` must be at least 1"):
        onpo(CYCLE, start=START, rounds=1, step_size=1.0, anchor_history=0)
    with pytest.raises(ValueError, match="`anchor_history` is for `fits='one'`"):
        onpo(CYCLE, start=START, rounds=1, step_size=1.0, fits="two", anchor_history=5)
    with pytest.raises(ValueError, match="`ema_decay` must be at least 0 and below 1"):
        nash_ema(CYCLE, start=START, rounds=1, step_size=0.5, beta=0.1, ema_decay=1.0)
    with pytest.raises(ValueError, match="`beta` must be a number or a list of numbers, got an empty list"):
        comal(CYCLE, start=START, rounds=1, step_size=0.5, beta=[], reference_rounds=2)
    for weights in ([], [0.5, 0.6], [1.5, -0.5], 1.0, [np.nan]):
        with pytest.raises(ValueError, match="`history_weights` must be at least 0 and add up to 1"):
            mnpo(CYCLE, start=START, rounds=1, step_size=0.5, beta=0.1, history_weights=weights)
    with pytest.raises(ValueError, match="`num_generations` must be at least 2 to make a group, got 1"):
        grpo(CYCLE, start=START, rounds=1, step_size=0.5, num_generations=1)
    with pytest.raises(
        ValueError, match=r"3.9e\+07 groups of `num_generations` 8 cannot be enumerated: lower it to 4"
    ):
        game = MatrixGame(np.full((30, 30), 0.5))
        grpo(game, start=np.full(30, 1 / 30), rounds=1, step_size=0.5, num_generations=8)
    with pytest.raises(ValueError, match="Round 1 of DPO has no minimum: preferences of 0 or 1"):
        iterative_dpo(MatrixGame([[0.5, 1.0], [0.0, 0.5]]), start=[0.5, 0.5], rounds=1, step_size=1.0)
