# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Each definition, played exactly, against the recursion that its paper writes; and what is read off definitions."""

import ast
import subprocess
import sys
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

import trl_nash
from trl_nash import algorithms
from trl_nash.algorithms import AVERAGE, INITIAL, START, Past, Policy, named, needed
from trl_nash.algorithms.play import play_round
from trl_nash.algorithms.table import (
    LATE,
    METHODS,
    MOVING,
    bound,
    kept,
    regularized,
    samplings,
    settled_beta,
    weighted,
)
from trl_nash.games.matrix import MatrixGame
from trl_nash.games.solvers import SOLVERS, iterate


GAME = MatrixGame([[0.5, 0.15, 0.8, 0.6], [0.85, 0.5, 0.3, 0.45], [0.2, 0.7, 0.5, 0.9], [0.4, 0.55, 0.1, 0.5]])
P = GAME.preferences
BEGIN = np.array([0.15, 0.4, 0.25, 0.2])
REFERENCE = np.array([0.3, 0.1, 0.2, 0.4])
ROUNDS, ETA, TAU = 60, 0.7, 0.4
RHO = ETA * TAU
WEIGHTS = (0.5, 0.3, 0.2)
SETTINGS = {"step_size": ETA, "beta": TAU, "history_weights": WEIGHTS}

