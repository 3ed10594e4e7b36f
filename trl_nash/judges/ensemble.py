# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Several judges as one. A mixture of transitive judges need not be transitive: this is how preferences of a population
come to be cyclic, and why Nash methods are needed.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .base import PairwiseJudge
from .preference import margin, probability


RULES = ("mean", "majority")


class EnsembleJudge(PairwiseJudge):
    r"""
    A mixture or a vote of judges.

    With weights w that add up to 1, `rule="mean"` is the mixture `P = Σ w_k P_k`: how often a judge drawn at random
    prefers the first completion. `rule="majority"` is 1 where the judges with `P_k > ½` weigh more than those with
    `P_k < ½`, 0 where they weigh less, ½ in a draw. A majority of judges that each look at one aspect is the
    aspect-wise majority.

    Args:
        judges (`list`):
            Judges, callables, names as for [`load_judge`], or dictionaries of a name and arguments,
            `{"judge": "reward:org/model", "temperature": 2.0}`. Each keeps its own settings, orders and cache.
        weights (`list[float]`, *optional*):
            Weight of each judge, in any unit. Equal by default.
        rule (`str`, *optional*, defaults to `"mean"`):
            `"mean"` or `"majority"`.
        device (`str` or `torch.device`, *optional*):
            Where judges given by name are put, if they are models.

    A pair on which one of them abstains has no verdict: leaving that judge out would be another ensemble.

    Raises:
        `ValueError`: If there are no judges, the weights do not fit them, or the rule is unknown.
    """

    symmetric = True  # every member is

    def __init__(
        self, judges: Sequence[Any], *, weights: Sequence[float] | None = None, rule: str = "mean", device: Any = None
    ):
        from . import load_judge

        if isinstance(judges, str | dict) or not judges:
            raise ValueError(f"`judges` is a list of judges, with at least one; got a {type(judges).__name__}.")
        try:
            weights = [1.0] * len(judges) if weights is None else [float(weight) for weight in weights]
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"`weights` is a list of numbers, one for each of `judges`: {error}.") from None
        if len(weights) != len(judges):
            raise ValueError(f"`weights` has {len(weights)} entries for {len(judges)} `judges`.")
        if not all(0 <= weight < math.inf for weight in weights) or sum(weights) == 0:
            raise ValueError(f"`weights` must not be negative, and not all 0; got {weights}.")
        if rule not in RULES:
            raise ValueError(f"`rule` is 'mean' or 'majority'; got {rule!r}.")
        self.judges = [load_judge(judge, device=device) for judge in judges]
        scaled = np.array(weights) / max(weights)  # whose sum is finite
        self.weights = scaled / scaled.sum()
        self.rule = rule

    @property
    def waits(self) -> bool:  # type: ignore[override]  # an attribute elsewhere, which judges of users set
        return all(judge.waits for judge in self.judges)

    @property
    def sees_groups(self) -> bool:  # type: ignore[override]  # as above
        return any(judge.sees_groups for judge in self.judges)

    @property
    def name(self) -> str:
        return f"{type(self).__name__}({', '.join(judge.name for judge in self.judges)})"

    @property
    def description(self) -> str:
        return f"{self.rule} of {', '.join(judge.description for judge in self.judges)}"

    @property
    def identity(self) -> str | None:
        members = [judge.identity for judge in self.judges]
        if None in members:
            return None
        return json.dumps({"judge": "ensemble", "rule": self.rule, "weights": self.weights.tolist(), "of": members})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(judge.needs for judge in self.judges))

    def __call__(self, prompts, first, second, **columns):
        self._check_lengths(prompts, first=first, second=second, **columns)
        return self.judge(prompts, first, second, **columns)

    def judge(self, prompts, first, second, **columns):
        pairs = list(zip(first, second, strict=True))
        return self.compare(prompts, pairs, [(0, 1)], columns=columns)[:, 0].tolist()

    def compare(self, prompts, completions, pairs, **inputs):
        """As [`PairwiseJudge.compare`], of every judge, so that reward models score each completion once."""
        margins = []
        for judge in self.judges:
            margins.append(margin(judge.compare(prompts, completions, pairs, **inputs)))
            self.tally.add(judge.tally.take())
        margins = np.array(margins)  # (number of judges, B, M)
        if self.rule == "majority":
            margins = np.sign(margins) / 2
        total = np.einsum("k,kbm->bm", self.weights, margins)
        if self.rule == "majority":
            total = np.sign(np.where(np.abs(total) < 1e-12, 0.0, total)) / 2  # a draw, but for rounding
        return probability(total)
