# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Asking judges about the rows of a file, a batch at a time."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..judges.base import Abstained, PairwiseJudge, accepted
from .judge_data import Row
from .judge_output import Output


COUNTED = ("asked", "cached", "both_orders", "disagreement", "flips")  # of a `Tally`


def judge_rows(
    judges: dict[str, PairwiseJudge],
    rows: list[Row],
    output: Output,
    batch_size: int,
    advance: Callable[[int], None] = lambda judged: None,
) -> None:
    """
    Has all pairs of some rows judged.

    Args:
        judges (`dict[str, PairwiseJudge]`): `"judge"`, and perhaps `"second_judge"`.
        rows (`list[Row]`): of the file.
        output ([`Output`]): where the judgements go.
        batch_size (`int`): pairs in a call, but at least those of one row.
        advance (`Callable`, *optional*): is called with the number of pairs after each call of the judges.
    """
    for batch in batches(rows, batch_size):
        verdicts = {name: ask(judge, batch, output, name) for name, judge in judges.items()}
        records = [_record(row, pair) for row in batch for pair in row.pairs]
        for name, values in verdicts.items():
            prefix = name.removesuffix("judge")  # "" or "second_"
            for record, value in zip(records, values, strict=True):
                abstained = math.isnan(value)
                record[f"{prefix}preference"] = None if abstained else float(value)
                record[f"{prefix}abstained"] = getattr(value, "reason", "no opinion") if abstained else None
        output.append(records)
        advance(len(records))


def batches(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """Rows of as many completions each, with about `size` pairs together."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: len(row.completions)):
        if batch and (len(row.completions) != len(batch[0].completions) or (len(batch) + 1) * len(row.pairs) > size):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def ask(judge: PairwiseJudge, batch: list[Row], output: Output, name: str) -> list[float]:
    """The verdicts on all pairs of rows of as many completions each. What they cost is counted in `output`."""
    used, start = dict(getattr(judge, "usage", {})), time.perf_counter()
    judge.tally.take()
    counts: dict[str, float] = {}
    try:
        verdicts = _verdicts(judge, batch)
        counts["pairs"] = len(verdicts)
    finally:  # also of what did not come to its end
        tally = judge.tally.take()
        counts |= {"seconds": time.perf_counter() - start} | {key: getattr(tally, key) for key in COUNTED}
        for key, value in getattr(judge, "usage", {}).items():
            counts["request_seconds" if key == "seconds" else key] = value - used.get(key, 0)
        output.count(name, counts)
    reasons = " or ".join(sorted(+tally.abstained)) or "no opinion"
    return [
        Abstained(reasons) if math.isnan(value) and not isinstance(value, Abstained) else value for value in verdicts
    ]


def _verdicts(judge: PairwiseJudge, batch: list[Row]) -> list[float]:
    pairs, prompts = batch[0].pairs, [row.prompt for row in batch]
    columns = {name: [row.columns[name] for row in batch] for name in batch[0].columns}
    if (
        type(judge).compare is not PairwiseJudge.compare
    ):  # it looks at completions, of which there are fewer than pairs
        columns = {name: values for name, values in columns.items() if name not in ("prompts", "completions")}
        compared = judge.compare(prompts, [row.completions for row in batch], pairs, columns=columns)
        return compared.ravel().tolist()
    places = [(index, i, j) for index in range(len(batch)) for i, j in pairs]
    columns = accepted(judge.__call__, columns, positional=3)
    return judge(
        [prompts[index] for index, _, _ in places],
        [batch[index].completions[i] for index, i, _ in places],
        [batch[index].completions[j] for index, _, j in places],
        **{name: [values[index] for index, _, _ in places] for name, values in columns.items()},
    )


def _record(row: Row, pair: tuple[int, int]) -> dict[str, Any]:
    first, second = pair
    record = {"id": row.question(pair), "row": row.index, "first_index": first, "second_index": second}
    texts = {"prompt": row.prompt, "first": row.completions[first], "second": row.completions[second]}
    return record | texts | {"label": row.label}
