# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the trainers can be told that regress log-ratios of pairs to preferences."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..algorithms import Fit, Past, iterative_ipo
from ..rounds.pairings import PAIR_SELECTIONS
from .checks.values import as_list, check_choice, collapse, scheduled
from .config import NashConfig


@dataclass
class PairConfig(NashConfig):
    r"""
    Options of the methods that regress log-ratios to preferences: iterative IPO ([`NashTrainer`]), and all others but
    Nash-MD and Nash Prox.

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `100.0`):
            η, the step that multiplies the win rate, indexed by round (the last one repeats). It is the *inverse* of
            the `eta` that INPO and COMAL print. `step_size * beta` must not exceed 1.
        preference_label (`str`, *optional*, defaults to `"soft"`):
            `"soft"` trains on the probability, `"sampled"` on a draw from it, `"argmax"` on the winner (another game).
        pair_selection (`str`, *optional*, defaults to `"all"`):
            Which of the K completions are paired. Exact in expectation: `"all"` K(K-1)/2, `"iid"` floor(K/2) disjoint
            pairs, `"random"` `pairs_per_prompt` of all, `"circular"` a ring of K, `"active"` `pairs_per_prompt` of the
            least certain, weighted. Biased where preferences do not add up: `"swiss"` and `"elimination"`; and under a
            noisy judge too: `"best_worst"` the best against the worst by win rate, `"tournament"` the same by
            knock-out (INPO's: 11 comparisons instead of 28 for K = 8).
        pairs_per_prompt (`int`, *optional*):
            M, pairs of a prompt that the judge is asked, of `pair_selection="random"` and `"active"`.

    The other parameters are those of [`NashConfig`].
    """

    limits_rho: ClassVar[bool] = True  # whether `step_size * beta` is the weight of the reference in the centre

    step_size: list[float] = field(
        default_factory=lambda: [100.0],
        metadata={"help": "Step that multiplies the win rate (1/eta in INPO and COMAL), indexed by round."},
    )
    preference_label: str = field(
        default="soft",
        metadata={"help": "What a preference is trained as.", "choices": ["soft", "sampled", "argmax"]},
    )
    pair_selection: str = field(
        default="all",
        metadata={"help": "Which completions are paired.", "choices": list(PAIR_SELECTIONS)},
    )
    pairs_per_prompt: int | None = field(
        default=None, metadata={"help": "Pairs of a prompt that are judged, of pair_selection random and active."}
    )

    def __post_init__(self):
        super().__post_init__()
        self.step_size = collapse(self.step_size)
        check_choice("preference_label", self.preference_label, ["soft", "sampled", "argmax"])
        check_choice("pair_selection", self.pair_selection, PAIR_SELECTIONS)
        self.pairing.check(self.num_generations)
        # One goes by round, the other by epoch: what meets in between is known with the dataset (`check_schedules`).
        for index in (0, -1):
            self.check_step(as_list(self.step_size)[index], as_list(self.beta)[index])

    def step_size_of(self, past: Past) -> float:
        """η of a round."""
        return scheduled(self.step_size, past.round)

    def step_and_beta(self, past: Past) -> dict[str, float]:
        """η and τ of a round, as definitions take them."""
        return {"step_size": self.step_size_of(past), "beta": self.beta_of(past)}

    def check_step(self, step_size: float, beta: float) -> None:
        """Raises `ValueError` if ρ = η τ exceeds 1."""
        if self.limits_rho and step_size * beta > 1 + 1e-9:
            raise ValueError(
                f"`step_size * beta` is the weight of the reference in the KL centre and cannot exceed 1, got "
                f"{step_size:g} * {beta:g} = {step_size * beta:g}. Lower one of them."
            )

    def fits_of(self, past: Past) -> list[Fit]:
        return iterative_ipo(past, step_size=self.step_size_of(past))
