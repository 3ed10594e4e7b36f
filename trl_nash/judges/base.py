# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The judge contract: a callable `(prompts, first, second, **columns)` that returns `P(first ≻ second)` in [0, 1] for
each row, `nan` (or `None`) where it has no opinion.

[`PairwiseJudge`] turns a judge of *one order* into a judge that is fair: both orders are asked and averaged, so that
`P(a ≻ b) + P(b ≻ a) = 1` and position bias cancels, nothing is asked twice, and what comes back is checked.
"""

import functools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .calls import accepted, as_floats, joined, pairs_of_each, required
from .preference import fair, one_order
from .store import JudgementStore, Question, judgement_keys
from .tally import Abstained, Tally


__all__ = [
    "Abstained",
    "JudgeError",
    "PairwiseJudge",
    "Prompt",
    "Tally",
    "accepted",
    "as_floats",
    "joined",
]

Prompt = str | list[dict[str, Any]]  # a string, or messages as in the dataset

ORDERS = ("both", "random", "fixed")
TOLERANCE = 1e-6  # how far rounding may carry a probability out of [0, 1]


class JudgeError(RuntimeError):
    """A judge cannot go on: its server is gone, its budget is spent. Trainers save a checkpoint and stop with it."""


class PairwiseJudge(ABC):
    """
    Base class of judges. A subclass implements [`~PairwiseJudge.judge`]; everybody else calls the judge itself, or
    [`~PairwiseJudge.compare`] for all the pairs of several completions.

    Attributes:
        symmetric (`bool`, defaults to `False`):
            Whether `P(a ≻ b) = 1 - P(b ≻ a)` by construction, so that asking one order is enough.
        waits (`bool`, defaults to `False`):
            Whether it waits for something else than this process and its device, such as a server. A trainer then asks
            it in a thread of its own, and samples meanwhile. (The current CUDA device is each thread's own.)
        sees_groups (`bool`, defaults to `False`): Whether it sees all completions of a prompt in one call.
        order (`str`, defaults to `"both"`):
            `"both"` asks every pair in both orders. `"random"` asks one order, of prompt and pair alone, for half the
            cost: position bias cancels on average only. `"fixed"` asks as given. Of no meaning to symmetric judges.
        cache ([`JudgementStore`], *optional*):
            Where answers are kept, and looked up before the judge is asked. Abstentions are not kept.
        tally ([`Tally`]): Counts of questions, abstentions by reason, and disagreement of the two orders.

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
    waits: bool = False
    sees_groups: bool = False
    order: str = "both"
    cache: JudgementStore | None = None

    @property
    def name(self) -> str:
        """What error messages call this judge."""
        return type(self).__name__

    @property
    def description(self) -> str:
        """What a model card calls this judge: its kind and what it asks, and no arguments, which may be secret."""
        return self.name

    @property
    def identity(self) -> str | None:
        """All that an answer depends on beside the question, as JSON, without secrets. `None` cannot be cached."""
        return None

    @property
    def needs(self) -> frozenset[str]:
        """The dataset's columns, beside the prompt, that it cannot judge without."""
        return required(self.judge, positional=3)

    @functools.cached_property
    def tally(self) -> Tally:
        return Tally()

    # With `*args` beside `**columns` a type checker lets a subclass name other arguments than these.
    @abstractmethod
    def judge(
        self, prompts: list, first: list[str], second: list[str], *args: Any, **columns: Any
    ) -> Sequence[float | None]:
        """
        Judge a batch of pairs in the order in which they are given.

        Args:
            prompts (`list[str]` or `list[list[dict]]`):
                B prompts: strings, or lists of messages, as in the dataset. Contents in parts of text are joined.
            first (`list[str]`):
                B completions, as text.
            second (`list[str]`):
                B completions that are never equal to their counterpart in `first`.
            columns:
                The dataset's other columns, B values each. A subclass names those that it needs, or takes all as
                `**columns`; the others are not passed.

        Returns:
            `Sequence[float | None]`: B probabilities that `first` is better than `second`. `nan`, `None` or
            [`Abstained`], which gives a reason, abstain.
        """

    def judge_each(
        self, prompts: list[Prompt], first: list[str], second: list[str], **columns
    ) -> Iterator[tuple[int, float | None]]:
        """
        The answers of [`~PairwiseJudge.judge`] one by one, as `(row, answer)` in any order.

        Everybody asks through this method. A judge whose answers arrive one at a time overrides it, so that each is
        cached when it comes, and those that came are not lost if a later one fails.
        """
        answers = self.judge(prompts, first, second, **columns)
        yield from enumerate(as_floats(answers, count=len(prompts), source=self.name))

    def __call__(self, prompts: list[Prompt], first: list[str], second: list[str], **columns) -> list[float]:
        """
        Probability that `first` is better than `second`, free of position bias.

        Both orders are asked (one if the judge is `symmetric`, or as `order` says) in a single call of
        [`~PairwiseJudge.judge`] and their answers averaged, `(P(first ≻ second) + 1 - P(second ≻ first)) / 2`; a pair
        is `nan` if either order is. Equal completions are .5 without being asked, repeated questions are asked once.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): B prompts.
            first (`list[str]`): B completions.
            second (`list[str]`): B completions.
            columns: The dataset's other columns, B values each.

        Returns:
            `list[float]`: B probabilities in [0, 1], or `nan` ([`Abstained`] where the judge gave a reason).

        Raises:
            `ValueError`: If the arguments differ in length, or the judge does not return one probability per question.
            `JudgeError`: If the judge cannot go on.
        """
        prompts = [joined(prompt) for prompt in prompts]
        columns = accepted(self.judge, columns, positional=3)
        self._check_lengths(prompts, first=first, second=second, **columns)
        # What a verdict depends on beside the two texts; objects that JSON does not know only equal themselves.
        contexts = [
            json.dumps([prompt, *values], default=id)
            for prompt, *values in zip(prompts, *columns.values(), strict=True)
        ]
        triples = list(zip(contexts, first, second, strict=True))

        once = self.symmetric or self.order != "both"
        questions: dict[Question, int] = {}  # -> a row that asks it
        for row, (context, a, b) in enumerate(triples):
            if a == b or (once and (context, b, a) in questions):
                continue
            for x, y in self._orders(prompts[row], a, b):
                questions.setdefault((context, x, y), row)

        answers = self._ask(questions, prompts, columns)
        for context, a, b in answers:
            if a < b and (context, b, a) in answers:
                self.tally.add_orders(answers[context, a, b], answers[context, b, a])
        verdicts = [
            0.5 if a == b else fair(answers.get((context, a, b)), answers.get((context, b, a)))
            for context, a, b in triples
        ]
        self.tally.add_verdicts(p for p, (_, a, b) in zip(verdicts, triples, strict=True) if a != b)
        return verdicts

    def _check_lengths(self, prompts: list, /, **values: list) -> None:
        for argument, given in values.items():
            if len(given) != len(prompts):
                raise ValueError(
                    f"{self.name} got {len(prompts)} prompts but {len(given)} values of `{argument}`; pass one each."
                )

    def _orders(self, prompt: Prompt, a: str, b: str) -> list[tuple[str, str]]:
        """The orders in which a pair is asked."""
        if self.order not in ORDERS:
            raise ValueError(f"`order` is one of {', '.join(map(repr, ORDERS))}; {self.name} has {self.order!r}.")
        if self.symmetric or self.order == "fixed":
            return [(a, b)]
        if self.order == "both":
            return [(a, b), (b, a)]
        return [one_order(prompt, a, b)]

    def _ask(self, questions: dict[Question, int], prompts: list, columns: dict[str, list]) -> dict[Question, float]:
        """Answers from the cache, and the judge's own to the rest, which are cached as they come."""
        keys = {}
        if self.cache is not None:
            if self.identity is None:
                raise ValueError(
                    f"{self.name} has no `identity`, so its answers cannot be cached: leave `cache` at None."
                )
            keys = judgement_keys(self.identity, questions, prompts, columns, self.symmetric)
        stored = self.cache.get_many(filter(None, keys.values())) if self.cache is not None and keys else {}
        # What is no probability was not written by a judge: it is asked again.
        stored = {key: value for key, value in stored.items() if isinstance(value, float) and 0 <= value <= 1}
        answers = {question: stored[key] for question, key in keys.items() if key is not None and key in stored}
        asked = [
            (context, a, b)
            for context, a, b in questions
            if (context, a, b) not in answers and not (self.symmetric and (context, b, a) in answers)
        ]
        self.tally.cached += len(questions) - len(asked)
        if not asked:
            return answers

        _, first, second = map(list, zip(*asked, strict=True))
        rows = [questions[question] for question in asked]
        columns = {name: [values[row] for row in rows] for name, values in columns.items()}
        for index, answer in self.judge_each([prompts[row] for row in rows], first, second, **columns):
            answers[asked[index]] = answer = self._checked(answer)
            self.tally.asked += 1
            key = keys.get(asked[index])
            if self.cache is not None and key is not None and not math.isnan(answer):
                self.cache.put(key, answer)
        if missing := [question for question in asked if question not in answers]:
            raise ValueError(
                f"{self.name} left {len(missing)} of {len(asked)} questions unanswered: `judge_each` yields every "
                f"row, with `Abstained` where there is no verdict."
            )
        return answers

    def _checked(self, answer: Any) -> float:
        (answer,) = as_floats([answer], count=1, source=self.name)
        if answer < -TOLERANCE or answer > 1 + TOLERANCE:
            raise ValueError(
                f"{self.name} returned {answer}; expected the probability, from 0 to 1, that the first completion "
                f"is better (nan for no opinion). For scores without bounds use `RewardJudge`."
            )
        return answer if math.isnan(answer) else min(max(answer, 0.0), 1.0)

    def compare(
        self,
        prompts: list[Prompt],
        completions: list[list[str]],
        pairs: list[tuple[int, int]] | np.ndarray,
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
            pairs (`list[tuple[int, int]]` or `np.ndarray` of shape `(B, M, 2)`):
                M pairs of indices into the N completions: the same for every prompt, or those of each.
            columns (`dict[str, list]`, *optional*):
                The dataset's other columns, B values each. A column named as an argument of the judge is not passed.
            completion_ids (`list[list[list[int]]]`, *optional*):
                Token ids of the completions without padding, for judges that look at tokens ([`RewardJudge`]).
            trainer_state ([`~transformers.TrainerState`], *optional*):
                State of the trainer, for reward functions that change during training.

        Returns:
            `np.ndarray`: float64 of shape (B, M); entry `[b, m]` is the probability that the first completion of
            pair m of prompt `b` is better than the second.
        """
        asked = pairs_of_each(pairs, len(prompts))
        rows = [(row, i, j) for row, own in enumerate(asked.tolist()) for i, j in own]
        columns = accepted(self.__call__, columns or {}, positional=3)
        preferences = self(
            [prompts[row] for row, _, _ in rows],
            [completions[row][i] for row, i, _ in rows],
            [completions[row][j] for row, _, j in rows],
            **{name: [values[row] for row, _, _ in rows] for name, values in columns.items()},
        )
        return np.array(preferences, dtype=np.float64).reshape(asked.shape[:2])
