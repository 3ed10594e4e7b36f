# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Nash mirror prox: a proximal half step, and then the same step again, against where the half step has led."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, nash_mirror_prox
from .base import NashTrainer
from .pair_config import PairConfig


@dataclass
class NashMirrorProxConfig(PairConfig):
    r"""
    Options of [`NashMirrorProxTrainer`].

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `2.0`):
            η, indexed by round. 2 is the largest for which the paper's rate holds.
        beta (`float` or `list[float]`, *optional*, defaults to `0.1`):
            τ of the regularised game, indexed by epoch.

    The other parameters are those of [`PairConfig`]. A round samples its prompts twice.
    """

    regularized = True
    limits_rho = False  # the KL to the reference is not linearised

    step_size: list[float] = field(
        default_factory=lambda: [2.0], metadata={"help": "Step that multiplies the win rate, indexed by round."}
    )
    beta: list[float] = field(
        default_factory=lambda: [0.1],
        metadata={"help": "KL coefficient of the regularised game, indexed by epoch."},
    )

    def fits_of(self, past: Past) -> list[Fit]:
        return nash_mirror_prox(past, **self.step_and_beta(past))


class NashMirrorProxTrainer(NashTrainer):
    r"""
    Trainer for Nash mirror prox ([2505.19731](https://huggingface.co/papers/2505.19731), version 1).

    With ρ = η τ, a round fits twice around the same centre, each time to pairs that it samples anew:

    `π_{t+½} ∝ (ref^ρ π_t exp(η P(· ≻ π_t)))^{1/(1+ρ)}`    and
    `π_{t+1} ∝ (ref^ρ π_t exp(η P(· ≻ π_{t+½})))^{1/(1+ρ)}`.

    The KL divergence from the equilibrium of the game regularised around the initial policy shrinks by `1/(1+2τ)` a
    round at η = 2. Its form for gradient steps is [`NashProxTrainer`].

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "nash-mirror-prox"]
    _name = "Nash mirror prox"
    _paper = {
        "title": "Accelerating Nash Learning from Human Feedback via Mirror Prox",
        "id": "2505.19731",
        "citation": """\
@article{tiapkin2025accelerating,
    title  = {{Accelerating Nash Learning from Human Feedback via Mirror Prox}},
    author = {Daniil Tiapkin and Daniele Calandriello and Denis Belomestny and {\\'E}ric Moulines and Alexey Naumov and
              Kashif Rasul and Michal Valko and Pierre M{\\'e}nard},
    year   = 2025,
    eprint = {arXiv:2505.19731}
}""",
    }
    config_class = NashMirrorProxConfig
    assumes_fitted_rounds = True
