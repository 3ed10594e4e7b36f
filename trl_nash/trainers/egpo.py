# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""EGPO: a half step, and then the same step again, against the policy that the half step has led to."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, egpo
from .base import NashTrainer
from .pair_config import PairConfig


@dataclass
class EGPOConfig(PairConfig):
    r"""
    Options of [`EGPOTrainer`].

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `1.0`):
            η, indexed by round. Exact fits spiral out from a step of about 1/κ on (docs/background/games.md).
        beta (`float` or `list[float]`, *optional*, defaults to `0.1`):
            τ of the regularised game, indexed by epoch: the released code's. `step_size * beta` must not exceed 1.

    The other parameters are those of [`PairConfig`]. A round samples its prompts twice.
    """

    regularized = True

    step_size: list[float] = field(
        default_factory=lambda: [1.0], metadata={"help": "Step that multiplies the win rate, indexed by round."}
    )
    beta: list[float] = field(
        default_factory=lambda: [0.1],
        metadata={"help": "KL coefficient of the regularised game, indexed by epoch."},
    )

    def fits_of(self, past: Past) -> list[Fit]:
        return egpo(past, **self.step_and_beta(past))


class EGPOTrainer(NashTrainer):
    r"""
    Trainer for EGPO, extragradient preference optimization ([2503.08942](https://huggingface.co/papers/2503.08942)).

    With ρ = η τ, a round fits twice around the same centre, each time to pairs that it samples anew:

    `π_{t+½} ∝ ref^ρ π_t^{1-ρ} exp(η P(· ≻ π_t))`    and    `π_{t+1} ∝ ref^ρ π_t^{1-ρ} exp(η P(· ≻ π_{t+½}))`.

    The last iterate converges linearly to the equilibrium of the game regularised around `ref`, the initial policy.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "egpo"]
    _name = "EGPO"
    _paper = {
        "title": "Extragradient Preference Optimization (EGPO): Beyond Last-Iterate Convergence for Nash Learning "
        "from Human Feedback",
        "id": "2503.08942",
        "citation": """\
@article{zhou2025extragradient,
    title  = {{Extragradient Preference Optimization (EGPO): Beyond Last-Iterate Convergence for Nash Learning from
              Human Feedback}},
    author = {Runlong Zhou and Maryam Fazel and Simon S. Du},
    year   = 2025,
    eprint = {arXiv:2503.08942}
}""",
    }
    config_class = EGPOConfig
    assumes_fitted_rounds = True
