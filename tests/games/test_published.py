# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the papers claim, and what follows from their updates, on the synthetic game of COMAL (2410.23223)."""

import numpy as np
import pytest
from scipy.special import softmax

from trl_nash.games.equilibria import nash_equilibrium
from trl_nash.games.matrix import MatrixGame
from trl_nash.games.named import load_game
from trl_nash.games.sampled import SampledPairs
from trl_nash.games.solvers import (
    comal,
    egpo,
    inpo,
    iterative_dpo,
    mirror_descent,
    mpo,
    nash_ema,
    nash_md,
    nash_mirror_prox,
    onpo,
    sppo,
)


# b beats a and c beats b nine times in ten, a beats c eight times in ten.
GAME = MatrixGame([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])
START = np.array([0.2, 0.5, 0.3])
NASH = np.array([4, 3, 4]) / 11
BETA = 0.1


def solve_regularized(reference: np.ndarray, beta: float) -> np.ndarray:
    """`π ∝ ref exp(P(· ≻ π)/τ)`, by a fixed point damped enough for this game."""
    policy = reference
    for _ in range(3000):
        policy = 0.95 * policy + 0.05 * softmax(np.log(reference) + GAME.preferences @ policy / beta)
    return policy


def rotation_rate(policy: np.ndarray) -> float:
    return np.abs(
        np.linalg.eigvals((GAME.preferences - 0.5) @ (np.diag(policy) - np.outer(policy, policy))).imag
    ).max()


REGULARIZED = solve_regularized(START, BETA)
KAPPA, KAPPA_REGULARIZED = rotation_rate(NASH), rotation_rate(REGULARIZED)
ASIDE = np.array([1.0, -1.0, 0.0]) * 1e-4  # starts from here are ruled by the linearised update


def growth(history, target: np.ndarray, first: int, last: int) -> float:
    """The factor a round by which the distance to the target grows, being the root of KL."""
    divergence = history.kl_to(target)
    return (divergence[last] / divergence[first]) ** (0.5 / (last - first))


def slope(values: np.ndarray, first: int) -> float:
    """Of log(value) against log(round), from round `first` on. `values[t - 1]` belongs to round t."""
    rounds = np.arange(1, len(values) + 1)
    return np.polyfit(np.log(rounds[first - 1 :]), np.log(values[first - 1 :]), 1)[0]


def test_equilibria_of_the_game():
    np.testing.assert_allclose(GAME.win_rates(NASH), 0.5, atol=1e-15)
    np.testing.assert_allclose(REGULARIZED, GAME.regularized_best_response(REGULARIZED, START, BETA), rtol=1e-13)


# ---- Methods that spiral out ----


@pytest.mark.parametrize("solver", [mirror_descent, iterative_dpo, sppo])
def test_iterative_methods_spiral_out(solver):
    history = solver(GAME, start=START, rounds=300, step_size=1.0)
    divergence, gaps = history.kl_to(NASH), history.gaps
    assert divergence[0] < 0.123 and divergence[300] > 2  # nats
    assert (np.diff(divergence[::100]) > 0).all()
    assert gaps[-60:].min() > 0.2 and 0.4 < gaps[-60:].mean() < 0.8 and 0.75 < gaps[-60:].max() <= 0.8


@pytest.mark.parametrize(("solver", "slopes"), [(mirror_descent, 1), (sppo, 1), (iterative_dpo, 4)])
@pytest.mark.parametrize("step_size", [0.1, 0.5])
def test_iterative_methods_leave_the_equilibrium_at_the_linear_rate(solver, slopes, step_size):
    """`|1 + iηκ|` a round: no step is small enough. DPO's η counts four times, as σ'(0) = ¼."""
    history = solver(GAME, start=NASH + ASIDE, rounds=200, step_size=step_size)
    rate = abs(1 + 1j * slopes * step_size * KAPPA)
    last = min(200, int(np.log(30) / np.log(rate)))
    assert growth(history, NASH, 0, last) - 1 == pytest.approx(rate - 1, rel=0.05)


@pytest.mark.parametrize("step_size", [0.5, 1.0, 2.0])
def test_average_policies_of_mirror_descent_converge_as_one_over_the_root(step_size):
    gaps = mirror_descent(GAME, start=START, rounds=3000, step_size=step_size).average_gaps
    assert slope(gaps[:3000], 10) > -0.55