# Every definition with its settings, and K.
CASES = {name: (bound(name, **SETTINGS), 7 if name in MOVING else None) for name in METHODS}
CASES |= {f"comal every {rounds}": (bound("comal", **SETTINGS), rounds) for rounds in (1, 2, 3)}
CASES |= {f"onpo of {count}": (bound("onpo", **SETTINGS, anchor_history=count), None) for count in (1, 2, 5)}
CASES |= {
    "onpo in two fits": (partial(algorithms.onpo_two_fits, step_size=ETA), None),
    "mnpo that moves": (bound("mnpo", **SETTINGS), 4),
    "nash prox": (partial(algorithms.regularized_response, beta=TAU), 3),
    "nash-md's gradient": (partial(algorithms.regularized_response, beta=TAU, mixture_coef=0.3), None),
    "nash-md's gradient, moving": (partial(algorithms.regularized_response, beta=TAU, mixture_coef=0.3), 3),
    "nash-ema's gradient": (partial(algorithms.average_response, beta=TAU), None),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


# ---- Definitions ----


def test_weights_add_up_to_one(case):
    method, reference_rounds = case
    for number in range(80):
        for fit in method(Past(number, reference_rounds)):
            for mixture in (fit.centre, fit.pairs_from or {START: 1.0}):
                assert sum(mixture.values()) == pytest.approx(1, abs=1e-14)
                assert min(mixture.values()) >= 0


def test_no_fit_names_a_policy_of_later(case):
    method, reference_rounds = case
    for number in range(40):
        for index, fit in enumerate(method(Past(number, reference_rounds))):
            assert max(named([fit])) <= Policy(number, index)


def test_one_round_of_foresight_is_as_good_as_thirty(case):
    method, reference_rounds = case
    for number in range(30):
        past = Past(number, reference_rounds)
        for index in range(len(method(past))):
            later = named(method(past)[index + 1 :])
            for ahead in range(1, 31):
                later |= named(method(Past(number + ahead, reference_rounds)))
            assert needed(method, past, index) == {policy for policy in later if policy <= Policy(number, index)}


def test_a_round_leaves_what_is_needed_and_no_more(case):
    method, reference_rounds = case
    past, policies = Past(0, reference_rounds), {START: 1.0, INITIAL: 2.0, AVERAGE: 3.0}
    for _ in range(40):
        play_round(method, past, policies, lambda opponent: lambda centre, step_size: centre)
        last = len(method(past)) - 1
        assert set(policies) == needed(method, past, last) | {past.next.now}
        past = past.next


def test_policies_are_named_by_when_they_were():
    assert [str(policy) for policy in (INITIAL, AVERAGE, START, Policy(3), Policy(3, 1))] == [
        "initial",
        "average",
        "round_0",
        "round_3",
        "round_3_fit_1",
    ]
    past = Past(7, reference_rounds=3)
    assert (past.now, past.live, past.between) == (Policy(7), Policy(7, 1), Policy(6, 1))
    assert (past.initial, past.average, past.before(2), past.before(9)) == (INITIAL, AVERAGE, Policy(5), START)
    assert past.next == Past(8, 3)
    assert [Past(number, 3).reference for number in (0, 2, 3, 5, 6)] == [INITIAL, INITIAL, *2 * [Policy(3)], Policy(6)]
    assert Past(7).reference == INITIAL and Past(0).between == START


def test_no_definition_needs_numpy_or_torch():
    code = (
        "import sys, trl_nash.algorithms.table, trl_nash.algorithms.play\n"
        "found = {'numpy', 'scipy', 'torch', 'transformers', 'trl'} & set(sys.modules)\nassert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    for file in (Path(trl_nash.__file__).parent / "algorithms").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level > 1), f"{file.name} looks upstairs"
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            allowed = {"numpy"} if file.name == "stability.py" else set()
            assert {name.split(".")[0] for name in names} <= {*sys.stdlib_module_names, *allowed}, file.name


# ---- Recursions, of log-policies; constants cancel ----


def r(log_policy: np.ndarray) -> np.ndarray:
    """Win rates against a policy."""
    return P @ softmax(log_policy)


def iterative_ipo(x, ref, t):
    return x[-1] + ETA * r(x[-1])


def inpo(x, ref, t):
    return RHO * ref + (1 - RHO) * x[-1] + ETA * r(x[-1])


def optimistic_multiplicative_weights(x, ref, t):
    return x[-1] + ETA * (2 * r(x[-1]) - (r(x[-2]) if t else 0))


def egpo(x, ref, t):
    half = RHO * ref + (1 - RHO) * x[-1] + ETA * r(x[-1])
    return RHO * ref + (1 - RHO) * x[-1] + ETA * r(half)


def mnpo(x, ref, t):
    history = sum(weight * x[max(t - age, 0)] for age, weight in enumerate(WEIGHTS))
    return RHO * ref + (1 - RHO) * history + ETA * r(x[-1])


def nash_mirror_prox(x, ref, t):
    half = (RHO * ref + x[-1] + ETA * r(x[-1])) / (1 + RHO)
    return (RHO * ref + x[-1] + ETA * r(half)) / (1 + RHO)


def nash_md(x, ref, t):
    mixture = RHO * ref + (1 - RHO) * x[-1]
    return mixture + ETA * r(mixture)


def nash_ema(x, ref, t):
    average = x[0]
    for policy in x[1:]:
        average = 0.9 * average + 0.1 * policy
    return RHO * ref + (1 - RHO) * x[-1] + ETA * r(average)


def comal(x, ref, t):
    return inpo(x, x[t - t % 7], t)


def mpo(x, ref, t):
    magnet = x[t - t % 7]
    return (RHO * magnet + x[-1] + ETA * r(x[-1])) / (1 + RHO)


@pytest.mark.parametrize(
    ("name", "recursion"),
    [
        ("iterative-ipo", iterative_ipo),
        ("inpo", inpo),
        ("onpo", optimistic_multiplicative_weights),
        ("onpo in two fits", optimistic_multiplicative_weights),
        ("comal", comal),
        ("egpo", egpo),
        ("mnpo", mnpo),
        ("mpo", mpo),
        ("nash-mp", nash_mirror_prox),
        ("nash-md", nash_md),
        ("nash-ema", nash_ema),
    ],
)
def test_exact_rounds_are_the_recursion_of_the_paper(name, recursion):
    method, reference_rounds = CASES[name]
    reference = None if reference_rounds else REFERENCE  # one that moves is the start at first
    run = iterate(GAME, method, start=BEGIN, reference=reference, reference_rounds=reference_rounds)
    policies = [np.log(BEGIN)]
    for t, played in enumerate(islice(run, ROUNDS)):
        policies.append(log_softmax(recursion(policies, np.log(REFERENCE), t)))
        np.testing.assert_allclose(np.exp(played), np.exp(policies[-1]), rtol=0, atol=1e-12)


# ---- What is read off ----


def test_solvers_have_every_method():
    assert set(METHODS) < set(SOLVERS)


def test_the_game_that_a_method_solves():
    assert {name for name in METHODS if regularized(name)} == {
        "inpo",
        "mnpo",
        "nash-md",
        "nash-ema",
        "egpo",
        "nash-mp",
    }
    assert {name for name in METHODS if weighted(name)} == {"inpo", "mnpo", "comal", "nash-md", "nash-ema", "egpo"}
    assert not any(
        function(name) for name in ("sppo", "iterative-dpo", "grpo") for function in (regularized, weighted)
    )


@pytest.mark.parametrize("name", [name for name in METHODS if regularized(name)])
def test_where_a_constant_step_settles(name):
    """At `π ∝ ref exp(P(· ≻ ν)/τ)`, ν being the policy, but for Nash-MD, whose mixture has a smaller price to pay."""
    expected = TAU / (1 - RHO) if name == "nash-md" else TAU
    assert settled_beta(name, ETA, TAU) == pytest.approx(expected)
    method, _ = CASES[name]
    run = iterate(GAME, method, start=BEGIN, reference=REFERENCE)
    policy = list(islice(run, 2000))[-1]
    ref = np.log(REFERENCE)
    opponent = log_softmax(RHO * ref + (1 - RHO) * policy) if name == "nash-md" else policy
    np.testing.assert_allclose(softmax(opponent), softmax(ref + r(opponent) / expected), atol=1e-10)


def test_nash_md_at_the_largest_weight_settles_at_its_reference():
    assert settled_beta("nash-md", 2.5, 0.4) == float("inf")


def test_what_a_round_needs():
    methods = {name: bound(name, **SETTINGS, anchor_history=5) for name in METHODS}
    methods["two fits"] = partial(algorithms.onpo_two_fits, step_size=ETA)
    assert {name for name, method in methods.items() if len(method(LATE)) == 2} == {"egpo", "nash-mp", "two fits"}
    assert {name for name, method in methods.items() if samplings(method) == 2} == {"egpo", "nash-mp"}
    now = LATE.now
    assert {name: kept(method) for name, method in methods.items()} == {
        "iterative-ipo": set(),
        "inpo": {INITIAL},
        "mnpo": {INITIAL, now, LATE.before(1)},
        "onpo": {now, LATE.before(1), LATE.before(2), LATE.before(3)},
        "comal": {INITIAL},
        "nash-md": {INITIAL},
        "nash-ema": {INITIAL, AVERAGE},
        "egpo": {INITIAL, now},
        "nash-mp": {INITIAL, now},
        "mpo": {INITIAL},
        "two fits": {LATE.live},
    }
