# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judgements on disk, written as they come, so that a run that was interrupted goes on where it stopped."""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..usage import UsageError
from .rows import Row, read_table


SUFFIXES = (".jsonl", ".parquet")
NO_ANSWER = "server"  # why a judge abstains whose server gave no answer, which it may give the next time
Key = tuple[int, int, int]  # row, index of the first completion, index of the second


class Output:
    """
    The judgements of a run, a dictionary for each pair: `id`, `row`, `first_index`, `second_index`, `prompt`, `first`,
    `second`, `label`, `preference`, `abstained`, and with a second judge `second_preference`, `second_abstained`.

    While the judges work, lines are appended to a JSONL file (of Parquet `NAME.jsonl` beside it), of which the last of
    a pair counts. At the end the file is written anew: a row for each pair, in the order of the input. `NAME.run.json`
    says what judged, and what was counted.

    Args:
        path (`Path`, *optional*):
            A .jsonl or .parquet file; without it nothing is kept.
        settings (`dict[str, Any]`):
            What the judgements depend on, beside the rows.
        option (`str`, *optional*, defaults to `"--output"`):
            Where the user names another place, for messages.

    Attributes:
        records (`dict[Key, dict]`): the judgements.
        counts (`dict[str, Counter]`): for `"judge"` and `"second_judge"` what was counted in all runs.

    Raises:
        UsageError: If the file is another run's, or none of this command.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], option: str = "--output"):
        self.path, self.settings, self.option = path, settings, option
        self.records: dict[Key, dict[str, Any]] = {}
        self.counts: dict[str, Counter] = {name: Counter() for name in settings}
        self._asked: set[tuple[str, int, int, int]] = set()  # by this run, whatever was answered
        if path is None:
            return
        self.lines, self.state = _files(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read()
            self._save_state()
        except OSError as error:
            raise UsageError(f"{option} {path}: {error.strerror}. Name another file.") from None

    def record(self, row: Row, pair: tuple[int, int]) -> dict[str, Any]:
        """
        What is known of a pair: its texts, and the verdicts that there are.

        Raises:
            UsageError: If the pair was judged when it was another one in the file.
        """
        first, second = pair
        record = {"id": row.question(pair), "row": row.index, "first_index": first, "second_index": second}
        earlier = self.records.get((row.index, *pair), record)
        if earlier["id"] != record["id"]:
            raise UsageError(
                f"Row {row.index} (from 0) is not what it was when {self.path} was written: name another "
                f"{self.option}."
            )
        texts = {"prompt": row.prompt, "first": row.completions[first], "second": row.completions[second]}
        return earlier | texts | {"label": row.label}

    def missing(self, row: Row, name: str) -> Row:
        """
        The row with those of its pairs that a judge is still to be asked about: it was not, or its server gave no
        answer in an earlier run.
        """
        prefix = name.removesuffix("judge")

        def is_missing(pair: tuple[int, int]) -> bool:
            record = self.record(row, pair)
            reason = record.get(f"{prefix}abstained")
            if record.get(f"{prefix}preference") is not None or (name, row.index, *pair) in self._asked:
                return False
            return reason is None or NO_ANSWER in reason.split(" or ")

        return replace(row, asked=tuple(pair for pair in row.pairs if is_missing(pair)))

    def append(self, records: list[dict[str, Any]], name: str) -> None:
        """Adds what a judge has said, also to what another one has; what has returned is on disk."""
        self._asked |= {(name, *key) for key in _by_pair(records)}
        with open(os.devnull if self.path is None else self.lines, "a", encoding="utf-8") as file:
            file.write(as_lines(records))
            file.flush()
            self.records |= _by_pair(records)  # before a Ctrl-C finds the disk at work
            if self.path is not None:
                os.fsync(file.fileno())

    def count(self, name: str, counts: dict[str, float]) -> None:
        """Adds to what was counted of a judge."""
        self.counts[name].update(counts)
        if self.path is not None:
            self._save_state()

    def finish(self, rows: list[Row]) -> None:
        """Writes the file: each pair once, in the order of the input, with the labels that it has now."""
        self.records |= _by_pair([self.record(row, pair) for row in rows for pair in row.pairs])
        if self.path is None:
            return
        records = [self.records[key] for key in sorted(self.records)]
        temporary = self.path.with_name(f"{self.path.name}.tmp")
        if self.path == self.lines:
            temporary.write_text(as_lines(records), encoding="utf-8")
        else:
            _write_parquet(records, temporary)
        temporary.replace(self.path)
        if self.path != self.lines:
            self.lines.unlink(missing_ok=True)

    def _read(self) -> None:
        if not self.state.exists():
            for file in {self.path, self.lines}:
                if file.exists() and file.stat().st_size:
                    raise UsageError(
                        f"{file} is there already, and not as `trl-nash judge` leaves it: name another {self.option}."
                    )
            return
        try:
            state = json.loads(self.state.read_text(encoding="utf-8"))
            earlier, counts = state["judges"], state["counts"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{self.state} is damaged: remove it and {self.path}, or name another {self.option}."
            ) from None
        if earlier != self.settings:
            named = " and ".join(judge["spec"] for judge in earlier.values())
            raise UsageError(
                f"{self.path} holds judgements of {named} with other settings than these: name another {self.option}."
            )
        self.counts |= {name: Counter(values) for name, values in counts.items()}
        try:
            self.records = _read_records(self.path)
        except KeyError as error:
            raise UsageError(
                f"{self.path} has a row without {error}: put it back as it was, or name another {self.option}."
            ) from None

    def _save_state(self) -> None:
        temporary = self.state.with_name(f"{self.state.name}.tmp")
        temporary.write_text(json.dumps({"judges": self.settings, "counts": self.counts}, indent=1), encoding="utf-8")
        temporary.replace(self.state)


def stored(path: Path) -> tuple[dict[Key, dict[str, Any]], dict[str, dict[str, float]]]:
    """The judgements in a file, and what was counted of the judges: whoever they are. Empty where there is none."""
    _, state = _files(path)
    if not state.exists():
        return {}, {}
    return _read_records(path), json.loads(state.read_text(encoding="utf-8"))["counts"]


def _files(path: Path) -> tuple[Path, Path]:
    """Where lines are appended, and what says who judged."""
    lines = path if path.suffix == ".jsonl" else path.with_name(f"{path.name}.jsonl")
    return lines, path.with_name(f"{path.name}.run.json")


def _read_records(path: Path) -> dict[Key, dict[str, Any]]:
    lines, _ = _files(path)
    records = []
    if path != lines and path.exists():
        records += read_table(str(path))
    if lines.exists():
        drop_torn_line(lines)
        records += read_table(str(lines))
    return _by_pair(records)


def _by_pair(records: list[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    return {(record["row"], record["first_index"], record["second_index"]): record for record in records}


def as_lines(records: list[dict[str, Any]]) -> str:
    """JSONL."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def drop_torn_line(path: Path) -> None:
    """Cuts off a last line without its end, which a process was killed while writing."""
    with path.open("rb+") as file:
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)


def _write_parquet(records: list[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    types = {"row": pa.int64(), "first_index": pa.int64(), "second_index": pa.int64()}
    types |= dict.fromkeys(("preference", "second_preference", "label"), pa.float64())
    types |= dict.fromkeys(("id", "first", "second", "abstained", "second_abstained"), pa.string())
    names = dict.fromkeys(name for record in records for name in record)
    columns = {name: [record.get(name) for record in records] for name in names}
    try:
        columns["prompt"] = pa.array(columns["prompt"])
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # texts and messages in one column
        columns["prompt"] = [text if isinstance(text, str) else json.dumps(text) for text in columns["prompt"]]
    arrays = {name: pa.array(values, type=types.get(name)) for name, values in columns.items()}
    pyarrow.parquet.write_table(pa.table(arrays), path)
