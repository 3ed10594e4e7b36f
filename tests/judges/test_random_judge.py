# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from trl_nash.judges import RandomJudge


def test_verdicts_never_change():
    """Pinned: a seed must mean the same judge on every machine, in every process and version."""
    assert RandomJudge(seed=0)(["x"], ["a"], ["b"]) == pytest.approx([0.5806355372116485], abs=1e-12)
    assert RandomJudge(seed=1)(["x"], ["a"], ["b"]) == pytest.approx([0.7642355250108501], abs=1e-12)


def test_verdict_does_not_depend_on_the_batch():
    judge = RandomJudge()
    together = judge(["x", "y", "x"], ["a", "a", "c"], ["b", "b", "d"])
    alone = [judge([x], [a], [b])[0] for x, a, b in [("x", "a", "b"), ("y", "a", "b"), ("x", "c", "d")]]
    assert together == alone
    assert len(set(together)) == 3  # another prompt or pair is another verdict


def test_orders_are_opposite():
    texts = [str(i) for i in range(20)]
    there = RandomJudge().judge(["x"] * 19, texts[:-1], texts[1:])
    back = RandomJudge().judge(["x"] * 19, texts[1:], texts[:-1])
    np.testing.assert_allclose(np.add(there, back), 1.0, atol=1e-15)


def test_uniform():
    """2,000 uniform numbers: mean .5 ± .0065 (one sigma), a tenth of them in each tenth."""
    prompts = [[{"role": "user", "content": str(i)}] for i in range(2000)]
    preference = RandomJudge()(prompts, ["a"] * 2000, ["b"] * 2000)
    assert np.mean(preference) == pytest.approx(0.5, abs=0.02)
    counts, _ = np.histogram(preference, bins=10, range=(0, 1))
    assert counts.min() > 150 and counts.max() < 250