# ---- INPO ----


def test_inpo_reaches_the_regularised_equilibrium_and_stays_exploitable():
    history = inpo(GAME, start=START, rounds=1000, step_size=0.5, beta=BETA)
    assert history.kl_to(REGULARIZED)[-1] < 1e-15
    np.testing.assert_allclose(history.gaps[-500:], 0.0588, atol=5e-5)


@pytest.mark.parametrize(("factor", "stable"), [(0.98, True), (1.02, False)])
def test_inpo_is_stable_up_to_its_step_and_no_further(factor, stable):
    step_size = factor * 2 * BETA / (BETA**2 + KAPPA_REGULARIZED**2)
    history = inpo(GAME, start=REGULARIZED + ASIDE, reference=START, rounds=1500, step_size=step_size, beta=BETA)
    divergence = history.kl_to(REGULARIZED)
    assert divergence[-1] < 1e-12 if stable else divergence[-1] > 1e-2
    rate = abs(1 - step_size * BETA + 1j * step_size * KAPPA_REGULARIZED)
    assert growth(history, REGULARIZED, 0, 200) == pytest.approx(rate, abs=2e-3)


# ---- ONPO ----


def test_one_fit_of_onpo_is_two_fits():
    for step_size in (0.5, 1.0, 2.0):
        one, two = (
            onpo(GAME, start=START, rounds=100, step_size=step_size, fits=fits).policies for fits in ("one", "two")
        )
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)


@pytest.mark.parametrize("step_size", [0.5, 1.0, 2.0])
def test_average_policies_of_onpo_converge_as_one_over_the_rounds(step_size):
    gaps = onpo(GAME, start=START, rounds=3000, step_size=step_size).average_gaps[:3000]
    assert slope(gaps, 30) == pytest.approx(-1, abs=0.05)
    assert 1000 * gaps[999] == pytest.approx(0.95 / step_size, rel=0.01)
    if step_size <= 1 / np.sqrt(2):
        furthest = -np.log(START.min())  # the largest KL from the start
        bound = 2 * (furthest / step_size + step_size / 4) / np.arange(1, 3001)
        assert (gaps <= bound).all()


def test_last_policies_of_onpo_converge():
    """T policies are T - 1 updates."""
    gaps = onpo(GAME, start=START, rounds=1000, step_size=1.0).gaps
    assert gaps[299] == pytest.approx(1.5e-4, rel=0.03)
    assert gaps[999] == pytest.approx(1.3e-11, rel=0.05)


@pytest.mark.parametrize(("factor", "stable"), [(0.98, True), (1.02, False)])
def test_onpo_is_stable_up_to_its_step_and_no_further(factor, stable):
    step_size = factor / np.sqrt(3) / KAPPA
    gaps = onpo(GAME, start=NASH + ASIDE, rounds=1000, step_size=step_size).gaps
    assert gaps[-1] < 1e-12 if stable else gaps[-1] > 1e-2


@pytest.mark.parametrize("eta_kappa", [0.1, 0.25, 0.4])
def test_onpo_contracts_at_the_rate_of_its_recursion(eta_kappa):
    """The root of `z² = z + 2iηκ z - iηκ`."""
    history = onpo(GAME, start=NASH + ASIDE, rounds=200, step_size=eta_kappa / KAPPA)
    rate = np.abs(np.roots([1, -1 - 2j * eta_kappa, 1j * eta_kappa])).max()
    assert growth(history, NASH, 10, 60) == pytest.approx(rate, abs=5e-3)


