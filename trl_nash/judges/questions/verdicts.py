# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Verdicts in what a judge says: where they are, and what they are worth."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Preset(NamedTuple):
    """A form of verdicts that is in use, and whether the last of several counts; else they must be the same."""

    pattern: str
    last: bool = False
    values: dict[str, float] | None = None


_LETTERS = r"(?:(?P<first>A)|(?P<second>B)|(?P<tie>C|tie))"
_NUMBER = r"-?\d+(?:\.\d+)?"
# Of five levels, in every way to write them: B<<A is A>>B.
_LEVELS = {"A>>B": 1.0, "A>B": 0.75, "A=B": 0.5, "B>A": 0.25, "B>>A": 0.0}
_LEVELS |= {"B<<A": 1.0, "B<A": 0.75, "B=A": 0.5, "A<B": 0.25, "A<<B": 0.0}

PRESETS = {
    "brackets": Preset(rf"\[\[{_LETTERS}\]\]"),  # MT-Bench, RewardBench: [[A]]
    "result": Preset(rf"\*\*Result:?\*\*:?\s*{_LETTERS}\b"),  # Selene: **Result:** A
    "winner": Preset(rf'"winner"\s*:\s*"(?:(?:model|response|assistant)[ _]?)?{_LETTERS}"', last=True),  # JSON
    "boxed": Preset(rf"\\boxed\{{\s*(?:\\text\{{)?{_LETTERS}\}}?\s*\}}", last=True),
    "prometheus": Preset(rf"\[RESULT\]:?\s*{_LETTERS}\b", last=True),  # [RESULT] A
    "scores": Preset(rf"Score A:?\**:?\s*(?P<first>{_NUMBER}).*?Score B:?\**:?\s*(?P<second>{_NUMBER})", last=True),
    "score-list": Preset(rf"\[\s*(?P<first>{_NUMBER})\s*,\s*(?P<second>{_NUMBER})\s*\]", last=True),
    # The form of the scores that DeepSeek-GRM ends with: \boxed{8, 5}
    "boxed-scores": Preset(rf"\\boxed\{{\s*(?P<first>{_NUMBER})\s*,\s*(?P<second>{_NUMBER})\s*\}}", last=True),
    # JudgeLRM: <answer>8</answer><answer>5</answer>
    "answer-scores": Preset(
        rf"<answer>\s*(?P<first>{_NUMBER})\s*</answer>\s*<answer>\s*(?P<second>{_NUMBER})\s*</answer>", last=True
    ),
    # Con-J: {"原因": ..., "更好的回答": 1}
    "con-j": Preset(r'"更好的回答"\s*[:：]\s*"?(?:(?P<first>[1１])|(?P<second>[2２]))', last=True),
    # Nemotron-GenRM: {"score_1": ..., "score_2": ..., "ranking": 2}, or the ranking in a box behind its headline.
    "ranking": Preset(
        r'(?:"ranking"\s*:\s*"?|\[The Begin of Ranking Score\]\s*\\boxed\{\s*)(?P<verdict>[1-6])\b',
        True,
        {str(ranking): (6 - ranking) / 5 for ranking in range(1, 7)},
    ),
    "arena-hard": Preset(r"\[\[?(?P<verdict>[AB](?:<<?|>>?|=)[AB])\]", True, _LEVELS),
}


class VerdictPattern:
    """
    Finds a judge's verdict in its words.

    Args:
        pattern (`str` or `dict[str, float]`):
            A key of `PRESETS`; a regular expression with groups named `first`, `second` and, if wanted, `tie`, one of
            which matches, or `first` and `second` both, which are then scores; or a table of texts and the
            probabilities that the first is better. Case does not matter unless texts differ in nothing else. Of
            several matches of an expression the last counts; texts of a table must all be the same.

    Raises:
        `ValueError`: If it is none of these.
    """

    def __init__(self, pattern: str | Mapping[str, float]):
        if isinstance(pattern, Mapping):
            keys = sorted(pattern, key=len, reverse=True)  # that a longer one is not taken for a shorter
            self._fold = len({key.upper() for key in keys}) == len(keys)
            preset = Preset("(?P<verdict>" + "|".join(map(re.escape, keys)) + ")", False, dict(pattern))
        else:
            self._fold = True
            preset = PRESETS.get(pattern) or Preset(pattern, last=True)
        self.last, self._values = preset.last, {self._key(k): float(v) for k, v in (preset.values or {}).items()}
        try:
            self.regex = re.compile(preset.pattern, re.DOTALL | re.IGNORECASE * self._fold)
        except re.error as error:
            raise ValueError(f"`verdict_pattern` {pattern!r} is no regular expression: {error}.") from None
        if not self._values and not {"first", "second"} <= self.regex.groupindex.keys():
            raise ValueError(
                f"`verdict_pattern` {pattern!r} needs groups named `first` and `second`, as in "
                f"'(?P<first>A)|(?P<second>B)', or is one of {', '.join(PRESETS)}."
            )
        self.scores = not self._values and "tie" not in self.regex.groupindex

    def _key(self, text: str) -> str:
        return text.upper() if self._fold else text

    def __call__(self, text: str) -> float | None:
        """The probability that the first is better; `None` without a verdict, or with several where one counts."""
        found = [value for match in self.regex.finditer(text) if (value := self._value(match)) is not None]
        if not found or (not self.last and len(set(found)) > 1):
            return None
        return found[-1]

    def _value(self, match: re.Match) -> float | None:
        groups = {name: text for name, text in match.groupdict().items() if text is not None}
        if self._values:
            return self._values.get(self._key(next(iter(groups.values()))))
        if {"first", "second"} <= groups.keys():
            try:
                first, second = float(groups["first"]), float(groups["second"])
            except ValueError:
                return None
            return 0.5 + 0.5 * ((first > second) - (first < second))
        return next(
            (value for name, value in {"first": 1.0, "second": 0.0, "tie": 0.5}.items() if name in groups), None
        )


def without_thinking(text: str) -> str | None:
    """
    What is said after thinking, which ends with the last `</think>`, whether it was opened here or by the template;
    `None` if it does not end.
    """
    said = text.rpartition("</think>")[2].strip()
    return None if "<think>" in said else said


def mean_verdict(verdicts: Sequence[float | None]) -> float | None:
    """
    What several answers say together: the mean of those that are verdicts, if half of all are; else the first reason
    for which one is none, or `None` if there is no reason.
    """
    said = [verdict for verdict in verdicts if verdict is not None and not math.isnan(verdict)]
    if said and 2 * len(said) >= len(verdicts):
        return sum(said) / len(said)
    return next((verdict for verdict in verdicts if verdict is not None and math.isnan(verdict)), None)
