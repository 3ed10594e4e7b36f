# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Optimistic online Nash policy optimization: two mirror-descent steps per round, or one around a geometric mean."""

from dataclasses import dataclass, field

from ..algorithms import Fit, Past, onpo, onpo_two_fits
from .base import NashTrainer
from .checks.values import check_choice
from .pair_config import PairConfig


@dataclass
class ONPOConfig(PairConfig):
    r"""
    Options of [`ONPOTrainer`]. ONPO solves the original game, so `beta` stays 0.

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `100.0`):
            η, indexed by round. The paper reports `1/η = 0.01`.
        fits (`str`, *optional*, defaults to `"one"`):
            `"two"` is the paper's algorithm: two fits a round on the same pairs. `"one"` is the same update in one
            fit, around past main policies and with step 2η. The two are identical for exact fits only.
        anchor_history (`int`, *optional*, defaults to `5`):
            Past main policies in the anchor of `fits="one"`. Five is close to the whole history, two diverges.

    The other parameters are those of [`PairConfig`].
    """

    fits: str = field(
        default="one",
        metadata={"help": "Fits a round: 'two' is the paper's algorithm.", "choices": ["one", "two"]},
    )
    anchor_history: int = field(default=5, metadata={"help": "Past main policies in the anchor of `fits='one'`."})

    def __post_init__(self):
        super().__post_init__()
        check_choice("fits", self.fits, ["one", "two"])

    def fits_of(self, past: Past) -> list[Fit]:
        if self.fits == "two":
            return onpo_two_fits(past, step_size=self.step_size_of(past))
        return onpo(past, step_size=self.step_size_of(past), anchor_history=self.anchor_history)


class ONPOTrainer(NashTrainer):
    r"""
    Trainer for ONPO, optimistic online mirror descent ([2502.16852](https://huggingface.co/papers/2502.16852)).

    With `r_t = P(· ≻ π_t)`, and pairs `D_t` sampled from the main policy `π_t`,

    `π'_{t+1} ∝ π'_t exp(η r_t)`    and    `π_{t+1} ∝ π'_{t+1} exp(η r_t)`,

    each fitted as the least squares of [`NashTrainer`] on the same `D_t`. Substituting the first into the second,

    `π_{t+1} ∝ π'_t exp(2η r_t)`    and    `log π'_{t+1} = ½ log π'_t + ½ log π_{t+1}`,

    so that one fit around past main policies with weights ½, ¼, ⅛ ... does both (`fits="one"`). The average policy's
    duality gap falls as O(1/T).

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "onpo"]
    _name = "ONPO"
    _paper = {
        "title": "Improving LLM General Preference Alignment via Optimistic Online Mirror Descent",
        "id": "2502.16852",
        "citation": """\
@article{zhang2025improving,
    title  = {{Improving LLM General Preference Alignment via Optimistic Online Mirror Descent}},
    author = {Yuheng Zhang and Dian Yu and Tao Ge and Linfeng Song and Zhichen Zeng and Haitao Mi and Nan Jiang and
              Dong Yu},
    year   = 2025,
    eprint = {arXiv:2502.16852}
}""",
    }
    config_class = ONPOConfig
    assumes_fitted_rounds = True
