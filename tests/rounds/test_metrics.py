# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The interval of a win rate covers the truth as often as it says."""

import numpy as np
import pytest
from scipy.stats import binomtest, t

from trl_nash.rounds.metrics import Metrics, win_rate_interval


RUNS = 2000  # of which a 95 % interval misses 5 % ± .5 %


def covered(prompt_means: np.ndarray, truth: float) -> float:
    """How often the intervals of simulated runs, whose prompts' win rates are the rows, hold the truth."""
    count = prompt_means.shape[1]
    errors = prompt_means.std(axis=1, ddof=1) / count**0.5
    intervals = [win_rate_interval(*run, count) for run in zip(prompt_means.mean(axis=1), errors, strict=True)]
    return float(np.mean([low <= truth <= high for low, high in intervals]))


@pytest.mark.parametrize("truth", [0.5, 0.65, 0.8])
@pytest.mark.parametrize("count", [16, 32, 64, 128])
@pytest.mark.parametrize("kind", ["alike", "different", "soft"])
def test_it_covers_the_truth_in_95_of_100_runs(kind, count, truth):
    """
    Two hard verdicts on each prompt, where prompts are alike; where they differ, so that a prompt's two verdicts agree
    more often than not (each prompt has a rate from Beta(2p, 2(1 - p)), their correlation is 1/3); and soft verdicts.
    """
    generator = np.random.default_rng([count, int(100 * truth), len(kind)])
    rates = generator.beta(2 * truth, 2 * (1 - truth), (RUNS, count))
    if kind != "soft":
        rates = generator.binomial(2, rates if kind == "different" else truth, (RUNS, count)) / 2
    # 3.5 standard errors of the simulation beside the band of 93 to 97 %.
    assert 0.93 - 0.015 <= covered(rates, truth) <= 0.97 + 0.015


def test_prompts_and_not_pairs_are_independent():
    """Taken for 4n independent verdicts, the same pairs give intervals that miss far more often than they say."""
    generator = np.random.default_rng(0)
    wins = generator.binomial(1, generator.beta(0.5, 0.5, (RUNS, 32, 1)), (RUNS, 32, 4))
    assert covered(wins.mean(2), 0.5) > 0.93
    assert covered(wins.reshape(RUNS, 128), 0.5) < 0.85


@pytest.mark.parametrize("truth", [0.9, 0.95])
def test_near_the_end_it_still_covers(truth):
    """Where mean ± t · error covers 83 % or less, as many runs have prompts that all say the same."""
    generator = np.random.default_rng(1)
    means = generator.binomial(2, truth, (RUNS, 16)) / 2
    half = t.ppf(0.975, 15) * means.std(axis=1, ddof=1) / 4
    assert np.mean(np.abs(means.mean(axis=1) - truth) <= half) < 0.85
    assert covered(means, truth) > 0.95


def test_for_hard_verdicts_of_many_prompts_it_is_wilsons():
    """A thousand prompts of one verdict each, of which 600 win: scipy's interval, but for n - 1 in the error."""
    error = (0.6 * 0.4 / 999) ** 0.5
    wilson = binomtest(600, 1000).proportion_ci(method="wilson")
    assert win_rate_interval(0.6, error, 1000) == pytest.approx((wilson.low, wilson.high), abs=1e-4)


def test_certain_cases():
    """Prompts that all say ½ leave no doubt; sixteen that all say 1 are sixteen verdicts, and leave some."""
    assert win_rate_interval(0.5, 0.0, 16) == (0.5, 0.5)
    low, high = win_rate_interval(1.0, 0.0, 16)
    assert low == pytest.approx(16 / (16 + t.ppf(0.975, 15) ** 2)) and high == 1.0


def test_spans_are_flushed_each_on_its_own():
    """A round of three steps, logged at every second one: the sums of the round are those of both logs."""
    from types import SimpleNamespace

    metrics = Metrics(SimpleNamespace(reduce=lambda tensor, how: tensor, device="cpu"), ("log", "round"))
    metrics.add("x", 1.0)
    metrics.add("x", 2.0)
    assert metrics.flush() == {"x": 1.5}
    metrics.add("x", 6.0)
    metrics.add("y", 4.0, span="round")
    assert metrics.flush(span="round") == {"x": 3.0, "y": 4.0}
    assert metrics.flush() == {"x": 6.0}
