# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats

from trl_nash.evaluation.measures import agreement, count_cycles, measure
from trl_nash.evaluation.plots import histogram_figure, wilson
from trl_nash.objectives import cycle_rate


def records_of(preference, pairs):
    """Judgements of rows of completions that all differ."""
    return [
        {"row": row, "first_index": i, "second_index": j, "first": f"{i}", "second": f"{j}", "preference": p}
        | {"abstained": None if p is not None and p == p else "no opinion"}
        for row, values in enumerate(preference)
        for (i, j), p in zip(pairs, values, strict=True)
    ]


def test_cycle_rate_is_that_of_training():
    rng = np.random.default_rng(0)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    preference = rng.choice([0.0, 0.3, 0.5, 0.9, np.nan], size=(40, 10), p=[0.3, 0.3, 0.05, 0.3, 0.05])
    cycles, triples = count_cycles(records_of(preference, pairs))
    assert triples > 100
    assert cycles / triples == pytest.approx(cycle_rate(torch.tensor(preference), torch.tensor(pairs), 5).item())
    cycle = [(0, 1), (0, 2), (1, 2)]
    assert count_cycles(records_of([[1.0, 0.0, 1.0], [1.0, 1.0, 1.0]], cycle)) == (1, 2)


def test_cycle_rate_by_enumeration():
    """A triple is a cycle if each of its three completions beats one of the others; rows differ in K."""
    rng = np.random.default_rng(4)
    records, cycles, triples = [], 0, 0
    for row, count in enumerate(rng.integers(2, 6, 60)):
        p = {(i, j): rng.choice([0.0, 0.4, 0.5, 1.0, np.nan]) for i, j in combinations(range(count), 2)}
        records += [
            {"row": row, "first_index": i, "second_index": j, "preference": None if math.isnan(v) else v}
            for (i, j), v in p.items()
        ]
        for triple in combinations(range(count), 3):
            if not any(math.isnan(p[pair]) for pair in combinations(triple, 2)):
                winners = {i if p[i, j] > 0.5 else j for i, j in combinations(triple, 2) if p[i, j] != 0.5}
                triples += 1
                cycles += len(winners) == 3
    rng.shuffle(records)
    assert cycles > 5
    assert count_cycles(records) == (cycles, triples)


def test_measures_do_not_depend_on_which_is_called_first():
    rng = np.random.default_rng(1)
    p, swap = rng.random(200), rng.random(200) < 0.5
    texts = [("x" * a, "y" * b) for a, b in rng.integers(1, 9, (200, 2))]

    def figures(p, texts):
        return measure(
            [
                {"row": row, "first_index": 0, "second_index": 1, "first": a, "second": b}
                | {"preference": value, "abstained": None}
                for row, (value, (a, b)) in enumerate(zip(p, texts, strict=True))
            ]
        )

    one = figures(p, texts)
    other = figures(np.where(swap, 1 - p, p), [t[::-1] if s else t for t, s in zip(texts, swap, strict=True)])
    for key in ("ties", "longer_wins", "length_correlation", "length_coefficient"):
        assert one[key] == pytest.approx(other[key])
    x = np.array([(len(a) - len(b)) / (len(a) + len(b)) for a, b in texts])
    both_ways = np.concatenate([x, -x]), np.concatenate([p, 1 - p])
    assert one["length_correlation"] == pytest.approx(stats.pearsonr(*both_ways).statistic)
    assert one["longer_wins"] == pytest.approx(np.where(x > 0, p, 1 - p)[x != 0].mean())

    y = rng.random(200)
    there, back = agreement(p, y), agreement(np.where(swap, 1 - p, p), np.where(swap, 1 - y, y))
    assert there.pop("calibration")[3] == pytest.approx(back.pop("calibration")[3])
    assert there == pytest.approx(back)


def test_agreement_by_hand():
    p, y = np.array([0.9, 0.6, 0.5, 0.2, np.nan, 0.7]), np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.5])
    found = agreement(p, y)
    assert (found["pairs"], found["decided"]) == (5, 4)
    assert found["accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.04 + 0.04) / 5)
    logs = [math.log(0.9), math.log(0.4), math.log(0.5), math.log(0.8), (math.log(0.7) + math.log(0.3)) / 2]
    assert found["log_loss"] == pytest.approx(-sum(logs) / 5)
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0 + 0.2 + 0.2) / 5)
    assert [(b["pairs"], b["right"]) for b in found["calibration"]] == [(1, 0.5), (1, 0.0), (1, 0.5), (1, 1), (1, 1)]


def test_calibrated_judges_are_found_calibrated():
    rng = np.random.default_rng(2)
    p = rng.random(20_000)
    y = (rng.random(20_000) < p).astype(float)
    assert agreement(p, y)["ece"] < 0.015
    assert agreement(np.sqrt(p), y)["ece"] > 0.05


def test_wilson_is_scipys():
    low, high = wilson(np.array([0.3, 1.0]), np.array([10, 4]))
    for k, n, a, b in ((3, 10, low[0], high[0]), (4, 4, low[1], high[1])):
        interval = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert (a, b) == pytest.approx((interval.low, interval.high))


def test_ticks_of_the_histogram_say_where_they_are():
    (axes,) = histogram_figure({"judge": np.clip(np.linspace(-0.2, 1.2, 99), 0, 1)}).axes
    ticks = axes.get_yticks()
    shown = axes.yaxis.get_major_formatter().format_ticks(ticks)
    assert [float(text.rstrip("%")) / 100 for text in shown] == pytest.approx(ticks.tolist())


def test_error_of_the_mean_takes_rows_together():
    rng = np.random.default_rng(3)
    pairs = [(0, 1), (0, 2), (1, 2)]
    alike = np.repeat(rng.random((50, 1)), 3, axis=1)  # three copies of one answer are not three answers
    assert measure(records_of(alike, pairs))["standard_error"] == pytest.approx(stats.sem(alike[:, 0]))
