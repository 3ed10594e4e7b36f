# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""MPO: mirror descent that is drawn to a magnet, which moves to the policy from time to time."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, mpo
from .base import NashTrainer
from .pair_config import PairConfig


@dataclass
class MPOConfig(PairConfig):
    r"""
    Options of [`MPOTrainer`].

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `2.0`):
            η, indexed by round.
        beta (`float` or `list[float]`, *optional*, defaults to `0.1`):
            τ, the pull of the magnet, indexed by epoch.
        reference_rounds (`int`, *optional*, defaults to `10`):
            T_k, rounds after which the magnet becomes the current policy. 2/ρ is a good one.

    The other parameters are those of [`PairConfig`].
    """

    regularized = True
    limits_rho = False  # the KL to the magnet is not linearised

    step_size: list[float] = field(
        default_factory=lambda: [2.0], metadata={"help": "Step that multiplies the win rate, indexed by round."}
    )
    beta: list[float] = field(
        default_factory=lambda: [0.1],
        metadata={"help": "KL coefficient of the regularised game, indexed by epoch."},
    )
    reference_rounds: int = field(
        default=10, metadata={"help": "Rounds after which the magnet moves to the current policy."}
    )

    def __post_init__(self):
        super().__post_init__()

    def fits_of(self, past: Past) -> list[Fit]:
        return mpo(past, **self.step_and_beta(past))


class MPOTrainer(NashTrainer):
    r"""
    Trainer for MPO, magnetic preference optimization ([2410.16714](https://huggingface.co/papers/2410.16714)).

    With ρ = η τ and the magnet μ, each round fits, as the least squares of [`NashTrainer`],

    `π_{t+1} ∝ (μ^ρ π_t exp(η P(· ≻ π_t)))^{1/(1+ρ)}`;

    every T_k rounds `μ <- π_t`. The last iterate converges to an equilibrium of the game itself.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "mpo"]
    _name = "MPO"
    _paper = {
        "title": "Magnetic Preference Optimization: Achieving Last-iterate Convergence for Language Model Alignment",
        "id": "2410.16714",
        "citation": """\
@article{wang2024magnetic,
    title  = {{Magnetic Preference Optimization: Achieving Last-iterate Convergence for Language Model Alignment}},
    author = {Mingzhi Wang and Chengdong Ma and Qizhi Chen and Linjian Meng and Yang Han and Jiancong Xiao and
              Zhaowei Zhang and Jing Huo and Weijie J. Su and Yaodong Yang},
    year   = 2024,
    eprint = {arXiv:2410.16714}
}""",
    }
    config_class = MPOConfig
    assumes_fitted_rounds = True
