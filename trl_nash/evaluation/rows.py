# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From a file of pairs, or of several completions a prompt, to the questions of a judge."""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ..data.columns import PROMPT_COLUMNS, as_turn, check_characters, find_prompt_column, read_prompt, shared_start
from ..data.files import FORMATS, ending_of
from ..data.files import read_rows as read_table_rows
from ..data.messages import as_message, is_messages
from ..judges.calls import joined
from ..judges.transcript import Transcript
from ..usage import UsageError, did_you_mean


# What the completions are read from, in the order in which it is looked for.
SHAPES = (("first", "second"), ("chosen", "rejected"), ("completions",))
LABELS = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True)
class Row:
    """
    A row of the file.

    Args:
        index (`int`): its place in the file, from 0.
        prompt (`str` or `list[dict]`): text or messages.
        completions (`list[str | None]`): two or more texts, dialogues as [`~judges.transcript.Transcript`];
            `None` where there is none, which is in no pair.
        columns (`dict[str, Any]`): the other columns, which the judge may look at.
        label (`float`, *optional*): P(the first completion wins), where it is known.
        asked (`tuple[tuple[int, int], ...]`, *optional*): the pairs that are compared, if not all of them are.
    """

    index: int
    prompt: str | list[dict]
    completions: list[str | None]
    columns: dict[str, Any]
    label: float | None = None
    asked: tuple[tuple[int, int], ...] | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        there = {index for index, text in enumerate(self.completions) if text is not None}
        if self.asked is None:
            return list(combinations(sorted(there), 2))
        return [(i, j) for i, j in self.asked if i in there and j in there]

    def question(self, pair: tuple[int, int]) -> str:
        """A short hash of all that the judge is asked about a pair."""
        text = json.dumps([self.prompt, *(self.completions[i] for i in pair), self.columns], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(name: str) -> list[Row]:
    """
    Reads a file of (prompt, first, second), (prompt, chosen, rejected) or (prompt, completions), with or without a
    `label` of the first against the second.

    Args:
        name (`str`): a file in one of the formats of [`~trl_nash.data.files`].

    Returns:
        `list[Row]`

    Raises:
        UsageError: If there is no such file or column, or no row.
        ValueError: If a row cannot be used; the message says which and why.
    """
    rows = read_table(name)
    if not rows:
        raise UsageError(f"{name} has no rows.")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    shape = _find_shape(name, columns)
    used = {"prompt", *shape} | ({"label"} if shape != ("chosen", "rejected") else set())
    found = []
    for index, row in enumerate(rows):
        try:
            prompt, completions = _read_texts(row, shape)
            check_characters([prompt, *completions])
            label = 1.0 if shape == ("chosen", "rejected") else read_label(row.get("label"))
            if label is not None and len(completions) > 2:
                raise ValueError(f"`label` says which of two completions wins, and there are {len(completions)}")
        except ValueError as error:
            raise ValueError(f"{name}: row {index} (from 0) cannot be used: {error}. Repair or remove it.") from None
        rest = {column: row.get(column) for column in columns if column not in used}
        found.append(Row(index, prompt, completions, rest, label))
    return found


def read_table(name: str) -> list[dict[str, Any]]:
    """The rows of a file as they are."""
    if ending_of(name) is None:
        raise UsageError(f"{name}: rows are read from {FORMATS}; convert it to one of them.")
    try:
        return read_table_rows(name)
    except FileNotFoundError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}.") from None


def read_label(value: Any) -> float | None:
    """
    P(first wins) of a label: a number from 0 to 1, a text with one in it, "first", "second" or "tie". Missing values
    (`None`, `nan`, an empty text) are `None`.

    Raises:
        ValueError: If it is anything else.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.strip().lower() in LABELS:
        return LABELS[value.strip().lower()]
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = -1.0
    if math.isnan(number):
        return None
    if not 0 <= number <= 1:
        raise ValueError(
            f'`label` must be P(first wins) from 0 to 1, or "first", "second" or "tie"; got {value!r:.80}'
        )
    return number


def _find_shape(name: str, columns: list[str]) -> tuple[str, ...]:
    """Which of `SHAPES` the file has."""
    shape = next((shape for shape in SHAPES if set(shape) <= set(columns)), None)
    missing = [] if shape else list(min(SHAPES, key=lambda shape: _distance(shape, columns)))
    if not set(PROMPT_COLUMNS) & set(columns):
        missing.insert(0, "prompt")
    missing = [column for column in missing if column not in columns]
    if not missing:
        return shape
    others = [column for column in columns if column not in {*PROMPT_COLUMNS, *sum(SHAPES, ())}]
    hint = did_you_mean(missing[0], others)
    raise UsageError(
        f"{name} has no column `{missing[0]}`{hint[:-1] + ', rename it' if hint else ''}. It has "
        f"{_listed(columns)}; needed are prompt with first and second, with chosen and rejected, or with completions."
    )


def _distance(shape: tuple[str, ...], columns: list[str]) -> int:
    """Of the columns of a shape, twice those that are missing with nothing near, and once those with something."""
    missing = [column for column in shape if column not in columns]
    return sum(1 if did_you_mean(column, columns) else 2 for column in missing) + (len(missing) == len(shape))


def _read_texts(row: dict[str, Any], shape: tuple[str, ...]) -> tuple[str | list[dict], list[str]]:
    try:
        column = find_prompt_column(row, None, "it")
        prompt = read_prompt(row, column)
    except ValueError as error:
        raise ValueError(f"its prompt: {error}") from None
    values = row.get(shape[0]) if shape == ("completions",) else [row.get(column) for column in shape]
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"`completions` must be a list of two or more, got {values!r:.80}")
    names = (
        [f"`completions[{i}]`" for i in range(len(values))] if shape == ("completions",) else map("`{}`".format, shape)
    )
    texts = [read_text(value, prompt, name) for value, name in zip(values, names, strict=True)]
    if column == "chosen" and isinstance(values[0], str):
        shared = len(shared_start(*values))
        texts = [text[shared:].strip() for text in texts]
    return prompt, texts


def read_text(value: Any, prompt: str | list[dict], name: str) -> str:
    """A completion: a text, or the messages of an answer or a dialogue, perhaps with the prompt before them."""
    if isinstance(value, str):
        return value
    value = [value] if isinstance(value, dict) else value
    if not is_messages(value):
        raise ValueError(f"{name} is neither text nor a list of messages but {value!r:.80}")
    turns = joined([as_message(turn) for turn in value])
    before = as_turn(prompt)
    system = int(isinstance(prompt, str) and turns[0]["role"] == "system")  # which the text of a prompt lacks
    if _plain(turns[system : system + len(before)]) == _plain(before):
        turns = turns[system + len(before) :]
    if not turns or turns[0]["role"] != "assistant":
        raise ValueError(f"{name} must be the prompt's messages, if any, and an assistant's, which others may follow")
    for number, turn in enumerate(turns):
        content = turn.get("content")
        if not (isinstance(content, str) or content is None and turn.get("tool_calls")):
            raise ValueError(f"message {number} of {name} (behind the prompt) has no text but {content!r:.80}")
    return turns[0]["content"] if len(turns) == 1 and not turns[0].get("tool_calls") else Transcript(turns)


def _plain(turns: Iterable[dict]) -> list[tuple]:
    return [(turn["role"], str(turn.get("content") or "").strip()) for turn in turns]


def _listed(columns: list[str]) -> str:
    return ", ".join(columns) if len(columns) <= 12 else f"{', '.join(columns[:12])} and {len(columns) - 12} more"
