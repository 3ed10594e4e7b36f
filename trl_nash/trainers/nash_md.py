# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Nash-MD: policy gradient against an opponent that lies between the policy and its reference."""

from dataclasses import dataclass, field
from itertools import product

import torch

from ..algorithms import Fit, Past, average_response, regularized_response
from ..objectives import leave_one_out_advantage, policy_gradient_loss
from ..rounds.batch import PairBatch, Samples
from .base import NashTrainer
from .checks.values import check_choice, check_on_policy, check_one_policy, collapse, scheduled
from .policy_gradient import PolicyGradientConfig


@dataclass
class NashMDConfig(PolicyGradientConfig):
    r"""
    Options of [`NashMDTrainer`]. The defaults are the paper's best.

    Parameters:
        beta (`float` or `list[float]`, *optional*, defaults to `0.008`):
            τ, the KL coefficient, indexed by epoch.
        mixture_coef (`float` or `list[float]`, *optional*, defaults to `0.125`):
            Weight of the reference in the opponent `π^{1-c} μ^c`, indexed by epoch. 0 is self-play, 1 is the best
            response to the reference.
        opponent (`str`, *optional*, defaults to `"mixture"`):
            `"mixture"` is Nash-MD; `"ema"` is Nash-EMA, whose opponent has the moving average of the policy's weights.
        ema_decay (`float`, *optional*, defaults to `0.999`):
            Decay of that average per round.

    The other parameters are those of [`PolicyGradientConfig`].
    """

    regularized = True

    beta: list[float] = field(default_factory=lambda: [0.008], metadata={"help": "KL coefficient, indexed by epoch."})
    mixture_coef: list[float] = field(
        default_factory=lambda: [0.125],
        metadata={"help": "Weight of the reference in the opponent, indexed by epoch."},
    )
    opponent: str = field(
        default="mixture", metadata={"help": "Who the policy plays against.", "choices": ["mixture", "ema"]}
    )
    ema_decay: float = field(default=0.999, metadata={"help": "Decay of the weights' average per round."})

    def __post_init__(self):
        super().__post_init__()
        check_choice("opponent", self.opponent, ["mixture", "ema"])
        self.mixture_coef = collapse(self.mixture_coef)
        check_on_policy(self)
        if self.opponent == "mixture":
            check_one_policy(self)

    def fits_of(self, past: Past) -> list[Fit]:
        if self.opponent == "ema":
            return average_response(past, beta=self.beta_of(past))
        mixture_coef = scheduled(self.mixture_coef, past.epoch)
        return regularized_response(past, beta=self.beta_of(past), mixture_coef=mixture_coef)


class NashMDTrainer(NashTrainer):
    r"""
    Trainer for Nash-MD, mirror descent against a regularised opponent
    ([2312.00886](https://huggingface.co/papers/2312.00886)).

    `y ~ π_θ` plays `y' ~ π_θ^{1-c} μ^c` (per token, no gradient), and the policy follows

    `∇log π_θ(y) · ( P(y ≻ y') - ½ - τ log π_θ(y)/μ(y) )`

    with the KL term as reward-to-go, and a leave-one-out baseline over the K samples of a prompt.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "nash-md"]
    _name = "Nash-MD"
    _paper = {
        "title": "Nash Learning from Human Feedback",
        "id": "2312.00886",
        "citation": """\
@inproceedings{munos2024nash,
    title     = {{Nash Learning from Human Feedback}},
    author    = {R{\\'e}mi Munos and Michal Valko and Daniele Calandriello and Mohammad Gheshlaghi Azar and Mark
                 Rowland and Zhaohan Daniel Guo and Yunhao Tang and Matthieu Geist and Thomas Mesnard and
                 C{\\^o}me Fiegel and Andrea Michi and Marco Selvi and Sertan Girgin and Nikola Momchev and
                 Olivier Bachem and Daniel J. Mankowitz and Doina Precup and Bilal Piot},
    year      = 2024,
    booktitle = {Forty-first International Conference on Machine Learning},
    eprint    = {arXiv:2312.00886}
}""",
    }
    config_class = NashMDConfig

    @property
    def trains_on_policy(self) -> bool:
        return True  # the opponent's completions are not trained on

    def sample_pairs(self, prompts: list) -> Samples:
        count = self.args.num_generations
        prompt_ids, own = self.generate(prompts, count)
        beside = self.sampler.beside
        _, others = self.generate(prompts, count, self.opponent)
        pairs = list(product(range(count), range(count, 2 * count)))
        return Samples(prompt_ids, own, pairs, **beside).against(others, self.sampler.beside)

    def objective(self, logps: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        count = self.args.num_generations
        advantage = leave_one_out_advantage(batch.preference.view(-1, count, count))
        weights = 1.0 if batch.sampled_logps is None else self.args.importance(logps, batch)
        losses = policy_gradient_loss(logps, batch.centre_logps, advantage.flatten(), self.beta, weights)
        return losses.view(-1, count).mean(-1)
