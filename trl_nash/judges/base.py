# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The judge contract: a callable `(prompts, first, second, **columns)` that returns `P(first ≻ second)` in [0, 1] for
each row, `nan` (or `None`) where it has no opinion.

[`PairwiseJudge`] turns a judge of *one order* into a judge that is fair: both orders are asked and averaged, so that
`P(a ≻ b) + P(b ≻ a) = 1` and position bias cancels, nothing is asked twice, and what comes back is checked.
"""

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np


Prompt = str | list[dict[str, Any]]  # a string, or messages as in the dataset

TOLERANCE = 1e-6  # how far rounding may carry a probability out of [0, 1]


class PairwiseJudge(ABC):
    """
    Base class of judges. A subclass implements [`~PairwiseJudge.judge`]; everybody else calls the judge itself, or
    [`~PairwiseJudge.compare`] for all the pairs of several completions.

    Attributes:
        symmetric (`bool`, defaults to `False`):
            Whether `P(a ≻ b) = 1 - P(b ≻ a)` by construction, so that asking one order is enough.

    Example:

    ```python
    >>> class LongerWins(PairwiseJudge):
    ...     def judge(self, prompts, first, second):
    ...         return [float(len(a) > len(b)) for a, b in zip(first, second)]


    >>> LongerWins()(["Say hi."] * 2, ["hello", "hi"], ["hi", "yo"])  # a tie loses in both orders: the mean is fair
    [1.0, 0.5]
    ```
    """

    symmetric: bool = False

    @property
    def name(self) -> str:
        """What error messages call this judge."""
        return type(self).__name__

    @abstractmethod
    def judge(self, prompts: list[Prompt], first: list[str], second: list[str], **columns) -> Sequence[float | None]:
        """
        Judge a batch of pairs in the order in which they are given.

        Args:
            prompts (`list[str]` or `list[list[dict]]`):
                B prompts: strings, or lists of messages, as in the dataset.
            first (`list[str]`):
                B completions, as text.
            second (`list[str]`):
                B completions that are never equal to their counterpart in `first`.
            columns:
                The dataset's other columns, B values each. A subclass names those that it needs, or takes all as
                `**columns`; the others are not passed.

        Returns:
            `Sequence[float | None]`: B probabilities that `first` is better than `second`; `nan` or `None` abstains.
        """

    def __call__(self, prompts: list[Prompt], first: list[str], second: list[str], **columns) -> list[float]:
        """
        Probability that `first` is better than `second`, free of position bias.

        Both orders are asked (one if the judge is `symmetric`) in a single call of [`~PairwiseJudge.judge`] and their
        answers averaged, `(P(first ≻ second) + 1 - P(second ≻ first)) / 2`; a pair is `nan` if either order is. Equal
        completions are .5 without being asked, repeated questions are asked once.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): B prompts.
            first (`list[str]`): B completions.
            second (`list[str]`): B completions.
            columns: The dataset's other columns, B values each.

        Returns:
            `list[float]`: B probabilities in [0, 1], or `nan`.

        Raises:
            `ValueError`: If the arguments differ in length, or the judge does not return one probability per question.
        """
        columns = accepted(self.judge, columns, positional=3)
        for argument, values in {"first": first, "second": second, **columns}.items():
            if len(values) != len(prompts):
                raise ValueError(
                    f"{self.name} got {len(prompts)} prompts but {len(values)} values of `{argument}`; pass one each."
                )
        # What a verdict depends on beside the two texts; objects that JSON does not know only equal themselves.
        contexts = [
            json.dumps([prompt, *values], default=id)
            for prompt, *values in zip(prompts, *columns.values(), strict=True)
        ]
        triples = list(zip(contexts, first, second, strict=True))

        questions: dict[tuple[str, str, str], int] = {}  # (context, a, b) -> a row that asks it
        for row, (context, a, b) in enumerate(triples):
            if a == b or (self.symmetric and (context, b, a) in questions):
                continue
            questions.setdefault((context, a, b), row)
            if not self.symmetric:
                questions.setdefault((context, b, a), row)

        answers = dict(zip(questions, self._ask(questions, prompts, columns), strict=True))
        if self.symmetric:
            fair = answers | {(context, b, a): 1.0 - p for (context, a, b), p in answers.items()}
        else:
            fair = {(context, a, b): (p + 1.0 - answers[context, b, a]) / 2 for (context, a, b), p in answers.items()}
        return [0.5 if a == b else fair[context, a, b] for context, a, b in triples]

    def _ask(self, questions: dict, prompts: list, columns: dict[str, list]) -> list[float]:
        if not questions:
            return []
        _, first, second = map(list, zip(*questions, strict=True))
        rows = questions.values()
        columns = {name: [values[row] for row in rows] for name, values in columns.items()}
        answers = self.judge([prompts[row] for row in rows], first, second, **columns)
        answers = as_floats(answers, count=len(rows), source=self.name)
        for answer in answers:
            if answer < -TOLERANCE or answer > 1 + TOLERANCE:
                raise ValueError(
                    f"{self.name} returned {answer}; expected the probability, from 0 to 1, that the first completion "
                    f"is better (nan for no opinion). For scores without bounds use `RewardJudge`."
                )
        return np.clip(answers, 0.0, 1.0).tolist()

    def compare(
        self,
        prompts: list[Prompt],
        completions: list[list[str]],
        pairs: list[tuple[int, int]],
        *,
        columns: dict[str, list] | None = None,
        completion_ids: list[list[list[int]]] | None = None,
        trainer_state: Any = None,
    ) -> np.ndarray:
        """
        Compare the completions of each prompt with one another: all pairs of all prompts in one call of the judge.

        Args:
            prompts (`list[str]` or `list[list[dict]]`):
                B prompts.
            completions (`list[list[str]]`):
                N completions for each of the B prompts.
            pairs (`list[tuple[int, int]]`):
                M pairs of indices into the N completions, the same for every prompt.
            columns (`dict[str, list]`, *optional*):
                The dataset's other columns, B values each. A column named as an argument of the judge is not passed.
            completion_ids (`list[list[list[int]]]`, *optional*):
                Token ids of the completions without padding, for judges that look at tokens ([`RewardJudge`]).
            trainer_state ([`~transformers.TrainerState`], *optional*):
                State of the trainer, for reward functions that change during training.

        Returns:
            `np.ndarray`: float64 of shape (B, M); entry `[b, m]` is the probability that completion `pairs[m][0]` of
            prompt `b` is better than `pairs[m][1]`.
        """
        rows = [(row, i, j) for row in range(len(prompts)) for i, j in pairs]
        columns = accepted(self.__call__, columns or {}, positional=3)
        preferences = self(
            [prompts[row] for row, _, _ in rows],
            [completions[row][i] for row, i, _ in rows],
            [completions[row][j] for row, _, j in rows],
            **{name: [values[row] for row, _, _ in rows] for name, values in columns.items()},
        )
        return np.array(preferences, dtype=np.float64).reshape(len(prompts), len(pairs))


def accepted(function: Callable, keywords: dict[str, Any], positional: int) -> dict[str, Any]:
    """
    Those of `keywords` that `function` takes beside its first `positional` arguments: by name, or all with `**kwargs`.
    """
    signature = inspect.signature(function)
    taken = signature.bind_partial(*[None] * positional).arguments
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items() if name not in taken}
    if inspect.Parameter.VAR_KEYWORD in kinds.values():
        return {name: value for name, value in keywords.items() if name not in taken}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: value for name, value in keywords.items() if kinds.get(name) in named}


def as_floats(values: Any, count: int, source: str) -> list[float]:
    """
    What a judge or reward function returned (a list, array or tensor) as `count` floats, `nan` for `None`.

    Raises `ValueError` naming `source` if it is anything else.
    """
    if not isinstance(values, Iterable):
        raise ValueError(f"{source} returned {values!r}; expected a list of {count} numbers.")
    values = [value.item() if hasattr(value, "item") else value for value in values]
    if len(values) != count:
        raise ValueError(f"{source} returned {len(values)} values; expected {count}, one for each row it was given.")
    for value in values:
        if not isinstance(value, Real | None):
            raise ValueError(
                f"{source} returned {value!r} ({type(value).__name__}); expected numbers, or nan for no opinion."
            )
    return [math.nan if value is None else float(value) for value in values]
