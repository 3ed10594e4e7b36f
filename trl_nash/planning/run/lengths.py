# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How long the longest of some completions is, of which only the mean length is known."""

import math


STEPS = 256  # of the integral


def longest(mean: float, most: int, rows: float) -> float:
    """
    Tokens of the longest of `rows` completions whose lengths are exponential, cut at a limit.

    Args:
        mean (`float`): of the lengths as they are cut, at least 1.
        most (`int`): the limit.
        rows (`float`): how many there are.

    Returns:
        `float`: The expectation, between `mean` and `most`.
    """
    if rows <= 1 or mean >= most:
        return min(mean, most)
    rate = _rate(mean, most)
    # E[max] is the integral of P(max > t); the midpoint rule.
    width = most / STEPS
    return sum(1 - (1 - math.exp(-rate * (i + 0.5) * width)) ** rows for i in range(STEPS)) * width


def _rate(mean: float, most: int) -> float:
    """The rate of an exponential distribution whose mean, cut at `most`, is `mean`: (1 - exp(-rate most)) / rate."""
    low, high = 0.0, 1 / mean
    for _ in range(60):
        rate = (low + high) / 2
        low, high = (rate, high) if -math.expm1(-rate * most) / rate > mean else (low, rate)
    return high
