# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From a file of pairs, or of several completions a prompt, to the questions of a judge."""

import csv
import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from .data import BUILDERS, check_characters, read_prompt
from .errors import UsageError
from .options import did_you_mean


# What the completions are read from, in the order in which it is looked for.
SHAPES = (("first", "second"), ("chosen", "rejected"), ("completions",))
LABELS = {"first": 1.0, "tie": 0.5, "second": 0.0}
ENCODING = "utf-8-sig"  # UTF-8, with or without the mark that Windows begins a file with


@dataclass(frozen=True)
class Row:
    """
    A row of the file.

    Args:
        index (`int`): its place in the file, from 0.
        prompt (`str` or `list[dict]`): text or messages.
        completions (`list[str]`): two or more texts.
        columns (`dict[str, Any]`): the other columns, which the judge may look at.
        label (`float`, *optional*): P(the first completion wins), where it is known.
    """

    index: int
    prompt: str | list[dict]
    completions: list[str]
    columns: dict[str, Any]
    label: float | None = None

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return list(combinations(range(len(self.completions)), 2))

    def question(self, pair: tuple[int, int]) -> str:
        """A short hash of all that the judge is asked about a pair."""
        text = json.dumps([self.prompt, *(self.completions[i] for i in pair), self.columns], default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_rows(name: str) -> list[Row]:
    """
    Reads a file of (prompt, first, second), (prompt, chosen, rejected) or (prompt, completions), with or without a
    `label` of the first against the second.

    Args:
        name (`str`): a .jsonl, .json, .csv or .parquet file.

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
    """The rows of a .jsonl, .json, .csv or .parquet file."""
    path = Path(name)
    if path.suffix not in BUILDERS:
        raise UsageError(f"{name}: pairs are read from {', '.join(BUILDERS)} files; convert it to one of them.")
    if not path.is_file():
        raise UsageError(f"{name}: there is no such file.")
    try:
        return READERS[path.suffix](path)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError, csv.Error) as error:  # of json, pyarrow and UTF-8, and of csv
        raise ValueError(f"{name} cannot be read as {path.suffix[1:]}: {error}") from None


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


def _read_jsonl(path: Path) -> list[dict]:
    rows = []
    with path.open(encoding=ENCODING) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from None
    return _objects(rows)


def _read_json(path: Path) -> list[dict]:
    rows = json.loads(path.read_text(encoding=ENCODING))
    if not isinstance(rows, list):
        raise ValueError(f"it holds a {type(rows).__name__} and not a list of rows.")
    return _objects(rows)


def _read_csv(path: Path) -> list[dict]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB is less than some answers have
    with path.open(encoding=ENCODING, newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        if None in row:
            raise ValueError(f"row {number} (from 0) has more cells than the heading has.")
        if row.get("completions") is not None:
            try:
                row["completions"] = json.loads(row["completions"])
            except json.JSONDecodeError:
                raise ValueError(f"`completions` of row {number} (from 0) is not a list in JSON.") from None
    return rows


def _read_parquet(path: Path) -> list[dict]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".parquet": _read_parquet}


def _objects(rows: list) -> list[dict]:
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} (from 0) is not an object of columns but {row!r:.80}.")
    return rows


def _find_shape(name: str, columns: list[str]) -> tuple[str, ...]:
    """Which of `SHAPES` the file has."""
    shape = next((shape for shape in SHAPES if set(shape) <= set(columns)), None)
    missing = [] if shape else list(min(SHAPES, key=lambda shape: _distance(shape, columns)))
    if "prompt" not in columns and shape != ("chosen", "rejected"):  # which may begin with their prompt
        missing.insert(0, "prompt")
    missing = [column for column in missing if column not in columns]
    if not missing:
        return shape
    others = [column for column in columns if column not in {"prompt", *sum(SHAPES, ())}]
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
    if row.get("prompt") in (None, "", []):
        if shape != ("chosen", "rejected"):
            raise ValueError("its prompt is empty")
        prompt = read_prompt(row, "chosen", as_turn=False)
    else:
        prompt = row["prompt"]
        if not isinstance(prompt, str | list):
            raise ValueError(f"its prompt is neither text nor a list of messages but {prompt!r:.80}")
        if isinstance(prompt, list):
            prompt = read_prompt(row, "prompt", as_turn=False)
    values = row.get(shape[0]) if shape == ("completions",) else [row.get(column) for column in shape]
    if not isinstance(values, list) or len(values) < 2:
        raise ValueError(f"`completions` must be a list of two or more, got {values!r:.80}")
    names = (
        [f"`completions[{i}]`" for i in range(len(values))] if shape == ("completions",) else map("`{}`".format, shape)
    )
    texts = [_text(value, prompt, name) for value, name in zip(values, names, strict=True)]
    if not row.get("prompt") and isinstance(prompt, str):
        texts = [text[len(prompt) :].strip() for text in texts]
    return prompt, texts


def _text(value: Any, prompt: str | list[dict], name: str) -> str:
    """A completion: a text, or the message of an assistant, perhaps with the prompt before it."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(turn, dict) and "role" in turn for turn in value):
        raise ValueError(f"{name} is neither text nor a list of messages but {value!r:.80}")
    turns = value
    if isinstance(prompt, list) and _plain(turns[: len(prompt)]) == _plain(prompt):
        turns = turns[len(prompt) :]
    elif isinstance(prompt, str):
        while turns and turns[0]["role"] != "assistant":
            turns = turns[1:]
    if len(turns) != 1 or turns[0]["role"] != "assistant" or not isinstance(turns[0].get("content"), str):
        raise ValueError(f"{name} must be the prompt's messages, if any, and one message of an assistant")
    return turns[0]["content"]


def _plain(turns: Iterable[dict]) -> list[tuple]:
    return [(turn["role"], turn.get("content")) for turn in turns]


def _listed(columns: list[str]) -> str:
    return ", ".join(columns) if len(columns) <= 12 else f"{', '.join(columns[:12])} and {len(columns) - 12} more"
