# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Nash Prox: a policy gradient in self-play, with a KL to a target that follows slowly."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, regularized_response
from .checks.values import check_on_policy
from .nash_md import NashMDTrainer
from .policy_gradient import PolicyGradientConfig


@dataclass
class NashProxConfig(PolicyGradientConfig):
    r"""
    Options of [`NashProxTrainer`].

    Parameters:
        beta (`float` or `list[float]`, *optional*, defaults to `0.1`):
            Coefficient of the KL to the target, indexed by epoch.
        reference_rounds (`int`, *optional*, defaults to `100`):
            K, rounds (which are optimizer steps) after which the target becomes the current policy. Larger than the
            run, the target stays the initial policy.

    The other parameters are those of [`PolicyGradientConfig`].
    """

    regularized = True

    beta: list[float] = field(default_factory=lambda: [0.1], metadata={"help": "KL coefficient, indexed by epoch."})
    reference_rounds: int = field(
        default=100, metadata={"help": "Rounds after which the target moves to the current policy."}
    )

    def __post_init__(self):
        super().__post_init__()
        check_on_policy(self)

    def fits_of(self, past: Past) -> list[Fit]:
        return regularized_response(past, beta=self.beta_of(past))


class NashProxTrainer(NashMDTrainer):
    r"""
    Trainer for Nash Prox ([2505.19731](https://huggingface.co/papers/2505.19731), version 2): a policy gradient in
    self-play within a proximal point method.

    `y` and `y'` are both sampled from `π_θ`, and the policy follows [`NashMDTrainer`]'s gradient,

    `∇log π_θ(y) · ( P(y ≻ y') - ½ - τ log π_θ(y)/π̂(y) )`,

    with the target `π̂ ← π_θ` every K rounds.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "nash-prox"]
    _name = "Nash Prox"
    _paper = {
        "title": "Proximal Point Nash Learning from Human Feedback",
        "id": "2505.19731",
        "citation": """\
@inproceedings{tiapkin2026proximal,
    title     = {{Proximal Point Nash Learning from Human Feedback}},
    author    = {Daniil Tiapkin and Daniele Calandriello and Denis Belomestny and {\\'E}ric Moulines and Alexey Naumov
                 and Kashif Rasul and Michal Valko and Pierre M{\\'e}nard},
    year      = 2026,
    booktitle = {Conference on Learning Theory},
    eprint    = {arXiv:2505.19731}
}""",
    }
    config_class = NashProxConfig
