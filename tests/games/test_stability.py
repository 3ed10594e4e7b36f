# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Rates of convergence against the differentiated updates of the algorithms, written out here once more."""

import re

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from trl_nash.algorithms.stability import contraction, largest_stable_step, minimum_reference_rounds
from trl_nash.games.equilibria import geometric_mixture, nash_equilibrium, nash_md_fixed_point, regularized_equilibrium
from trl_nash.games.matrix import MatrixGame
from trl_nash.games.named import bradley_terry, load_game, random_game
from trl_nash.games.settings import check_stability
from trl_nash.games.solvers import SOLVERS, onpo
from trl_nash.games.stability import gradient_rotation_rates, own_equilibrium, rotation_rate, rotation_rates


ALGORITHMS = list(SOLVERS)
SPIRALS = ("iterative-ipo", "iterative-dpo", "sppo", "grpo")
REGULARIZED = ("inpo", "mnpo", "nash-md", "nash-ema", "egpo", "nash-mp")
MAGNETS = ("comal", "mpo")


def interior(game: MatrixGame) -> MatrixGame:
    """The game among the answers that its equilibrium gives."""
    kept = nash_equilibrium(game) > 0
    return MatrixGame(game.preferences[np.ix_(kept, kept)])


def big_cycle(size: int) -> MatrixGame:
    """Everybody beats the next (size-1)/2 of a ring, by unlike amounts: (size-1)/2 rotation rates."""
    game = random_game(size, 0)
    for seed in range(5000):
        game = random_game(size, seed)
        if (nash_equilibrium(game) > 0.02).all():
            return game
    raise AssertionError("no such game")


GAMES = {"cycle": load_game("comal-cycle"), "random": big_cycle(5), "random of 4": random_game(4, 0)}


def update(algorithm, game, reference, eta, tau, rounds):
    """A round (COMAL, MPO: an outer loop) on vectors of log-policies, with (K, N) rows where there is a memory."""
    a, rho, c = game.advantage, eta * tau, 1 / (1 + eta * tau)

    def inpo(x, ref):
        return log_softmax(rho * ref + (1 - rho) * x + eta * a @ softmax(x))

    def proximal(x, ref, opponent):
        return log_softmax(c * (rho * ref + x + eta * a @ softmax(opponent)))

    def magnet(step):
        def outer(x):
            ref = x[0]
            y = ref
            for _ in range(rounds):
                y = step(y, ref)
            return y[None]

        return outer

    def nash_md(x):
        mix = log_softmax(rho * reference + (1 - rho) * x[0])
        return log_softmax(mix + eta * a @ softmax(mix))[None]

    def egpo(x):
        anchor = rho * reference + (1 - rho) * x[0]
        return log_softmax(anchor + eta * a @ softmax(anchor + eta * a @ softmax(x[0])))[None]

    def onpo(x):  # the algorithm of two fits, main and auxiliary policy
        aux = log_softmax(x[1] + eta * a @ softmax(x[0]))
        return np.stack([log_softmax(aux + eta * a @ softmax(x[0])), aux])

    def mnpo(x):  # policy and the one before
        past = (x[0] + x[1]) / 2
        return np.stack([log_softmax(rho * reference + (1 - rho) * past + eta * a @ softmax(x[0])), x[0]])

    def ema(x):  # policy and its average
        policy = log_softmax(rho * reference + (1 - rho) * x[0] + eta * a @ softmax(x[1]))
        return np.stack([policy, log_softmax(0.9 * x[1] + 0.1 * policy)])

    return {
        "iterative-ipo": lambda x: log_softmax(x[0] + eta * a @ softmax(x[0]))[None],
        "inpo": lambda x: inpo(x[0], reference)[None],
        "mnpo": mnpo,
        "onpo": onpo,
        "comal": magnet(inpo),
        "nash-md": nash_md,
        "nash-ema": ema,
        "egpo": egpo,
        "nash-mp": lambda x: proximal(x[0], reference, proximal(x[0], reference, x[0]))[None],
        "mpo": magnet(lambda y, ref: proximal(y, ref, y)),
    }.get(algorithm) or (
        lambda x: np.log(SOLVERS[algorithm](game, start=softmax(x[0]), rounds=1, step_size=eta).last)[None]
    )


