# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""SPPO: each completion's log-ratio is regressed to how often it wins against the policy."""

from dataclasses import dataclass, field

import torch

from ..objectives import pair_loss, win_rates
from ..rounds.batch import PairBatch
from .base import NashTrainer
from .pair_config import PairConfig


@dataclass
class SPPOConfig(PairConfig):
    r"""
    Options of [`SPPOTrainer`]. The defaults are the paper's; all K completions are trained on.

    Parameters:
        step_size (`float` or `list[float]`, *optional*, defaults to `1000.0`):
            η, indexed by round: the inverse of the released code's `beta = 0.001`.
        num_generations (`int`, *optional*, defaults to `5`):
            K. A completion's win rate is its mean against the K - 1 others of its prompt.

    The other parameters are those of [`PairConfig`]; a win rate needs all pairs.
    """

    step_size: list[float] = field(
        default_factory=lambda: [1000.0], metadata={"help": "Step that multiplies the win rate, indexed by round."}
    )
    num_generations: int = field(default=5, metadata={"help": "K, completions per prompt."})

    def __post_init__(self):
        super().__post_init__()
        if self.pair_selection != "all":
            raise ValueError(
                f"SPPO regresses win rates, which are of all pairs: leave `pair_selection` at 'all', got "
                f"{self.pair_selection!r}."
            )


class SPPOTrainer(NashTrainer):
    r"""
    Trainer for SPPO, self-play preference optimization ([2405.00675](https://huggingface.co/papers/2405.00675)).

    Each round fits

    `π_{t+1} = argmin_π E_{y~π_t} ( log π(y)/π_t(y) - η (P(y ≻ π_t) - ½) )²`,

    which is near the mirror-descent step `π_t exp(η P(· ≻ π_t))` of [`NashTrainer`], and rotates outwards on a cycle
    as that does.

    Takes the arguments of [`NashTrainer`].
    """

    _tag_names = ["trl", "trl-nash", "sppo"]
    _name = "SPPO"
    _paper = {
        "title": "Self-Play Preference Optimization for Language Model Alignment",
        "id": "2405.00675",
        "citation": """\
@article{wu2024self,
    title  = {{Self-Play Preference Optimization for Language Model Alignment}},
    author = {Yue Wu and Zhiqing Sun and Huizhuo Yuan and Kaixuan Ji and Yiming Yang and Quanquan Gu},
    year   = 2024,
    eprint = {arXiv:2405.00675}
}""",
    }
    config_class = SPPOConfig
    assumes_fitted_rounds = True

    def objective(self, logps: torch.Tensor, batch: PairBatch) -> torch.Tensor:
        logratio = (logps - batch.centre_logps).sum(-1).view(len(batch), -1)
        target = self.fit.step_size * (win_rates(batch.preference, batch.pairs[0], logratio.size(-1)) - 0.5)
        self.reporter.record_fit(logratio, target)
        return pair_loss(logratio, target)