@pytest.mark.parametrize(
    ("game", "step_size", "rounds"),
    [("comal-cycle", 1.0, 1000), ("rock-paper-scissors", 1.0, 500), ("random:5:2", 2.0, 2000)],
)
def test_last_policies_of_onpo_converge_linearly_after_a_burn_in(game, step_size, rounds):
    """
    One fit is optimistic multiplicative weights, whose last iterate does so (2512.24818) where an equilibrium gives
    every answer: the logarithm of the distance is a line, of the slope that the recursion has.
    """
    game = load_game(game)
    nash = nash_equilibrium(game)
    assert nash.min() > 0.02
    start = np.arange(1, len(game) + 1) / np.arange(1, len(game) + 1).sum()
    history = onpo(game, start=start, rounds=rounds, step_size=step_size)
    deviation = np.log(history.policies / nash)
    distance = np.sqrt(deviation**2 @ nash - (deviation @ nash) ** 2)  # which a turn does not change
    line = np.flatnonzero((distance < 1e-2) & (distance > 1e-9))
    assert distance[-1] < 1e-9 < distance[line[-1]] < 2e-9
    values = np.log(distance[line])
    slope, intercept = np.polyfit(line, values, 1)
    residuals = values - (intercept + slope * line)
    assert 1 - residuals.var() / values.var() > 0.9999
    rates = np.abs(np.linalg.eigvals((game.preferences - 0.5) @ (np.diag(nash) - np.outer(nash, nash))).imag)
    turns = step_size * rates[rates > 1e-9]
    slowest = max(np.abs(np.roots([1, -1 - 2j * turn, 1j * turn])).max() for turn in turns)
    assert slope == pytest.approx(np.log(slowest), rel=0.02)


@pytest.mark.parametrize(("anchor_history", "gap"), [(2, 0.55), (3, 0.088), (4, 0.004), (5, 0.0006), (None, 0.0001)])
def test_truncated_histories_of_onpo(anchor_history, gap):
    """Mean gap of the last fifth of 80 rounds. Rounded as published."""
    history = onpo(GAME, start=START, rounds=80, step_size=2.0, anchor_history=anchor_history)
    digits = len(str(gap)) - 2 if gap > 1e-4 else 4
    assert round(history.gaps[-16:].mean(), digits) == gap


# ---- COMAL ----


@pytest.mark.parametrize(("reference_rounds", "loops"), [(20, 77), (200, 27)])
def test_comal_reaches_the_equilibrium(reference_rounds, loops):
    history = comal(
        GAME,
        start=START,
        rounds=loops * reference_rounds,
        step_size=0.5,
        beta=BETA,
        reference_rounds=reference_rounds,
    )
    gaps = history.gaps[::reference_rounds]
    assert gaps[-1] < 1e-10 <= gaps[:-1].min()  # after exactly so many outer loops
    assert np.diff(history.kl_to(NASH)[::reference_rounds]).max() < 1e-15


@pytest.mark.parametrize(
    ("rho", "minimum"), [(0.02, 13), (0.05, 8), (0.1, 6), (0.2, 4), (1 / 3, 3), (0.5, 3), (0.8, 2)]
)
def test_comal_needs_its_minimum_of_rounds_per_reference(rho, minimum):
    """From an exact start of the inner game, for steps that are small against 1/κ."""
    eta_kappa = 0.03
    step_size = eta_kappa / KAPPA
    for rounds, converges in ((minimum, True), (minimum - 1, False)):
        history = comal(
            GAME,
            start=NASH + ASIDE,
            rounds=120 * rounds,
            step_size=step_size,
            beta=rho / step_size,
            reference_rounds=rounds,
        )
        divergence = history.kl_to(NASH)[::rounds]
        assert (np.diff(divergence[::20]) < 0).all() if converges else (np.diff(divergence[::20]) > 0).all()
        # The inner game's linear recursion, K times, from its reference.
        inner = 1 - rho + 1j * eta_kappa
        factor = abs(inner**rounds + (1 - inner**rounds) * rho / (1 - inner))
        assert (factor < 1) is bool(converges)
        assert growth(history, NASH, 0, 120 * rounds) ** rounds - 1 == pytest.approx(factor - 1, rel=0.1)


def test_comal_that_moves_its_reference_each_round_is_mirror_descent():
    history = comal(GAME, start=START, rounds=100, step_size=0.5, beta=BETA, reference_rounds=1)
    plain = mirror_descent(GAME, start=START, rounds=100, step_size=0.5)
    np.testing.assert_allclose(history.policies, plain.policies, atol=1e-12)


def test_comal_with_the_schedule_of_its_language_models():
    """A coefficient of KL of .002, then .1, with a ratio of 1/3 and K = 6: those steps are for partial fits only."""
    exact = comal(GAME, start=START, rounds=600, step_size=[500, 10], beta=[1 / 1500, 1 / 30], reference_rounds=6)
    assert exact.gaps[-60:].mean() > 0.4
    small = comal(GAME, start=START, rounds=600, step_size=[2, 1], beta=[1 / 6, 1 / 3], reference_rounds=6)
    assert small.gaps[-1] < 1e-3


