# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges that see all completions of a prompt at once: one call, or two in opposite orders, for all of its pairs."""

import json
import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ...rounds.pairings import Pairing
from ..base import Abstained, PairwiseJudge, Prompt
from ..calls import accepted, joined, pairs_of_each, required
from ..function import as_given
from ..preference import margin, probability
from ..store import as_store, judgement_key
from .answers import KINDS, preferences_of


logger = logging.getLogger(__name__)
Context = tuple[str, tuple[str, ...]]  # prompt and columns as JSON, and the completions in the order that is asked


def check_waves(judge: PairwiseJudge, pairing: Pairing, count: int) -> None:
    """Refuses a pairing of K = `count` in waves, each of which would ask a group judge again."""
    if judge.sees_groups and (waves := pairing.waves(count)) > 1:
        raise ValueError(
            f"The judge {judge.name} sees all completions of a prompt at once, and `pair_selection={pairing.name!r}` "
            f"would ask it {waves} times: leave `pair_selection` at 'all', which costs no more."
        )


class GroupJudge(PairwiseJudge):
    """
    Base class of judges that see all completions of a prompt in one call. A subclass implements
    [`~GroupJudge.judge_groups`]; it then serves wherever a [`PairwiseJudge`] does, pairs being groups of two.

    By default each group is asked forwards and backwards and the two tables are averaged, so that a preference for
    what comes first, or late, cancels between any two. `order` says otherwise as for pairs; equal completions are in a
    group once.

    Args:
        returns (`str`, *optional*, defaults to `"scores"`):
            What answers are: `"scores"`, one a completion, of which `P(i ≻ j) = σ((s_i - s_j) / temperature)`;
            `"ranking"`, places of completions from the best to the worst, of which P is 1 or 0, and ½ within a list in
            the list; `"table"`, `P(i ≻ j)` as they are, which are made to add up to 1 with `P(j ≻ i)`.
        temperature (`float`, *optional*, defaults to `1.0`): points of a score in which odds grow by e.

    Raises:
        `ValueError`: If an argument cannot be.
    """

    sees_groups = True

    def __init__(self, returns: str = "scores", temperature: float = 1.0):
        if returns not in KINDS:
            raise ValueError(f"`returns` is one of {', '.join(map(repr, KINDS))}; got {returns!r}.")
        if not temperature > 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        self.returns = returns
        self.temperature = temperature

    @abstractmethod
    def judge_groups(self, prompts: list[Prompt], groups: list[list[str]], *args: Any, **columns: Any) -> Sequence:
        """
        Judge the completions of each prompt in the order in which they are given.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): B prompts.
            groups (`list[list[str]]`): the completions of each, two or more, all different.
            columns: The dataset's other columns that it names, B values each.

        Returns:
            `Sequence`: B answers as `returns` says, about the group's completions by their places in it, from 0; `nan`
            or `None` for a completion, a pair or a whole group abstains, and so does what a ranking leaves out.
        """

    def groups_each(self, prompts: list[Prompt], groups: list[list[str]], **columns) -> Iterator[tuple[int, Any]]:
        """The answers of [`~GroupJudge.judge_groups`] one by one, as `(row, answer)` in any order."""
        answers = list(self.judge_groups(prompts, groups, **columns))
        if len(answers) != len(groups):
            raise ValueError(
                f"{self.name} returned {len(answers)} answers for {len(groups)} groups; expected as many."
            )
        yield from enumerate(answers)

    @property
    def needs(self) -> frozenset[str]:
        return required(self.judge_groups, positional=2)

    def columns_of(self, columns: dict[str, list]) -> dict[str, list]:
        """Those of the dataset's columns that the judge is given."""
        return accepted(self.judge_groups, columns, positional=2)

    def judge(self, prompts, first, second, **columns):
        return [p for _, p in sorted(self.judge_each(prompts, first, second, **columns))]

    def judge_each(self, prompts, first, second, **columns):
        """Pairs as groups of two."""
        groups = [list(pair) for pair in zip(first, second, strict=True)]
        for row, answer in self.groups_each(prompts, groups, **self.columns_of(columns)):
            table, reason = self._table(answer, 2)
            yield row, Abstained(reason) if math.isnan(table[0, 1]) else float(table[0, 1])

    def __call__(self, prompts, first, second, **columns):
        # Columns that the judge does not see must not make two questions different.
        return super().__call__(prompts, first, second, **self.columns_of(columns))

    def compare(self, prompts, completions, pairs, *, columns=None, completion_ids=None, trainer_state=None):
        """As [`PairwiseJudge.compare`]: all that is in a prompt's pairs is one group, however many pairs these are."""
        prompts, columns = [joined(prompt) for prompt in prompts], self.columns_of(columns or {})
        self._check_lengths(prompts, completions=completions, **columns)
        asked = pairs_of_each(pairs, len(prompts))
        contexts = [
            json.dumps([prompt, *values], default=id)
            for prompt, *values in zip(prompts, *columns.values(), strict=True)
        ]
        groups = [
            tuple(dict.fromkeys(texts[k] for k in dict.fromkeys(own.ravel().tolist())))
            for texts, own in zip(completions, asked, strict=True)
        ]
        questions: dict[Context, int] = {}  # -> a row that asks it
        for row, (context, group) in enumerate(zip(contexts, groups, strict=True)):
            for ordered in self._group_orders(context, group):
                questions.setdefault((context, ordered), row)
        tables = self._ask_groups(questions, prompts, columns)

        preference = np.full(asked.shape[:2], np.nan)
        verdicts: list[float] = []
        for row, (context, group) in enumerate(zip(contexts, groups, strict=True)):
            place = {text: index for index, text in enumerate(group)}
            table, orders = self._fair_table(context, group, tables)
            for m, (i, j) in enumerate(asked[row].tolist()):
                a, b = completions[row][i], completions[row][j]
                preference[row, m] = 0.5 if a == b else table[place[a], place[b]]
                if a != b:
                    why = next((why for one, why in orders if math.isnan(one[place[a], place[b]])), None)
                    verdicts.append(preference[row, m] if why is None else Abstained(why))
        self.tally.add_verdicts(verdicts)
        return preference

    def _group_orders(self, context: str, group: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The orders in which a group is asked; none if there is nothing to compare."""
        if len(group) < 2:
            return []
        forwards, backwards = group, group[::-1]
        if self.symmetric or self.order == "fixed":
            return [forwards]
        if self.order == "both":
            return [forwards, backwards]
        first, _ = self._orders(context, group[0], group[-1])[0]  # `"random"`, or an order that there is not
        return [forwards if first == group[0] else backwards]

    def _fair_table(self, context: str, group: tuple[str, ...], tables: dict) -> tuple[np.ndarray, list]:
        """P(i ≻ j) of the orders that were asked, averaged, and that of each, with why some of it is nan."""
        found = []
        for ordered in self._group_orders(context, group):
            table, why = tables[context, ordered]
            found.append((table if ordered == group else table[::-1, ::-1], why))
        if len(found) == 2:
            for i in range(len(group)):
                for j in range(i):
                    self.tally.add_orders(found[0][0][i, j], 1 - found[1][0][i, j])
        margins = np.mean([margin(table) for table, _ in found], axis=0) if found else np.zeros((1, 1))
        return probability(margins), found

    def _ask_groups(self, questions: dict[Context, int], prompts: list, columns: dict[str, list]) -> dict:
        """Table and reason of each question, from the cache or the judge, whose answers are cached as they come."""
        keys = {}
        if self.cache is not None:
            if (identity := self.identity) is None:
                raise ValueError(
                    f"{self.name} has no `identity`, so its answers cannot be cached: leave `cache` at None."
                )
            keys = {
                question: judgement_key(
                    identity,
                    prompts[row],
                    {name: values[row] for name, values in columns.items()},
                    json.dumps(question[1]),
                    self.returns,
                )
                for question, row in questions.items()
            }
        stored = self.cache.get_many(filter(None, keys.values())) if keys else {}
        tables = {
            question: (np.array(stored[key]), "")
            for question, key in keys.items()
            if key in stored and np.shape(stored[key]) == (len(question[1]),) * 2
        }
        rest = [question for question in questions if question not in tables]
        self.tally.cached += len(tables)
        rows, left_out = [questions[question] for question in rest], 0
        own = {name: [values[row] for row in rows] for name, values in columns.items()}
        answers = self.groups_each([prompts[row] for row in rows], [list(group) for _, group in rest], **own)
        for index, answer in answers if rest else ():
            question = rest[index]
            tables[question] = table, reason = self._table(answer, len(question[1]))
            self.tally.asked += 1
            left_out += 0 < np.isnan(table).sum() < table.size - len(table)
            if (key := keys.get(question)) is not None and not np.isnan(table).any():
                self.cache.put(key, table.tolist())
        if left_out:
            logger.warning(
                f"{self.name} left completions out of {left_out} of {len(rest)} answers: their pairs abstain."
            )
        return tables

    def _table(self, answer: Any, count: int) -> tuple[np.ndarray, str]:
        """P(i ≻ j) of an answer, and why some or all of it is nan."""
        if answer is None or isinstance(answer, float):
            table = np.full((count, count), np.nan)
            np.fill_diagonal(table, 0.5)
            return table, getattr(answer, "reason", "no opinion")
        return preferences_of(answer, self.returns, count, self.temperature, self.name), "left out"


class CallableGroupJudge(GroupJudge):
    """
    A group judge made of a function `(prompts, groups, **columns) -> list`.

    Args:
        function (`Callable`): as [`GroupJudge.judge_groups`].
        returns, temperature: see [`GroupJudge`].
        symmetric (`bool`, *optional*, defaults to `False`):
            Whether its answers do not depend on the order of the completions, so that one is enough.
        cache (`bool`, `str` or [`JudgementStore`], *optional*): where answers are kept; needs an `identity`.
        identity (`str`, *optional*): all that an answer depends on beside the question.

    Example:

    ```python
    >>> judge = CallableGroupJudge(lambda prompts, groups: [[len(text) for text in group] for group in groups])
    >>> judge.compare(["Say hi."], [["hi", "hello", "hi"]], [(0, 1), (0, 2)]).round(2)
    array([[0.05, 0.5 ]])
    ```
    """

    def __init__(
        self,
        function: Callable[..., Sequence],
        *,
        returns: str = "scores",
        temperature: float = 1.0,
        symmetric: bool = False,
        cache: Any = None,
        identity: str | None = None,
    ):
        super().__init__(returns, temperature)
        if not callable(function):
            raise TypeError(f"A group judge is a callable `(prompts, groups) -> list`; got {function!r}.")
        self.function = function
        self.symmetric = symmetric
        self.cache = as_store(cache)
        self._identity = identity

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def identity(self) -> str | None:
        return self._identity and json.dumps(["group", self._identity, self.returns, self.temperature])

    @property
    def needs(self) -> frozenset[str]:
        return required(self.function, positional=2)

    def columns_of(self, columns):
        return accepted(self.function, columns, positional=2)

    def judge_groups(self, prompts, groups, **columns):
        return self.function(prompts, [list(map(as_given, group)) for group in groups], **columns)
