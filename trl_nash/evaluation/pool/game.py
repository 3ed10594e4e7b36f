# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Policies of one run on held-out prompts: each answers a prompt once, and each pair of answers is judged once."""

import math
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np

from ..arena.answers import answer_record, dialogue_record
from ..arena.result import ArenaResult
from ..rows import Row
from ..scores import exploitability


WIN_RATE_WORST = "policy/win_rate_worst"  # of the policy, against that opponent of the pool to which it does worst
_WIN_RATE = "pool/win_rate_"  # of the policy, against the opponent whose name follows

# `ids`, the tokens; `text`, that the judge sees; `ended`, whether it came to its end; `beside`, what else is known, by
# the field of `Samples` that has it.
Answer = dict[str, Any]
Pair = tuple[str, str]


class PoolGame:
    """
    What is known of the policies of a run: their answers to held-out prompts, and the judge's verdicts.

    Attributes:
        rows (`list[Row]`): the B prompts.
        answers (`dict[str, list[Answer]]`): of each policy, by its name, one to each prompt.
        verdicts (`dict[Pair, dict[int, float]]`):
            P(the first policy's answer beats the second's) by the row, for names in alphabetical order; `nan` where
            the judge has no opinion. What is not there was not asked.
        current (`str`, *optional*): the policy that was evaluated last.
        best (`str`, *optional*): the one that did best so far, where the best is chosen by `policy/win_rate_worst`.
    """

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.answers: dict[str, list[Answer]] = {}
        self.verdicts: dict[Pair, dict[int, float]] = {}
        self.current: str | None = None
        self.best: str | None = None
        self._keys: list[str] = []
        self._sampled_by = self._judged_by = ""

    def begin(self, rows: list[Row], keys: list[str], sampled_by: str, judged_by: str) -> bool:
        """
        An evaluation begins, and what another one has found does not count where it asked for something else.

        Args:
            rows (`list[Row]`): the prompts.
            keys (`list[str]`): of each row one that is another one if the row is.
            sampled_by, judged_by (`str`): what answers and verdicts depend on beside the rows.

        Returns:
            `bool`: Whether something was given up.
        """
        samples_anew = (keys, sampled_by) != (self._keys, self._sampled_by)
        gives_up = bool(self.answers if samples_anew else self.verdicts and judged_by != self._judged_by)
        if samples_anew:
            self.answers, self.best, self.current = {}, None, None
        if gives_up:
            self.verdicts = {}
        self.rows, self._keys, self._sampled_by, self._judged_by = rows, keys, sampled_by, judged_by
        return gives_up

    def keep(self, names: Collection[str]) -> None:
        """Gives up all policies but these."""
        self.answers = {name: answers for name, answers in self.answers.items() if name in names}
        self.verdicts = {pair: found for pair, found in self.verdicts.items() if set(pair) <= set(names)}

    def missing(self, names: Sequence[str], row: int) -> list[tuple[int, int]]:
        """The pairs of places in `names` that were not judged on a row."""
        pairs = combinations(range(len(names)), 2)
        return [(i, j) for i, j in pairs if row not in self.verdicts.get(_key(names[i], names[j]), ())]

    def add(self, first: str, second: str, row: int, preference: float) -> None:
        """Adds a verdict, P(first ≻ second)."""
        key = _key(first, second)
        self.verdicts.setdefault(key, {})[row] = preference if key == (first, second) else 1 - preference

    def preferences(self, names: Sequence[str]) -> np.ndarray:
        """P(row ≻ column) on each prompt, of shape (B, N, N), `nan` where there is no verdict."""
        p = np.full((len(self.rows), len(names), len(names)), np.nan)
        p[:, range(len(names)), range(len(names))] = 0.5
        for (i, first), (j, second) in combinations(enumerate(names), 2):
            key = _key(first, second)
            for row, preference in self.verdicts.get(key, {}).items():
                value = preference if key == (first, second) else 1 - preference
                p[row, i, j], p[row, j, i] = value, 1 - value
        return p

    def worst(self, name: str, members: Sequence[str]) -> dict[str, float]:
        """
        The lowest win rate of a policy against the others of a pool, one half if there is no other; as `_se` its
        standard error over prompts, and as `_n` how many were judged. Nothing if the judge has no opinion.
        """
        others = [member for member in members if member != name]
        if not others:
            return {WIN_RATE_WORST: 0.5}
        p = self.preferences([name, *others])[:, 0, 1:]
        rates = _means(p)
        if np.isnan(rates).all():
            return {}
        column = p[:, np.nanargmin(rates)]
        column = column[~np.isnan(column)]
        found = {WIN_RATE_WORST: float(column.mean()), f"{WIN_RATE_WORST}_n": float(len(column))}
        if len(column) > 1:
            found[f"{WIN_RATE_WORST}_se"] = float(column.std(ddof=1) / len(column) ** 0.5)
        return found

    def metrics(self, members: Sequence[str]) -> dict[str, float]:
        """
        The metrics of the current policy in the pool. What the judge gives no opinion on is left out.

        Args:
            members (`Sequence[str]`): the pool.
        """
        assert self.current is not None
        names = list(dict.fromkeys([*members, self.current]))
        rates = _means(self.preferences(names))
        place = names.index(self.current)
        found = {f"{_WIN_RATE}{name}": rates[place, i] for i, name in enumerate(names) if i != place}
        found |= self.worst(self.current, members) | {"pool/size": float(len(members))}
        # Of the best single policy; `exploitability` is half of the gap, as that counts what both players can gain.
        found["pool/duality_gap"] = 2 * exploitability(rates).min()
        return {name: float(value) for name, value in found.items() if not math.isnan(value)}

    def result(self, names: Sequence[str], judge: str) -> ArenaResult:
        """What came of some of the policies, as of an arena."""
        records, rows = [], []
        for row in self.rows:
            texts = [_recorded(row, self.answers[name][row.index])["completion"] for name in names]
            rows.append(replace(row, completions=texts))
            for i, j in rows[-1].pairs:
                key = _key(names[i], names[j])
                preference = self.verdicts[key][row.index]
                abstained = math.isnan(preference)
                records.append(
                    {
                        "row": row.index,
                        "first_index": i,
                        "second_index": j,
                        "first": texts[i],
                        "second": texts[j],
                        "preference": None if abstained else preference if key[0] == names[i] else 1 - preference,
                        "abstained": "no opinion" if abstained else None,
                    }
                )
        answers = [
            {row.index: _recorded(row, answer) for row, answer in zip(self.rows, self.answers[name], strict=True)}
            for name in names
        ]
        return ArenaResult(tuple(names), judge, rows, answers, records, {}, {})

    def state(self) -> dict[str, Any]:
        """All of it, for JSON."""
        verdicts = [
            [*pair, [[row, None if math.isnan(p) else p] for row, p in sorted(found.items())]]
            for pair, found in self.verdicts.items()
        ]
        names = ("answers", "current", "best", "_keys", "_sampled_by", "_judged_by")
        rows = [[row.prompt, row.columns] for row in self.rows]
        return {"rows": rows, "verdicts": verdicts} | {name.strip("_"): getattr(self, name) for name in names}

    @classmethod
    def of(cls, state: dict[str, Any]) -> "PoolGame":
        """The game that [`state`] is of."""
        game = cls()
        game.rows = [Row(index, prompt, [], columns) for index, (prompt, columns) in enumerate(state["rows"])]
        game.answers, game.current, game.best = state["answers"], state["current"], state["best"]
        game._keys, game._sampled_by, game._judged_by = state["keys"], state["sampled_by"], state["judged_by"]
        game.verdicts = {
            (first, second): {row: math.nan if p is None else p for row, p in found}
            for first, second, found in state["verdicts"]
        }
        return game


def _recorded(row: Row, answer: Answer) -> dict[str, Any]:
    """An answer as an arena has it."""
    turns, ending = (answer.get("beside", {}).get(name) for name in ("turns", "endings"))
    if turns is None:
        return answer_record(row, answer["text"], len(answer["ids"]), answer["ended"])
    return dialogue_record(row, turns, ending)


def _key(first: str, second: str) -> Pair:
    return (first, second) if first < second else (second, first)


def _means(p: np.ndarray) -> np.ndarray:
    """Means over prompts of those that were judged; `nan` of none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.nanmean(p, axis=0) if len(p) else np.full(p.shape[1:], np.nan)
