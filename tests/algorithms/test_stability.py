# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""The factors that are read off the definitions against their closed forms, of ε = ηκ and ρ = ητ."""

import time

import numpy as np
import pytest

from trl_nash.algorithms.stability import TURNS, contraction, largest_stable_step
from trl_nash.algorithms.table import METHODS


def proximal(turn, rho):
    return (1 + turn) / (1 + rho)


def magnet(inner, turn, rho, rounds):
    """K rounds of `inner` from the reference, towards the equilibrium around it at `ρ/(ρ - iε)`."""
    return [inner**rounds + (1 - inner**rounds) * rho / (rho - turn)]


def optimistic(turn, history):
    """`z^H = (w_1 + 2iε) z^{H-1} + w_2 z^{H-2} + ... + w_H`."""
    weights = 0.5 ** np.arange(1, history + 1)
    weights[-1] *= 2
    weights = weights.astype(complex)
    weights[0] += 2 * turn
    return np.roots([1, *-weights])


FACTORS = {
    "iterative-ipo": lambda turn, rho, rounds, decay: [1 + turn],
    "iterative-dpo": lambda turn, rho, rounds, decay: [1 + 4 * turn],
    "sppo": lambda turn, rho, rounds, decay: [1 + turn],
    "grpo": lambda turn, rho, rounds, decay: [1 + turn],
    "inpo": lambda turn, rho, rounds, decay: [1 - rho + turn],
    "mnpo": lambda turn, rho, rounds, decay: np.roots([1, -(1 - rho) / 2 - turn, -(1 - rho) / 2]),
    "onpo": lambda turn, rho, rounds, decay: np.roots([1, -1 - 2 * turn, turn]),
    "comal": lambda turn, rho, rounds, decay: magnet(1 - rho + turn, turn, rho, rounds),
    "nash-md": lambda turn, rho, rounds, decay: [(1 - rho) * (1 + turn)],
    "nash-ema": lambda turn, rho, rounds, decay: np.roots(
        [1, -(1 - rho + decay + (1 - decay) * turn), (1 - rho) * decay]
    ),
    "egpo": lambda turn, rho, rounds, decay: [(1 - rho) * (1 + turn) + turn**2],
    "nash-mp": lambda turn, rho, rounds, decay: [(1 + turn * proximal(turn, rho)) / (1 + rho)],
    "mpo": lambda turn, rho, rounds, decay: magnet(proximal(turn, rho), turn, rho, rounds),
}


def test_every_algorithm_has_a_factor():
    assert set(FACTORS) == {*METHODS, *TURNS}


@pytest.mark.parametrize("algorithm", FACTORS)
@pytest.mark.parametrize("beta", [0.03, 0.3])
@pytest.mark.parametrize("kappa", [0.03, 0.2, 0.6])
@pytest.mark.parametrize("rounds, decay", [(1, 0.0), (6, 0.5), (200, 0.9)])
def test_factors_are_their_closed_forms(algorithm, beta, kappa, rounds, decay):
    for step in (0.01, 0.4, 1.5, 3.0):
        truth = np.abs(FACTORS[algorithm](1j * step * kappa, step * beta, rounds, decay)).max()
        settings = {"beta": beta, "reference_rounds": rounds, "ema_decay": decay}
        found = contraction(algorithm, step_size=step, kappa=kappa, **settings)
        assert found == pytest.approx(truth, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("history", [1, 2, 3, 5, 12])
def test_the_factor_of_a_truncated_history(history):
    for turn in (0.01, 0.3, 0.9):
        truth = np.abs(optimistic(1j * turn, history)).max()
        assert contraction("onpo", step_size=turn, kappa=1.0, anchor_history=history) == pytest.approx(truth, abs=1e-9)


@pytest.mark.parametrize("weights", [(1.0,), (0.2, 0.8), (0.5, 0.3, 0.2)])
def test_the_factor_of_weighted_histories(weights):
    """`z^H = ((1-ρ)λ_0 + iε) z^{H-1} + (1-ρ)λ_1 z^{H-2} + ...`; of one policy it is INPO's."""
    coefficients = 0.7 * np.array(weights, dtype=complex)
    coefficients[0] += 0.4j
    truth = np.abs(np.roots([1, *-coefficients])).max()
    settings = {"step_size": 1.0, "kappa": 0.4, "beta": 0.3}
    assert contraction("mnpo", **settings, history_weights=weights) == pytest.approx(truth, abs=1e-9)
    if len(weights) == 1:
        assert truth == pytest.approx(contraction("inpo", **settings))


@pytest.mark.parametrize("kappa", [0.05, 0.2, 0.45])
def test_closed_forms_of_the_largest_step(kappa):
    assert largest_stable_step("onpo", kappa=kappa) == pytest.approx(1 / (np.sqrt(3) * kappa), rel=1e-9)
    inpo = 2 * 0.04 / (0.04**2 + kappa**2)
    assert largest_stable_step("inpo", kappa=kappa, beta=0.04) == pytest.approx(min(inpo, 25), rel=1e-9)
    alone = largest_stable_step("mnpo", kappa=kappa, beta=0.04, history_weights=(1.0,))
    assert alone == pytest.approx(min(inpo, 25), rel=1e-9)
    assert largest_stable_step("mnpo", kappa=kappa, beta=0.04) != pytest.approx(alone, rel=0.05)


def test_limits_of_many_rates_and_long_periods_take_no_time():
    rates = np.linspace(0.01, 0.4, 15)
    begin = time.process_time()
    for algorithm in FACTORS:
        largest_stable_step(algorithm, kappa=rates, beta=0.1, reference_rounds=5000, anchor_history=8)
    assert time.process_time() - begin < 20  # of the processor alone; it takes 2


def test_a_round_that_overflows_does_not_converge():
    settings = {"kappa": 1.0, "beta": 1e-3, "reference_rounds": 3000}
    assert contraction("comal", step_size=900.0, **settings) == np.inf
    assert np.isfinite(largest_stable_step("mnpo", kappa=1.0, beta=0.1))
