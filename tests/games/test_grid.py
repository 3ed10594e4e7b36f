# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The full grid of benchmarks/language_games.py, run anew: medians of three seeds against what the theory says."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "language_games.py"
CASES = ("one token", "LoRA", "two tokens", "two games")


@pytest.fixture(scope="module")
def median(tmp_path_factory):
    output = tmp_path_factory.mktemp("grid") / "grid.json"
    subprocess.run([sys.executable, BENCHMARK, "--output", output], check=True)
    results = json.loads(output.read_text())["results"]

    def find(case: str, algorithm: str, value: str) -> float:
        found = [r[value] for r in results if (r["case"], r["algorithm"]) == (case, algorithm)]
        assert len(found) == 3
        return float(np.median(found))

    return find


@pytest.mark.slow
@pytest.mark.parametrize(("case", "algorithm"), list(product(CASES, ("comal", "onpo"))))
def test_comal_and_onpo_reach_the_equilibrium(median, case, algorithm):
    assert median(case, algorithm, "tail_gap") <= 0.04


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_inpo_stays_at_its_own_equilibrium_above_comal(median, case):
    assert median(case, "inpo", "tail_gap") == pytest.approx(median(case, "inpo", "own_gap"), abs=0.02)
    assert median(case, "inpo", "kl_own") <= 0.02
    assert median(case, "inpo", "tail_gap") > median(case, "comal", "tail_gap")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_iterative_ipo_stays_away(median, case):
    assert median(case, "iterative-ipo", "tail_gap") > 0.2


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_nash_md_is_at_its_fixed_point(median, case):
    assert median(case, "nash-md", "kl_own") <= 0.05