# ---- Nash-MD and its kin ----


def test_nash_md_with_the_step_of_its_theorem():
    divergence = nash_md(GAME, start=START, rounds=1000, beta=BETA).kl_to(REGULARIZED)
    assert divergence[10] == pytest.approx(7e-4, rel=0.05)
    assert divergence[1000] == pytest.approx(3e-7, rel=0.15)
    assert (divergence[1:] <= 8 / (BETA**2 * (np.arange(1, 1001) + 1))).all()


def test_nash_md_with_a_constant_step_solves_another_game():
    history = nash_md(GAME, start=START, rounds=1000, step_size=0.5, beta=BETA)
    assert history.kl_to(REGULARIZED)[-1] == pytest.approx(2e-4, rel=0.03)
    # It is at rest: the bias is no lack of rounds.
    np.testing.assert_allclose(history.last, history.policies[-100], atol=1e-14)


def test_nash_ema_converges_to_the_regularised_equilibrium():
    for decay in (0.0, 0.5, 0.9):
        run = nash_ema(GAME, start=START, rounds=6000, step_size=0.5, beta=BETA, ema_decay=decay)
        assert run.kl_to(REGULARIZED)[-1] < 1e-8


def test_egpo_converges_linearly():
    divergence = egpo(GAME, start=START, rounds=100, step_size=1.0, beta=BETA).kl_to(REGULARIZED)
    assert divergence[100] == pytest.approx(5e-13, rel=0.1)
    assert divergence[50] < 1e-5


def test_nash_mirror_prox_contracts_by_its_bound():
    divergence = nash_mirror_prox(GAME, start=START, rounds=100, step_size=2.0, beta=BETA).kl_to(REGULARIZED)
    assert divergence[100] < 1e-16
    contracting = divergence[1:] > 1e-14  # above rounding errors
    assert (divergence[1:] <= divergence[:-1] / (1 + 2 * BETA))[contracting].all()


def test_mpo_converges_if_its_magnet_rests_long_enough():
    gaps = {
        rounds: mpo(GAME, start=START, rounds=4000, step_size=0.5, beta=BETA, reference_rounds=rounds).gaps[-400:]
        for rounds in (1, 20, 4000)
    }
    assert gaps[1].mean() > 0.4
    assert gaps[20].max() < 1e-12
    np.testing.assert_allclose(gaps[4000], 0.0588, atol=5e-5)  # a magnet that stays is INPO's reference


# ---- Sampled fits ----

PUBLISHED_TAILS = {
    "iterative IPO": (lambda pairs: mirror_descent(GAME, start=START, rounds=300, step_size=1.0, pairs=pairs), 0.2),
    "ONPO": (lambda pairs: onpo(GAME, start=START, rounds=300, step_size=1.0, pairs=pairs), 0.35),
    "INPO": (lambda pairs: inpo(GAME, start=START, rounds=300, step_size=1.0, beta=BETA, pairs=pairs), 0.15),
    "COMAL": (
        lambda pairs: comal(GAME, start=START, rounds=300, step_size=1.0, beta=1 / 3, reference_rounds=6, pairs=pairs),
        0.35,
    ),
}


@pytest.mark.parametrize(
    ("count", "seeds", "tails"),
    [
        (300, 8, (0.65, 0.069, 0.073, 0.049)),
        (3000, 4, (0.62, 0.024, 0.060, 0.014)),
        (30000, 6, (0.61, 0.007, 0.059, 0.005)),
    ],
)
def test_sampled_fits(count, seeds, tails):
    """Mean gap of the last fifth of 300 rounds, labels drawn; within the noise of so few seeds."""
    for (name, (run, tolerance)), tail in zip(PUBLISHED_TAILS.items(), tails, strict=True):
        gaps = [
            run(SampledPairs(GAME, pairs=count, preference_label="sampled", seed=seed)).gaps[-60:].mean()
            for seed in range(seeds)
        ]
        assert np.mean(gaps) == pytest.approx(tail, rel=tolerance), (name, gaps)