def measured(step, at: np.ndarray, ignore_fixed: bool) -> float:
    """Largest modulus among eigenvalues of the derivative, by central differences, but those of 0 turn."""
    shape, h = at.shape, 1e-5

    def flat(x):
        return step(x.reshape(shape)).ravel()

    basis = np.eye(at.size) * h
    jacobian = np.stack([(flat(at.ravel() + e) - flat(at.ravel() - e)) / (2 * h) for e in basis], axis=1)
    eigenvalues = np.linalg.eigvals(jacobian)
    if ignore_fixed:
        eigenvalues = eigenvalues[np.abs(eigenvalues.imag) > 1e-6]
    return float(np.abs(eigenvalues).max())


@pytest.mark.parametrize(
    "algorithm, rounds",
    [(name, 6) for name in ALGORITHMS] + [(name, rounds) for name in MAGNETS for rounds in (2, 25)],
)
@pytest.mark.parametrize("eta", [0.4, 1.5, 2.9])
@pytest.mark.parametrize("name", ["cycle", "random"])
def test_contraction_is_the_derivative_of_the_update(algorithm, rounds, name, eta):
    game, tau = interior(GAMES[name]), 0.3
    size = len(game)
    reference = np.arange(1.0, size + 1) / np.arange(1.0, size + 1).sum()
    at = nash_equilibrium(game)
    if algorithm in REGULARIZED:
        at = regularized_equilibrium(game, reference, tau).policy
    turned = at
    if algorithm == "nash-md":
        at = nash_md_fixed_point(game, reference, tau, eta * tau)
        turned = geometric_mixture(at, reference, eta * tau)
    step = update(algorithm, game, np.log(reference), eta, tau, rounds)
    memory = 2 if algorithm in ("onpo", "mnpo", "nash-ema") else 1
    state = np.tile(np.log(at), (memory, 1))
    np.testing.assert_allclose(step(state), state, atol=1e-11)
    np.testing.assert_allclose(own_equilibrium(algorithm, game, eta, tau, reference), turned, atol=1e-9)
    kappa = (gradient_rotation_rates if algorithm == "grpo" else rotation_rates)(game, turned)
    predicted = contraction(algorithm, step_size=eta, kappa=kappa, beta=tau, reference_rounds=rounds)
    # Games of an odd number of answers rotate in every direction but that of normalisation, whose factor is 0 or real.
    assert measured(step, state, ignore_fixed=True) == pytest.approx(predicted, rel=1e-6)


@pytest.mark.parametrize("name", GAMES)
def test_rotation_rates_are_eigenvalues(name):
    game = GAMES[name]
    for policy in (nash_equilibrium(game), np.random.default_rng(0).dirichlet(np.ones(len(game)))):
        matrix = (game.preferences - 0.5) @ (np.diag(policy) - np.outer(policy, policy))
        eigenvalues = np.linalg.eigvals(matrix)
        np.testing.assert_allclose(eigenvalues.real, 0, atol=1e-7)
        expected = np.sort(eigenvalues.imag[eigenvalues.imag > 1e-7])[::-1]
        np.testing.assert_allclose(rotation_rates(game, policy), expected, atol=1e-12)
        assert rotation_rate(game, policy) == pytest.approx(expected.max(initial=0), abs=1e-12)


def test_rotation_rate_of_cycles():
    """κ² of a > b > c > a by x, y, z is p_a p_b p_c (x+y+z)² at the Nash policy p: on COMAL's, 48/1331 · 1.1²."""
    nash = nash_equilibrium(load_game("comal-cycle"))
    assert rotation_rate(load_game("comal-cycle"), nash) == pytest.approx(np.sqrt(48 / 1331) * 1.1, abs=1e-14)
    assert rotation_rate(load_game("rock-paper-scissors"), [1 / 3] * 3) == pytest.approx(1.5 / np.sqrt(27), abs=1e-14)


def test_one_answer_does_not_rotate():
    game = bradley_terry([0, 1, 3])
    assert rotation_rate(game, nash_equilibrium(game)) == 0
    for algorithm in ALGORITHMS:
        settings = {"step_size": 5.0, "beta": 0.1, "reference_rounds": 20}
        assert check_stability(algorithm, game, **settings, reference=[0.4, 0.3, 0.3]) == []
    assert largest_stable_step("iterative-ipo", kappa=0.0) == np.inf
    assert largest_stable_step("onpo", kappa=0.0) == np.inf
    assert largest_stable_step("inpo", kappa=0.0, beta=0.1) == 10


