# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Pairings at equal judge calls, in three games: a short run of benchmarks/pairings.py."""

import math
import sys
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from pairings import errors, games  # noqa: E402


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
