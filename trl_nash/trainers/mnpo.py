# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""MNPO: a step around several past policies and the reference."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, mnpo
from .base import NashTrainer
from .pair_config import PairConfig


@dataclass
class MNPOConfig(PairConfig):
    r"""
    Options of [`MNPOTrainer`]. The defaults are those of the released code, but for labels, which are soft, and pairs,
    which are all.

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `1 / 0.0075`):
            η, indexed by round: the inverse of the paper's `η = 0.0075`.
        beta (`float` or `list[float]`, *optional*, defaults to `0.0075 / 3`):
            τ of the regularised game, indexed by epoch. `step_size * beta` = ρ = 1/3 is the released code's `ratio`.
        history_weights (`list[float]`, *optional*, defaults to `[0.5, 0.5]`):
            λ, weights of `π_t, π_{t-1} ...` in the centre, which add up to 1. `[1.0]` is [`INPOTrainer`]'s step.
        num_generations (`int`, *optional*, defaults to `5`):
            Completions per prompt.

    The other parameters are those of [`PairConfig`].
    """

    regularized = True

    step_size: list[float] = field(
        default_factory=lambda: [1 / 0.0075],
        metadata={"help": "Step that multiplies the win rate (1 / the paper's eta), indexed by round."},
    )
    beta: list[float] = field(
        default_factory=lambda: [0.0075 / 3],
        metadata={"help": "KL coefficient of the regularised game, indexed by epoch."},
    )
    history_weights: list[float] = field(
        default_factory=lambda: [0.5, 0.5],
        metadata={"help": "Weights of the policy and of those before it in the centre; they add up to 1."},
    )
    num_generations: int = field(default=5, metadata={"help": "K, completions per prompt."})

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.history_weights, (list, tuple)) or abs(sum(self.history_weights) - 1) > 1e-6:
            raise ValueError(f"`history_weights` must be a list that adds up to 1, got {self.history_weights}.")

    def fits_of(self, past: Past) -> list[Fit]:
        return mnpo(past, **self.step_and_beta(past), history_weights=self.history_weights)


class MNPOTrainer(NashTrainer):
    r"""
    Trainer for MNPO, multiplayer Nash preference optimization ([2509.23102](https://huggingface.co/papers/2509.23102)),
    in its time-dependent form (TD-MNPO), in which the other players are the policies of earlier rounds.

    With ρ = η τ and weights λ, each round fits, as the least squares of [`NashTrainer`],

    `π_{t+1} ∝ ref^ρ Π_j π_{t-j}^{(1-ρ)λ_j} exp(η P(· ≻ π_t))`.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "mnpo"]
    _name = "MNPO"
    _paper = {
        "title": "Multiplayer Nash Preference Optimization",
        "id": "2509.23102",
        "citation": """\
@article{wu2025multiplayer,
    title  = {{Multiplayer Nash Preference Optimization}},
    author = {Fang Wu and Xu Huang and Weihao Xuan and Zhiwei Zhang and Yijia Xiao and Guancheng Wan and Xiaomin Li and
              Bing Hu and Peng Xia and Jure Leskovec and Yejin Choi},
    year   = 2025,
    eprint = {arXiv:2509.23102}
}""",
    }
    config_class = MNPOConfig
    assumes_fitted_rounds = True