@pytest.mark.parametrize(
    "rho, rounds", [(0.02, 13), (0.05, 8), (0.1, 6), (0.2, 4), (1 / 3, 3), (0.5, 3), (0.8, 2), (1.0, 2)]
)
def test_minimum_reference_rounds(rho, rounds):
    assert minimum_reference_rounds(rho) == rounds
    slow = {"step_size": 1.0, "beta": rho, "kappa": 1e-3}
    assert contraction("comal", **slow, reference_rounds=rounds) < 1
    assert contraction("comal", **slow, reference_rounds=rounds - 1) > 1


@pytest.mark.parametrize("rho", [0, -0.1, 1.1, np.nan])
def test_bad_rho(rho):
    with pytest.raises(ValueError, match=re.escape("`rho` must be in (0, 1]")):
        minimum_reference_rounds(rho)


@pytest.mark.parametrize("kappa", [0.05, 0.2, 0.45])
@pytest.mark.parametrize("beta", [0.03, 0.1, 0.3])
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name not in SPIRALS])
def test_largest_stable_step_is_where_contraction_passes_one(algorithm, kappa, beta):
    settings = {"kappa": kappa, "beta": beta, "reference_rounds": 30}
    step = largest_stable_step(algorithm, **settings)
    assert step > 0
    cap = 1e3 / kappa if algorithm in ("onpo", "nash-mp", "mpo") else 1 / beta
    if step >= cap:
        return
    assert contraction(algorithm, step_size=step * (1 - 1e-9), **settings) < 1
    assert contraction(algorithm, step_size=step * (1 + 1e-6), **settings) > 1


@pytest.mark.parametrize("kappa", [0.05, 0.2, 0.45])
def test_closed_forms_of_the_largest_step(kappa):
    assert largest_stable_step("onpo", kappa=kappa) == pytest.approx(1 / (np.sqrt(3) * kappa))
    assert largest_stable_step("inpo", kappa=kappa, beta=0.04) == pytest.approx(0.08 / (0.04**2 + kappa**2))
    for algorithm in SPIRALS:
        assert largest_stable_step(algorithm, kappa=kappa) == 0
        assert contraction(algorithm, step_size=1e-3, kappa=kappa) > 1


def test_mirror_prox_is_stable_at_every_step_if_slow_enough():
    """For η to infinity its factor is -(κ/τ)²."""
    assert largest_stable_step("nash-mp", kappa=0.09, beta=0.1) == np.inf
    assert largest_stable_step("nash-mp", kappa=0.2, beta=0.1) < np.inf


def test_slow_rotations_decide_comal_s_rate_and_fast_ones_its_limit():
    rates = np.array([0.3, 0.02])
    settings = {"beta": 0.1, "reference_rounds": 20}
    factors = [contraction("comal", step_size=1.0, kappa=kappa, **settings) for kappa in rates]
    assert factors[0] < factors[1] < 1
    assert contraction("comal", step_size=1.0, kappa=rates, **settings) == max(factors)
    limit = largest_stable_step("comal", kappa=rates, **settings)
    assert limit == pytest.approx(largest_stable_step("comal", kappa=0.3, **settings), rel=0.2)


# ---- What the warnings say is what the solvers do ----


@pytest.mark.parametrize(
    "algorithm, settings, kappa_of",
    [("onpo", {}, 0)] + [(name, {"beta": 0.1}, 0.1) for name in ("inpo", "mnpo", "egpo", "nash-mp")],
)
def test_solvers_turn_unstable_at_the_predicted_step(algorithm, settings, kappa_of):
    """From 1e-6 beside the equilibrium, 400 rounds at .97 of the limit come closer and at 1.03 go away."""
    game, reference = load_game("comal-cycle"), np.array([0.2, 0.5, 0.3])
    at = regularized_equilibrium(game, reference, kappa_of).policy if kappa_of else nash_equilibrium(game)
    limit = largest_stable_step(algorithm, kappa=rotation_rates(game, at), **settings)
    start = at + 1e-6 * np.array([1, -1, 0])
    extra = {"reference": reference} if settings else {}
    near, far = (
        np.abs(
            SOLVERS[algorithm](game, start=start, rounds=400, step_size=f * limit, **settings, **extra).last - at
        ).max()
        for f in (0.97, 1.03)
    )
    assert near < 2e-7 < 5e-6 < far
    check = {"reference": reference, **settings}
    assert check_stability(algorithm, game, step_size=0.97 * limit, **check) == []
    (message,) = check_stability(algorithm, game, step_size=1.03 * limit, **check)
    assert f"is past the largest that converges on this game, {limit:.3g}" in message


