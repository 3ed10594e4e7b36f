# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the kernel has to reach on a GPU, read from a report of `benchmarks.logprob`."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .peers import LIGER, OURS, OURS_WITHOUT_STASH, TRL


TOKENS, HIDDEN_SIZE = 8192, 3584  # where times are judged: as many tokens, and a hidden size of at least this
MET, NOT_MET, NOT_MEASURED = "met", "not met", "not measured"


class Verdict(NamedTuple):
    what: str
    verdict: str
    found: str  # the worst of the shapes


def judge(report: dict) -> list[Verdict]:
    """One verdict a criterion."""
    logp = [error for error in report["errors"] if error["peer"] == OURS and error["dtype"] == "bfloat16"]
    return [
        _ratio(report, "frozen head, times as fast as TRL: at least 1.3", "frozen", TRL, 1.3),
        _ratio(report, "frozen head, times as fast as Liger's scaled CE: at least 1.5", "frozen", LIGER, 1.5),
        _ratio(report, "trained head, times as fast as TRL: at least 1.2", "full", TRL, 1.2),
        _worst(
            "trained head, peak memory over TRL's: at most 1",
            (_over(cell, TRL, "peak_mib") for cell in _cells(report, "full")),
            max,
            lambda value: value <= 1,
        ),
        _worst(
            "scoring, time over the fastest peer's: at most 1.05",
            (_over_the_best(cell) for cell in _cells(report, "score")),
            max,
            lambda value: value <= 1.05,
        ),
        _worst(
            "log-probs of bf16 inputs, largest error in nats: at most 5e-5",
            (error.get("logp_max", "failed") for error in logp),
            max,
            lambda value: value <= 5e-5,
        ),
    ]


def _cells(report: dict, scenario: str) -> list[dict[str, dict]]:
    """By implementation, the results in each cell that counts."""
    cells: dict[tuple, dict[str, dict]] = {}
    for result in report["results"]:
        if (result["scenario"], result["tokens"], result["dtype"], result["valid"]) == (
            scenario,
            TOKENS,
            "bfloat16",
            1.0,
        ) and result["hidden_size"] >= HIDDEN_SIZE:
            cells.setdefault((result["hidden_size"], result["vocabulary"]), {})[result["peer"]] = result
    return list(cells.values())


def _over(cell: dict[str, dict], peer: str, field: str) -> float | str | None:
    """Ours over a peer's; "failed" where ours did, `None` where the peer did or is not there."""
    if "error" in cell[OURS]:
        return "failed"
    theirs = cell.get(peer, {}).get(field)
    return None if theirs is None else cell[OURS][field] / theirs


def _over_the_best(cell: dict[str, dict]) -> float | str | None:
    ratios = [_over(cell, peer, "total_ms") for peer in cell if peer not in (OURS, OURS_WITHOUT_STASH)]
    return max((ratio for ratio in ratios if ratio is not None), default=None)


def _ratio(report: dict, what: str, scenario: str, peer: str, bar: float) -> Verdict:
    found = [_over(cell, peer, "total_ms") for cell in _cells(report, scenario)]
    inverted = [value if value in ("failed", None) else 1 / value for value in found]
    return _worst(what, inverted, min, lambda value: value >= bar)


def _worst(what: str, found: Iterable, worst: Callable, is_met: Callable[[float], bool]) -> Verdict:
    found = list(found)
    if "failed" in found:
        return Verdict(what, NOT_MET, "ours failed")
    if None in found or not found:
        return Verdict(what, NOT_MEASURED, "")
    value = worst(found)
    return Verdict(what, MET if is_met(value) else NOT_MET, f"{value:.3g}")
