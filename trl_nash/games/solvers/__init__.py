# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
The algorithms on a matrix game, exactly: one function each, in float64 and in log space.

All but iterative DPO and SPPO are built of one step, the fit of a policy to pairs of answers. Around an anchor `a(y)`,
with pairs drawn from the opponent ν,

`argmin_π E_{y₁,y₂~ν} ( (log π(y₁) - a(y₁)) - (log π(y₂) - a(y₂)) - η (P(y₁≻y₂) - ½) )²  ∝  exp(a) · exp(η P(· ≻ ν))`.

They take the game and, as far as they apply,

    start (`ArrayLike` of shape `(N,)`): π_0, which gives every answer.
    reference (`ArrayLike` of shape `(N,)`, *optional*): ref of the regularised game; the start if left out.
    rounds (`int`): T, updates of the policy.
    step_size (`float`): η, which multiplies win rates.
    beta (`float`): τ, the price of a nat of KL from the reference, in units of win rate.
    pairs (`Pairs`, *optional*): how steps are fitted; exactly if left out, see [`SampledPairs`] for sampled pairs.

return a [`History`], and raise `ValueError` on a setting out of its range and on a step that overflows.
"""

from collections.abc import Callable

from ..history import History
from .base import Fit, Pairs, exact_pairs
from .direct import iterative_dpo, sppo
from .original import comal, mirror_descent, mpo, onpo
from .regularized import (
    egpo,
    egpo_update,
    inpo,
    inpo_update,
    nash_ema,
    nash_md,
    nash_md_update,
    nash_mirror_prox,
    nash_mirror_prox_update,
)


__all__ = [
    "SOLVERS",
    "Fit",
    "Pairs",
    "comal",
    "egpo",
    "egpo_update",
    "exact_pairs",
    "inpo",
    "inpo_update",
    "iterative_dpo",
    "mirror_descent",
    "mpo",
    "nash_ema",
    "nash_md",
    "nash_md_update",
    "nash_mirror_prox",
    "nash_mirror_prox_update",
    "onpo",
    "sppo",
]

# What the algorithms are called on the command line.
SOLVERS: dict[str, Callable[..., History]] = {
    "iterative-ipo": mirror_descent,
    "iterative-dpo": iterative_dpo,
    "sppo": sppo,
    "inpo": inpo,
    "onpo": onpo,
    "comal": comal,
    "nash-md": nash_md,
    "nash-ema": nash_ema,
    "egpo": egpo,
    "nash-mp": nash_mirror_prox,
    "mpo": mpo,
}