def test_warning_of_methods_that_always_spiral():
    for algorithm in SPIRALS:
        (message,) = check_stability(algorithm, load_game("comal-cycle"), step_size=1.0)
        assert message.startswith("No `step_size` converges: with 1 the policies spiral out")


@pytest.mark.parametrize("algorithm", MAGNETS)
def test_warnings_of_moving_references(algorithm):
    game = load_game("comal-cycle")
    fine = {"beta": 0.1, "step_size": 1.0, "reference_rounds": 20}
    assert check_stability(algorithm, game, **fine) == []
    (few,) = check_stability(algorithm, game, **{**fine, "reference_rounds": 5})
    assert (
        few
        == "`reference_rounds` 5 is below 6, the smallest that converges for `step_size` * `beta` = 0.1 (better 20)."
    )
    (large,) = check_stability(algorithm, game, **{**fine, "step_size": 9.0})
    assert large.startswith("`step_size` 9 is past the largest that converges on this game with `reference_rounds` 20")
    both = check_stability(algorithm, game, **{**fine, "beta": 0.01, "step_size": 9.0, "reference_rounds": 3})
    assert len(both) == 2


def test_warning_of_a_weight_above_one():
    for algorithm in ("inpo", "mnpo", "comal", "nash-md", "nash-ema", "egpo"):
        (message,) = check_stability(algorithm, load_game("comal-cycle"), step_size=4.0, beta=0.5, reference_rounds=20)
        assert message.startswith("`step_size` * `beta` = 2 must be at most 1") and "`step_size` to 2" in message


def test_nash_md_at_the_largest_weight():
    assert check_stability("nash-md", load_game("comal-cycle"), step_size=10.0, beta=0.1) == []


@pytest.mark.parametrize(
    "algorithm, change, message",
    [
        ("inpoo", {}, "There is no algorithm 'inpoo': there are iterative-ipo"),
        ("inpo", {"step_size": 0}, "`step_size` must be a positive number"),
        ("inpo", {"beta": 0}, "`beta` must be a positive number"),
        ("comal", {"reference_rounds": None}, "`reference_rounds` of comal must be at least 1, got None"),
        ("comal", {"reference_rounds": 0}, "`reference_rounds` of comal must be at least 1, got 0"),
        ("onpo", {"kappa": -1}, "`kappa` must be made of numbers from 0"),
        ("onpo", {"kappa": np.nan}, "`kappa` must be made of numbers from 0"),
    ],
)
def test_bad_settings(algorithm, change, message):
    settings = {"step_size": 1.0, "kappa": 0.2, "beta": 0.1, "reference_rounds": 20} | change
    with pytest.raises(ValueError, match=re.escape(message)):
        contraction(algorithm, **settings)


# ---- ONPO that remembers a few policies ----


@pytest.mark.parametrize(("history", "largest"), [(1, 0.0), (2, 0.0), (3, 0.649), (4, 0.598), (5, 0.572), (12, 0.577)])
def test_truncated_onpo(history, largest):
    """The limit of the linearised recursion is where the solver itself, from nearby, turns from converging to not."""
    game = load_game("comal-cycle")
    nash = nash_equilibrium(game)
    kappa = rotation_rate(game, nash)
    step = largest_stable_step("onpo", kappa=kappa, anchor_history=history)
    assert step * kappa == pytest.approx(largest, abs=2e-3)
    near = nash * np.exp([1e-6, -1e-6, 0.0])
    for factor, converges in ((0.9, True), (1.1, False)):
        eta = factor * step if step else 0.3 / kappa
        run = onpo(game, start=near / near.sum(), rounds=600, step_size=eta, anchor_history=history)
        distances = np.abs(np.log(run.policies / nash)).max(axis=1)
        assert (distances[-50:].max() < distances[:50].max()) == (converges and step > 0)
        rate = contraction("onpo", step_size=eta, kappa=kappa, anchor_history=history)
        assert (rate < 1) == (converges and step > 0)
        settings = {"step_size": eta, "anchor_history": history}
        assert bool(check_stability("onpo", game, **settings)) == (not converges or step == 0)


def test_an_inner_game_that_no_step_makes_long_enough():
    game = load_game("comal-cycle")
    (message,) = check_stability("comal", game, step_size=10.0, beta=1 / 30, reference_rounds=6)
    assert "No `step_size` converges with `beta` 0.0333 and `reference_rounds` 6" in message
