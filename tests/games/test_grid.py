# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The full grid of benchmarks/language_games.py, run anew: medians of three seeds against what the theory says."""

import json
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from benchmarks import ROOT
from benchmarks.language_games import table


CASES = ("one token", "LoRA", "two tokens", "two games")
DIALOGUES = ("two turns", "two turns, LoRA")
SHORT = ("one token", "two games")


@pytest.fixture(scope="module")
def median(tmp_path_factory):
    output = tmp_path_factory.mktemp("grid") / "grid.json"
    command = [sys.executable, "-m", "benchmarks.language_games", "--cases", *CASES, *DIALOGUES, "--output", output]
    subprocess.run(command, check=True, cwd=ROOT)
    results = json.loads(output.read_text())["results"]

    def find(case: str, algorithm: str, value: str) -> float:
        found = [r[value] for r in results if (r["case"], r["algorithm"]) == (case, algorithm)]
        assert len(found) == 3
        return float(np.median(found))

    return find


def test_the_table_of_a_part_of_the_grid():
    run = {"case": "two turns", "algorithm": "comal", "tail_gap": 0.04}
    text = table([run | {"seed": 0}, run | {"seed": 1, "tail_gap": 0.02}], 80, DIALOGUES)
    assert "| comal | 0.030 (0.020 to 0.040) | not run |" in text and "| inpo | not run | not run |" in text


def cells(long: tuple = (), short: tuple = ()):
    """Marks a test that is run for every case of the long rows, and for those of the short ones."""
    return pytest.mark.parametrize(("case", "algorithm"), [*product(CASES, long), *product(SHORT, short)])


@pytest.mark.slow
@cells(long=("comal", "onpo"), short=("mpo",))
def test_these_reach_the_equilibrium(median, case, algorithm):
    assert median(case, algorithm, "tail_gap") <= 0.04


@pytest.mark.slow
@cells(long=("inpo",), short=("egpo", "nash-mp", "mnpo"))
def test_these_stay_at_their_own_equilibrium_above_comal(median, case, algorithm):
    assert median(case, algorithm, "tail_gap") == pytest.approx(median(case, algorithm, "own_gap"), abs=0.02)
    assert median(case, algorithm, "kl_own") <= 0.02
    assert median(case, algorithm, "tail_gap") > median(case, "comal", "tail_gap")


@pytest.mark.slow
@cells(long=("iterative-ipo",), short=("sppo", "grpo, rate 3e-4", "grpo, rate 1e-3", "grpo, rate 3e-3"))
def test_these_stay_away(median, case, algorithm):
    assert median(case, algorithm, "tail_gap") > 0.2


@pytest.mark.slow
@cells(long=("nash-md",), short=("online-ipo",))
def test_gradient_methods_are_at_their_fixed_point(median, case, algorithm):
    assert median(case, algorithm, "kl_own") <= 0.05


@pytest.mark.slow
@cells(short=("nash-prox",))
def test_nash_prox_leaves_the_equilibrium_of_its_first_target_behind(median, case, algorithm):
    # That is online IPO's, of a gap of .14 and .17.
    assert median(case, algorithm, "tail_gap") <= 0.06 < median(case, "online-ipo", "own_gap") / 2


@pytest.mark.slow
@pytest.mark.parametrize("case", DIALOGUES)
def test_dialogues(median, case):
    """The start has a gap of .22, INPO's own equilibrium one of .14."""
    assert median(case, "comal", "tail_gap") <= 0.05
    assert median(case, "onpo", "tail_gap") <= 0.07  # one seed of two turns has ended at .051
    assert median(case, "iterative-ipo", "tail_gap") > 0.2
    assert median(case, "inpo", "tail_gap") == pytest.approx(median(case, "inpo", "own_gap"), abs=0.03)
    assert median(case, "inpo", "kl_own") <= 0.03
