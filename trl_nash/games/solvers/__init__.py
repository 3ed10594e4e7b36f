# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
The algorithms on a matrix game, exactly: one function each, in float64 and in log space.

Those of `trl_nash.algorithms` are played by one executor: policies are log-vectors, and a fit around a centre, with
pairs drawn from the opponent ν, has the closed form `π ∝ exp(centre) · exp(η P(· ≻ ν))`. Iterative DPO, SPPO and GRPO
have another loss. They take the game and, as far as they apply,

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
from .direct import iterative_dpo, sppo
from .executor import Pairs, exact_pairs, iterate, solve
from .gradient import grpo
from .regressions import comal, egpo, inpo, mirror_descent, mnpo, mpo, nash_ema, nash_md, nash_mirror_prox, onpo


__all__ = [
    "SOLVERS",
    "Pairs",
    "comal",
    "egpo",
    "exact_pairs",
    "grpo",
    "inpo",
    "iterate",
    "iterative_dpo",
    "mirror_descent",
    "mnpo",
    "mpo",
    "nash_ema",
    "nash_md",
    "nash_mirror_prox",
    "onpo",
    "solve",
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
    "mnpo": mnpo,
    "grpo": grpo,
}
