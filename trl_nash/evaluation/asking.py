# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Asking judges about the rows of a file, a batch at a time."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..judges.base import Abstained, PairwiseJudge, accepted
from .judgements import Output
from .rows import Row


ORDERS = ("both_orders", "disagreement", "flips")  # of a `Tally`


def judge_settings(spec: str, judge: PairwiseJudge, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What judgements depend on beside the question. Arguments may be secret, and only their hash is kept."""
    settings = judge.identity or json.dumps([spec, kwargs], sort_keys=True)
    return {"spec": spec, "order": judge.order, "settings": hashlib.sha256(settings.encode()).hexdigest()[:16]}


def judge_rows(
    name: str,
    judge: PairwiseJudge,
    rows: list[Row],
    output: Output,
    batch_size: int,
    advance: Callable[[int], None] = lambda judged: None,
) -> None:
    """
    Has those pairs of some rows judged on which there is no verdict; by a judge that sees groups all pairs of a row on
    one of which there is none, as they are one question.

    Args:
        name (`str`): `"judge"` or `"second_judge"`.
        judge ([`PairwiseJudge`]): who is asked.
        rows (`list[Row]`): of the file.
        output ([`Output`]): where the judgements go.
        batch_size (`int`): pairs in a call, but at least those of one row.
        advance (`Callable`, *optional*): is called with the number of pairs after each call of the judge.
    """
    missing = [output.missing(row, name) for row in rows]
    if judge.sees_groups:
        missing = [row if left.pairs else left for row, left in zip(rows, missing, strict=True)]
    for batch in batches([row for row in missing if row.pairs], batch_size):
        records = [output.record(row, pair) for row in batch for pair in row.pairs]
        for record, verdict in zip(records, ask(judge, batch, output, name), strict=True):
            _add(record, name.removesuffix("judge"), verdict)
        output.append(records, name)
        advance(len(records))


def batches(rows: list[Row], size: int) -> Iterator[list[Row]]:
    """Rows of as many pairs each, with about `size` of them together."""
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: (len(row.pairs), row.pairs)):
        if batch and (len(row.pairs) != len(batch[0].pairs) or (len(batch) + 1) * len(row.pairs) > size):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def ask(judge: PairwiseJudge, batch: list[Row], output: Output, name: str) -> list[float]:
    """The verdicts on all pairs of rows of as many pairs each. What they cost is counted in `output`."""
    used, start = dict(getattr(judge, "usage", {})), time.perf_counter()
    judge.tally.take()
    verdicts = None
    try:
        verdicts = _verdicts(judge, batch)
    finally:  # what did not come to its end has a cost too
        tally = judge.tally.take()
        counts = {"seconds": time.perf_counter() - start, "asked": tally.asked, "cached": tally.cached}
        counts |= {"labelled": tally.labelled, "label_mass": tally.mass} if tally.labelled else {}
        counts |= {f"read_as_{mode}": count for mode, count in tally.modes.items()}
        if verdicts is not None:  # else these pairs are to be judged, and counted, again
            counts |= {"pairs": len(verdicts)} | {key: getattr(tally, key) for key in ORDERS}
        for key, value in getattr(judge, "usage", {}).items():
            counts["request_seconds" if key == "seconds" else key] = value - used.get(key, 0)
        output.count(name, counts)
    reasons = " or ".join(sorted(+tally.abstained)) or "no opinion"
    return [
        Abstained(reasons) if math.isnan(value) and not isinstance(value, Abstained) else value for value in verdicts
    ]


def _verdicts(judge: PairwiseJudge, batch: list[Row]) -> list[float]:
    prompts = [row.prompt for row in batch]
    columns = {name: [row.columns[name] for row in batch] for name in batch[0].columns}
    if (
        type(judge).compare is not PairwiseJudge.compare
    ):  # it looks at completions, of which there are fewer than pairs
        columns = {name: values for name, values in columns.items() if name not in ("prompts", "completions")}
        there = [sorted({index for pair in row.pairs for index in pair}) for row in batch]
        most = max(map(len, there))
        texts = [
            [row.completions[index] for index in own + own[:1] * (most - len(own))]  # of each as many
            for row, own in zip(batch, there, strict=True)
        ]
        pairs = [[(own.index(i), own.index(j)) for i, j in row.pairs] for row, own in zip(batch, there, strict=True)]
        # A judge with a `compare` of its own may know nothing of pairs that differ by prompt.
        same = all(own == pairs[0] for own in pairs)
        return judge.compare(prompts, texts, pairs[0] if same else np.array(pairs), columns=columns).ravel().tolist()
    places = [(index, i, j) for index, row in enumerate(batch) for i, j in row.pairs]
    columns = accepted(judge.__call__, columns, positional=3)
    return judge(
        [prompts[index] for index, _, _ in places],
        [batch[index].completions[i] for index, i, _ in places],
        [batch[index].completions[j] for index, _, j in places],
        **{name: [values[index] for index, _, _ in places] for name, values in columns.items()},
    )


def _add(record: dict[str, Any], prefix: str, verdict: float) -> None:
    """Adds a verdict of the judge whose columns begin with `prefix`, "" or "second_"; an earlier one is kept."""
    if record.get(f"{prefix}preference") is None:
        abstained = math.isnan(verdict)
        record[f"{prefix}preference"] = None if abstained else float(verdict)
        record[f"{prefix}abstained"] = getattr(verdict, "reason", "no opinion") if abstained else None
