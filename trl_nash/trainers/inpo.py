# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""INPO: mirror descent towards the equilibrium of a game that is regularised around the initial policy."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, inpo
from .base import NashTrainer
from .pair_config import PairConfig


@dataclass
class INPOConfig(PairConfig):
    r"""
    Options of [`INPOTrainer`]. The defaults are the paper's, but for labels, which are soft, and pairs, which are all.

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `200.0`):
            η, indexed by round: the inverse of the paper's `η = 0.005`.
        beta (`float` or `list[float]`, *optional*, defaults to `0.005 / 3`):
            τ of the regularised game, indexed by epoch. `step_size * beta` = ρ = 1/3 is the paper's ratio.
        num_generations (`int`, *optional*, defaults to `8`):
            Completions per prompt. The paper trains on the best against the worst of them
            (`pair_selection="tournament"`).

    The other parameters are those of [`PairConfig`].
    """

    regularized = True

    step_size: list[float] = field(
        default_factory=lambda: [200.0],
        metadata={"help": "Step that multiplies the win rate (1 / the paper's eta), indexed by round."},
    )
    beta: list[float] = field(
        default_factory=lambda: [0.005 / 3],
        metadata={"help": "KL coefficient of the regularised game, indexed by epoch."},
    )
    num_generations: int = field(default=8, metadata={"help": "K, completions per prompt."})

    def fits_of(self, past: Past) -> list[Fit]:
        return inpo(past, **self.step_and_beta(past))


class INPOTrainer(NashTrainer):
    r"""
    Trainer for INPO, iterative Nash policy optimization ([2407.00617](https://huggingface.co/papers/2407.00617)).

    With ρ = η τ, each round fits, as the least squares of [`NashTrainer`],

    `π_{t+1} ∝ ref^ρ π_t^{1-ρ} exp(η P(· ≻ π_t))`.

    It converges to the equilibrium of the game regularised around `ref`, the initial policy, with τ: not to that of
    the game itself, as [`COMALTrainer`] does by moving the reference.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "inpo"]
    _name = "INPO"
    _paper = {
        "title": "Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning",
        "id": "2407.00617",
        "citation": """\
@article{zhang2024iterative,
    title  = {{Iterative Nash Policy Optimization: Aligning LLMs with General Preferences via No-Regret Learning}},
    author = {Yuheng Zhang and Dian Yu and Baolin Peng and Linfeng Song and Ye Tian and Mingyue Huo and Nan Jiang and
              Haitao Mi and Dong Yu},
    year   = 2024,
    eprint = {arXiv:2407.00617}
}""",
    }
    config_class = INPOConfig
    assumes_fitted_rounds = True
