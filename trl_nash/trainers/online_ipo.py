# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Online IPO, and IPO-MD: gradient steps on pairs around the initial policy."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, regularized_response
from .base import NashTrainer
from .checks.values import check_one_policy, collapse, scheduled
from .pair_config import PairConfig


@dataclass
class OnlineIPOConfig(PairConfig):
    r"""
    Options of [`OnlineIPOTrainer`]. The defaults are the paper's best.

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `1.0`):
            η = 1/τ, indexed by round: the inverse of IPO's `tau`.
        mixture_coef (`float` or `list[float]`, *optional*, defaults to `0.0`):
            Weight of the reference in the policy `π^{1-c} ref^c` that the pairs are sampled from, indexed by epoch. 0
            is online IPO; the paper's IPO-MD has 0.125.

    The other parameters are those of [`PairConfig`]. The default round is one optimizer step: keep it short.
    """

    step_size: list[float] = field(
        default_factory=lambda: [1.0],
        metadata={"help": "Step that multiplies the win rate (1 / IPO's tau), indexed by round."},
    )
    mixture_coef: list[float] = field(
        default_factory=lambda: [0.0],
        metadata={"help": "Weight of the reference in the policy that is sampled from, indexed by epoch."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.mixture_coef = collapse(self.mixture_coef)
        check_one_policy(self)

    def fits_of(self, past: Past) -> list[Fit]:
        step_size, mixture_coef = self.step_size_of(past), scheduled(self.mixture_coef, past.epoch)
        beta = 1 / step_size if step_size else float("inf")
        return regularized_response(past, beta=beta, mixture_coef=mixture_coef)


class OnlineIPOTrainer(NashTrainer):
    r"""
    Trainer for online IPO and IPO-MD ([2403.08635](https://huggingface.co/papers/2403.08635)).

    The policy follows the gradient of the least squares of [`NashTrainer`] around the initial policy,

    `E ( log π(y)/π(y') - log ref(y)/ref(y') - (P(y ≻ y') - ½)/τ )²`,

    over pairs that are sampled anew from `π^{1-c} ref^c` (per token, no gradient). At c = 0 it is in expectation the
    gradient of [`NashMDTrainer`]'s self-play, whose fixed point is the equilibrium regularised with τ; at c > 0 the
    mixture is the equilibrium regularised with τ/(1-c).

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "online-ipo"]
    _name = "Online IPO"
    _paper = {
        "title": "Human Alignment of Large Language Models through Online Preference Optimisation",
        "id": "2403.08635",
        "citation": """\
@article{calandriello2024human,
    title  = {{Human Alignment of Large Language Models through Online Preference Optimisation}},
    author = {Daniele Calandriello and Daniel Guo and R{\\'e}mi Munos and Mark Rowland and Yunhao Tang and
              Bernardo Avila Pires and Pierre Harvey Richemond and Charline Le Lan and Michal Valko and Tianqi Liu and
              Rishabh Joshi and Zeyu Zheng and Bilal Piot},
    year   = 2024,
    eprint = {arXiv:2403.08635}
}""",
    }
    config_class = OnlineIPOConfig
