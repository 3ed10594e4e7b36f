# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is said of a pool: the interval of the worst win rate."""

import numpy as np
import pytest

from trl_nash.evaluation.pool.game import WIN_RATE_WORST, PoolGame
from trl_nash.evaluation.pool.report import evaluations
from trl_nash.evaluation.rows import Row


@pytest.mark.parametrize("opponents", [1, 12])
def test_the_interval_of_the_worst_win_rate_covers_the_truth(opponents):
    """The worst of twelve that are all ½ is an unlucky one: its own interval is below ½ in a quarter of the runs."""
    generator, prompts = np.random.default_rng(opponents), 48
    names = [f"round_{k}" for k in range(opponents)]
    rows = [Row(index, "", [], {}) for index in range(prompts)]
    covered = []
    for _ in range(200):
        game = PoolGame()
        game.begin(rows, [str(row.index) for row in rows], "", "")
        game.current = "policy"
        for name in names:
            for row in rows:
                game.add("policy", name, row.index, float(generator.random() < 0.5))
        metrics = {f"eval_{name}": value for name, value in game.metrics(names).items()}
        (point,) = evaluations([{"step": 3} | metrics], "eval", 3)
        assert point["worst"] == metrics[f"eval_{WIN_RATE_WORST}"] and len(point["opponents"]) == opponents
        covered.append(point["low"] <= 0.5 <= point["high"])
    assert np.mean(covered) >= 0.93
