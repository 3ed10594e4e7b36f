# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges written for TRL 1.13 and before."""

import inspect
import math
from abc import ABC, abstractmethod

from .base import PairwiseJudge, accepted, as_floats


class BasePairwiseJudge(ABC):
    """
    The judge base class that TRL had until 1.13. Subclasses of it run unchanged: pass one as `judge` to a trainer. New
    judges derive from [`PairwiseJudge`].
    """

    @abstractmethod
    def judge(self, prompts: list[str], completions: list[list[str]], shuffle_order: bool = True) -> list[int]:
        """
        Judge the completion pairs for the given prompts.

        Args:
            prompts (`list[str]`):
                B prompts.
            completions (`list[list[str]]`):
                B pairs of completions.
            shuffle_order (`bool`, *optional*, defaults to `True`):
                Whether to shuffle the pairs against position bias. Always called with `False` here: both orders are
                asked and averaged instead.

        Returns:
            `list[int]`: B indices of the better completion (0 or 1), -1 for a failure, which abstains. A subclass
            whose signature has `return_scores` is called with `return_scores=True` and returns `P(first ≻ second)`.
        """


class LegacyJudge(PairwiseJudge):
    """
    An old TRL judge as a [`PairwiseJudge`].

    Args:
        legacy ([`BasePairwiseJudge`]):
            Any object with a method `judge(prompts, completions, shuffle_order)`. Conversations reach it as one
            string, "Role: content" and an empty line for each message, as TRL rendered them.
    """

    def __init__(self, legacy: BasePairwiseJudge):
        self.legacy = legacy
        self.returns_scores = "return_scores" in inspect.signature(legacy.judge).parameters

    @property
    def name(self) -> str:
        return type(self.legacy).__name__

    @property
    def description(self) -> str:
        return f"{type(self.legacy).__module__}:{self.name}"

    def judge(self, prompts, first, second):
        options = accepted(self.legacy.judge, {"shuffle_order": False}, positional=2)
        if self.returns_scores:
            options["return_scores"] = True
        prompts = [prompt if isinstance(prompt, str) else as_text(prompt) for prompt in prompts]
        pairs = [[a, b] for a, b in zip(first, second, strict=True)]
        verdicts = as_floats(self.legacy.judge(prompts, pairs, **options), count=len(prompts), source=self.name)
        verdicts = [math.nan if verdict == -1 else verdict for verdict in verdicts]
        if self.returns_scores:
            return verdicts
        for index in verdicts:
            if index not in (0, 1) and not math.isnan(index):
                raise ValueError(
                    f"{self.name} returned {index}; expected the index of the better completion, 0 or 1, or -1 if it "
                    f"failed."
                )
        return [1.0 - index for index in verdicts]


def as_text(messages: list[dict[str, str]]) -> str:
    return "".join(f"{message['role'].capitalize()}: {message['content']}\n\n" for message in messages)
