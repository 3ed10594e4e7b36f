# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Answers of a policy on disk, written as they come, and prompts and answers from files."""

import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...data.columns import as_turn, check_characters, find_prompt_column, read_prompt
from ...data.messages import Message, prompt_of
from ...judges.transcript import Transcript
from ...usage import UsageError
from ..judgements import as_lines, drop_torn_line
from ..rows import Row, read_table, read_text


logger = logging.getLogger(__name__)

COMPLETION_COLUMNS = ("completion", "output", "response")  # of files of completions; AlpacaEval's is `output`


class Answers:
    """
    The answers of one policy, a line of JSON each: `row`, `prompt`, `completion`, and of sampled ones `tokens`,
    whether they came to their end (`ended`), and `seconds`. A completion that is a dialogue is a list of messages, in
    memory a [`~judges.transcript.Transcript`]. It has its `ending`, too; of one that failed there is no completion.

    Args:
        path (`Path`): a .jsonl file; a last line that a kill has torn is cut off.

    Attributes:
        records (`dict[int, dict]`): by the row of the prompt.

    Raises:
        UsageError: If the file is no file of answers.
    """

    def __init__(self, path: Path):
        self.path = path
        self.records: dict[int, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Reads what is there by now."""
        if not self.path.exists():
            return
        drop_torn_line(self.path)
        try:
            for record in read_table(str(self.path)):
                if isinstance(completion := record["completion"], list):
                    completion = Transcript(completion)
                self.records[record["row"]] = {"prompt": record["prompt"]} | record | {"completion": completion}
        except KeyError as error:
            raise UsageError(f"{self.path} has a line without {error}: remove the file to sample it again.") from None

    def missing(self, rows: Iterable[Row]) -> list[Row]:
        """
        The rows that are not answered yet, or whose dialogue failed: another time its user may do his part.

        Raises:
            UsageError: If one was answered when it was another prompt.
        """
        rows = list(rows)
        for row in rows:
            if row.index in self.records and self.records[row.index]["prompt"] != row.prompt:
                raise UsageError(
                    f"Prompt {row.index} (from 0) is not what it was when {self.path} was written: name another "
                    "output_dir."
                )
        return [row for row in rows if self.records.get(row.index, {}).get("completion") is None]

    def to(self, rows: Iterable[Row]) -> dict[int, dict[str, Any]]:
        """The records of these prompts."""
        return {row.index: self.records[row.index] for row in rows if row.index in self.records}

    def append(self, records: list[dict[str, Any]]) -> None:
        """Adds answers; what has returned is on disk."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            stored = [r | {"completion": getattr(r["completion"], "messages", r["completion"])} for r in records]
            file.write(as_lines(stored))
            file.flush()
            os.fsync(file.fileno())
        self.records |= {record["row"]: record for record in records}

    @property
    def seconds(self) -> float | None:
        """Mean time of an answer, where it was measured."""
        known = [record["seconds"] for record in self.records.values() if record.get("seconds") is not None]
        return sum(known) / len(known) if known else None


def answer_record(row: Row, completion: str | None, tokens: int | None, ended: bool | None) -> dict[str, Any]:
    """An answer that was sampled, as [`Answers`] has it, but for the time that it took."""
    return {"row": row.index, "prompt": row.prompt, "completion": completion, "tokens": tokens, "ended": ended}


def dialogue_record(row: Row, turns: list[Message], ending: str, tokens: int | None = None) -> dict[str, Any]:
    """
    A dialogue that was played, as [`Answers`] has it, but for the time.

    Args:
        row (`Row`): of the prompt.
        turns (`list[dict]`): the messages behind it.
        ending (`str`): one of `ENDINGS`, or in which way it failed.
        tokens (`int`, *optional*): that the policy has sampled.
    """
    from ...rounds.batch import ENDINGS  # and torch

    failed = ending not in ENDINGS
    completion, ended = (None, None) if failed else (Transcript(turns), ending in ("over", "max_turns"))
    return answer_record(row, completion, tokens, ended) | {"ending": ending}


def read_prompts(name: str, column: str | None = None) -> list[Row]:
    """
    The prompts of a file, as rows without completions.

    Args:
        name (`str`): a file in one of the formats of [`~trl_nash.data.files`].
        column (`str`, *optional*): that holds the prompts; by default as in training.

    Raises:
        UsageError: If there is no such file, no row, or no column of prompts.
        ValueError: If a row cannot be used; the message says which and why.
    """
    table = read_table(name)
    if not table:
        raise UsageError(f"{name} has no rows.")
    column = find_prompt_column(table[0], column, name)
    columns = list(dict.fromkeys(key for row in table for key in row if key not in (column, "prompt")))
    rows = []
    for index, row in enumerate(table):
        try:
            prompt = prompt_of(row | {"prompt": read_prompt(row, column)})
            check_characters([prompt])
        except ValueError as error:
            raise ValueError(f"{name}: row {index} (from 0) cannot be used: {error}. Repair or remove it.") from None
        rows.append(Row(index, prompt, [], {key: row.get(key) for key in columns}))
    return rows


def read_completions(name: str, rows: list[Row]) -> list[dict[str, Any]]:
    """
    The completions in a file, one of each prompt that is in it, in the order of `rows`.

    Args:
        name (`str`):
            A file with a column of prompts, as in training, and `completion`, `output` or `response`, texts or the
            messages of dialogues.
        rows (`list[Row]`): the prompts. Of a prompt that is asked twice the second completion in the file is taken.

    Raises:
        UsageError: If there is no column of completions, or none of one of the prompts.
        ValueError: If a row cannot be used.
    """
    table = read_table(name)
    column = next((key for key in COMPLETION_COLUMNS if any(key in row for row in table)), None)
    if column is None:
        raise UsageError(f"{name} has no completions: a column {', '.join(COMPLETION_COLUMNS[:-1])} or response.")
    found: dict[str, list[str]] = defaultdict(list)
    prompts = find_prompt_column(table[0], None, name)
    for index, row in enumerate(table):
        try:
            prompt = read_prompt(row, prompts)
            if row.get(column) is None and row.get("ending"):
                continue  # a dialogue of an arena that failed
            text = read_text(row.get(column), prompt, f"`{column}`")
            check_characters(text)
        except ValueError as error:
            raise ValueError(f"{name}: row {index} (from 0) cannot be used: {error}. Repair or remove it.") from None
        found[_key(prompt)].append(text)
    taken = [(row, texts.pop(0)) for row in rows if (texts := found.get(_key(row.prompt)))]
    if not taken:
        raise UsageError(f"{name} has completions of other prompts: none of its {len(table):,} rows is one of these.")
    asked = {_key(row.prompt) for row in rows}
    others = sum(len(texts) for key, texts in found.items() if key not in asked)
    further = sum(len(texts) for key, texts in found.items() if key in asked)
    for count, what in ((others, "of other prompts"), (further, "further answers to a prompt")):
        if count:
            logger.warning("%s: %s of its %s rows are %s, and left out.", name, f"{count:,}", f"{len(table):,}", what)
    return [{"row": row.index, "prompt": row.prompt, "completion": text} for row, text in taken]


def _key(prompt: Any) -> str:
    """The same for a text and for one turn of the user that says it."""
    return json.dumps([[turn["role"], turn.get("content")] for turn in as_turn(prompt)])
