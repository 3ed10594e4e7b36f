# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Pairings at equal judge calls, in three games: a short run of benchmarks/pairings.py."""

import json
import math

import pytest

from benchmarks import RESULTS
from benchmarks.judge_concurrency import QUALITY, correlation, smallest
from benchmarks.pairings import errors, games
from trl_nash.rounds.pairings import PAIR_SELECTIONS


@pytest.mark.parametrize("label", ["soft", "sampled"])
@pytest.mark.parametrize("name", games())
def test_active_pairs_are_no_worse_than_random_ones_at_equal_judge_calls(name, label):
    """By two deviations of the difference. On the rewards a Swiss tournament is worse by more than that."""
    game, settings = games()[name], {"label": label, "calls": 300, "rounds": 60}
    active, random = (errors(game, selection, **settings) for selection in ("active", "random"))
    assert active["calls"] == pytest.approx(random["calls"], rel=0.03)
    noise = 2 * math.hypot(active["deviation"], random["deviation"])
    assert active["error"] < random["error"] + noise < 2 * random["error"]
    if name == "reward":
        assert errors(game, "swiss", **settings)["error"] > random["error"] + noise


def test_what_is_said_of_pairings_at_equal_quality_is_what_they_do():
    """The rank correlations that docs/guides/pairings.md quotes of judge_concurrency.py, without its server."""
    quoted = json.loads((RESULTS / "judge_concurrency.json").read_text())["round"]["results"]
    found = {entry["pairing"]: smallest(entry["pairing"]) for entry in quoted if "correlation" in entry}
    assert set(found) == set(PAIR_SELECTIONS)
    for entry in quoted:
        if pairing := found.get(entry["pairing"]):
            assert pairing.calls(8) == entry["pairs_per_prompt"]
            assert correlation(pairing) == pytest.approx(entry["correlation"], abs=6e-4)
    assert all(correlation(found[name]) >= QUALITY for name in ("random", "active", "swiss", "elimination"))
