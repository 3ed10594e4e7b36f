# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A round of any method on policies that are vectors: log-probabilities, or deviations from an equilibrium."""

from collections.abc import Callable, Mapping
from typing import Any

from .fit import AVERAGE, Method, Past, Policy, needed


Vector = Any
"""Whatever can be added, and multiplied by a number."""
Pairs = Callable[[Vector], Callable[[Vector, float], Vector]]
"""`pairs(opponent)` draws pairs; `pairs(opponent)(centre, step_size)` is the policy that is fitted to them."""


def play_round(
    method: Method, past: Past, policies: dict[Policy, Vector], pairs: Pairs, ema_decay: float = 0.9
) -> None:
    """
    Plays a round: draws pairs, makes its fits, and forgets what no later fit names.

    Args:
        method (`Method`): whose round it is.
        past (`Past`): what came before it.
        policies (`dict[Policy, Vector]`):
            Those that its fits name. Afterwards those that are needed after it, and `past.next.now`.
        pairs (`Pairs`): fits which draw from the policy at the start of the round share what it gives for that.
        ema_decay (`float`, *optional*, defaults to `0.9`): d of `past.average`, `d average + (1-d) now`.
    """

    def mixture(weights: Mapping[Policy, float]) -> Vector:
        return sum(weight * policies[policy] for policy, weight in weights.items())

    fits = method(past)
    of_the_round = pairs(policies[past.now]) if any(fit.pairs_from is None for fit in fits) else None
    for number, fit in enumerate(fits):
        fitter = of_the_round if fit.pairs_from is None else pairs(mixture(fit.pairs_from))
        assert fitter is not None
        fitted = fitter(mixture(fit.centre), fit.step_size)
        for policy in policies.keys() - needed(method, past, number):
            del policies[policy]
        policies[past.next.now if number == len(fits) - 1 else Policy(past.round, number + 1)] = fitted
    if AVERAGE in policies:
        policies[AVERAGE] = ema_decay * policies[AVERAGE] + (1 - ema_decay) * policies[past.next.now]
