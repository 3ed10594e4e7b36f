# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""COMAL: solve a KL-regularised game, move its reference to the solution, repeat."""

from dataclasses import dataclass, field

from accelerate.logging import get_logger

from ..algorithms import Fit, Past, inpo
from ..algorithms.stability import minimum_reference_rounds
from .base import NashTrainer
from .checks.values import scheduled
from .pair_config import PairConfig


logger = get_logger("trl_nash")  # speaks on the main process only


@dataclass
class COMALConfig(PairConfig):
    r"""
    Options of [`COMALTrainer`]. The defaults are those of the paper after its first six iterations.

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `10.0`):
            η, indexed by round: the inverse of the paper's KL coefficient, 0.1. (0.002 in its first six iterations,
            each of which is a round here: `[500.0] * 6 + [10.0]`.)
        beta (`float` or `list[float]`, *optional*, defaults to `1/30`):
            τ of the regularised game, indexed by epoch. `step_size * beta` = ρ = 1/3 is the paper's ratio.
        reference_rounds (`int`, *optional*, defaults to `6`):
            Rounds after which the reference becomes the current policy. Larger than the run, this is
            [INPO](https://huggingface.co/papers/2407.00617). Too small for ρ it does not converge, and says so;
            2/ρ is a good one as long as the step is below √(ρ(2-ρ))/κ (docs/background/games.md).
        num_generations (`int`, *optional*, defaults to `5`):
            Completions per prompt.

    The other parameters are those of [`PairConfig`].
    """

    regularized = True

    step_size: list[float] = field(
        default_factory=lambda: [10.0],
        metadata={"help": "Step that multiplies the win rate (1 / the paper's KL coefficient), indexed by round."},
    )
    beta: list[float] = field(
        default_factory=lambda: [1 / 30],
        metadata={"help": "KL coefficient of the regularised game, indexed by epoch."},
    )
    reference_rounds: int = field(
        default=6, metadata={"help": "Rounds after which the reference moves to the current policy."}
    )
    num_generations: int = field(default=5, metadata={"help": "K, completions per prompt."})

    def __post_init__(self):
        super().__post_init__()
        rho = scheduled(self.step_size, 10**9) * scheduled(self.beta, 10**9)
        if rho > 0 and self.reference_rounds < (needed := minimum_reference_rounds(rho)):
            logger.warning(
                "`reference_rounds=%d` is too few for step_size * beta = %.3g: COMAL then cycles instead of "
                "converging. Use at least %d (better %d).",
                self.reference_rounds,
                rho,
                needed,
                -int(-2 // rho),
            )

    def fits_of(self, past: Past) -> list[Fit]:
        # `past.reference` moves every `reference_rounds` rounds: this is all that sets COMAL apart from INPO.
        return inpo(past, **self.step_and_beta(past))


class COMALTrainer(NashTrainer):
    r"""
    Trainer for COMAL, convergent meta alignment ([2410.23223](https://huggingface.co/papers/2410.23223)).

    The inner game is solved by K rounds of INPO with a fixed reference, ρ = η τ,

    `π_{t+1} ∝ ref^ρ π_t^{1-ρ} exp(η P(· ≻ π_t))`,

    each fitted as the least squares of [`NashTrainer`]; then `ref <- π_t` and the next game begins. The KL divergence
    from the Nash policy never increases, and the last iterate converges to it.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "comal"]
    _name = "COMAL"
    _paper = {
        "title": "COMAL: A Convergent Meta-Algorithm for Aligning LLMs with General Preferences",
        "id": "2410.23223",
        "citation": """\
@article{liu2024comal,
    title  = {{COMAL: A Convergent Meta-Algorithm for Aligning LLMs with General Preferences}},
    author = {Yixin Liu and Argyris Oikonomou and Weiqiang Zheng and Yang Cai and Arman Cohan},
    year   = 2024,
    eprint = {arXiv:2410.23223}
}""",
    }
    config_class = COMALConfig
    assumes_fitted_rounds = True
