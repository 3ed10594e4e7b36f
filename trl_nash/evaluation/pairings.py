# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a pairing asks about the completions of a file, and how near what it finds is to what another one finds."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from ..judges.base import PairwiseJudge
from ..rounds.metrics import win_rate_interval
from ..rounds.pairings import Groups, Pairing, pairing_of, win_rates
from ..usage import UsageError
from .judgements import Output
from .report import text_table
from .rows import Row


SIZED = ("random", "active")  # which take `pairs_per_prompt`


@dataclass(frozen=True)
class Played:
    """
    What a pairing has made of rows.

    Attributes:
        pairing ([`Pairing`]): which.
        rows (`list[Row]`): with the pairs that it asked.
        rates (`list[np.ndarray]`): the win rates of each row's completions, as [`win_rates`] finds them.
    """

    pairing: Pairing
    rows: list[Row]
    rates: list[np.ndarray]

    @property
    def pairs(self) -> int:
        """Pairs that a judge has been asked; of equal texts it is not."""
        return sum(row.completions[i] != row.completions[j] for row in self.rows for i, j in row.pairs)


def choose(
    selections: dict[str, str | None], pairs_per_prompt: int | None, rows: list[Row], judges: Iterable[PairwiseJudge]
) -> list[Pairing]:
    """
    The pairings that options name.

    Args:
        selections (`dict[str, str | None]`): by option; the first one is asked, others are compared with it.
        pairs_per_prompt (`int`, *optional*): of `"random"` and `"active"` among them.
        rows (`list[Row]`): whose completions are compared.
        judges (`Iterable[PairwiseJudge]`): who compare them.

    Raises:
        `UsageError`: If one does not go with the rows, the judges or another one.
    """
    found: list[Pairing] = []
    for option, selection in selections.items():
        sized = selection in SIZED
        try:
            if selection is not None:
                found.append(pairing_of(selection, pairs_per_prompt if sized else None))
                for count in sorted({len(row.completions) for row in rows}):
                    found[-1].check(count)
        except ValueError as error:
            said = (
                str(error)
                .replace("`num_generations`", "completions")
                .replace("`pairs_per_prompt`", "--pairs_per_prompt")
            )
            raise UsageError(re.sub("`pair_selection(=[^`]*)?`", rf"--{option}\1", said)) from None
    if pairs_per_prompt is not None and not set(SIZED) & set(selections.values()):
        raise UsageError("--pairs_per_prompt belongs to random and active, which are not asked for: leave it out.")
    if len({pairing.name for pairing in found}) < len(found):
        raise UsageError(f"{found[0].name} is asked already: name another pairing to compare with it.")
    waves = max(found[0].waves(len(row.completions)) for row in rows)
    if waves > 1 and (names := [judge.name for judge in judges if judge.sees_groups]):
        raise UsageError(
            f"The judge {names[0]} sees all completions of a prompt at once, and {found[0].name} saves nothing: leave "
            "--pair_selection at all, which costs no more."
        )
    return found


def play(pairing: Pairing, rows: list[Row], output: Output, ask: Callable[[list[Row]], None]) -> Played:
    """
    Has a pairing choose which pairs of the completions are judged, wave after wave.

    Args:
        pairing ([`Pairing`]): who chooses. What it draws depends on its wave and the rows alone.
        rows (`list[Row]`): with their completions.
        output ([`Output`]): where the verdicts are then.
        ask (`Callable`): has those pairs of some rows judged that are not in `output`.
    """
    by_size = defaultdict(list)
    for row in rows:
        by_size[len(row.completions)].append(row)
    asked: dict[int, Row] = {}
    rates: dict[int, np.ndarray] = {}
    for count, own in by_size.items():

        def verdicts(pairs: np.ndarray, own: list[Row] = own) -> np.ndarray:
            chosen = [replace(row, asked=_each_once(some)) for row, some in zip(own, pairs.tolist(), strict=True)]
            ask([row for row in chosen if row.asked])
            return np.array(
                [[_verdict(output, row, i, j) for i, j in some] for row, some in zip(own, pairs.tolist(), strict=True)]
            ).reshape(pairs.shape[:2])

        keys = np.array([[row.completions.index(text) for text in row.completions] for row in own])
        compared = pairing.compare(verdicts, Groups(len(own), count, seed=count, keys=keys))
        for row, some, found in zip(own, compared.pairs.tolist(), win_rates(compared, count), strict=True):
            asked[row.index], rates[row.index] = replace(row, asked=_each_once(some)), found
    return Played(pairing, [asked[row.index] for row in rows], [rates[row.index] for row in rows])


def agreement_of(one: Played, other: Played) -> dict[str, Any]:
    """
    How near the win rates that another pairing finds are to those of one.

    Returns:
        `dict[str, Any]`: `rank_correlation`, the mean over prompts of Spearman's of the completions' win rates (of a
        completion without a verdict ½), and `same_best`, how often the best by the other pairing is the best by this
        one, where several are the best drawn from them; both with an `interval` of 95 % and over `prompts`. Prompts
        on which all are equally good for a pairing have no rank correlation, and those without a verdict neither.
    """
    from scipy.stats import rankdata

    correlations, best = [], []
    for a, b in zip(one.rates, other.rates, strict=True):
        if np.isnan(a).all() or np.isnan(b).all():
            continue
        a, b = np.nan_to_num(a, nan=0.5).round(9), np.nan_to_num(b, nan=0.5).round(9)
        best.append(float((a == a.max())[b == b.max()].mean()))
        ranks = [rankdata(rates) - (len(rates) + 1) / 2 for rates in (a, b)]
        size = math.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum())
        correlations += [float((ranks[0] * ranks[1]).sum() / size)] if size else []
    return {"rank_correlation": _mean(correlations, lowest=-1.0), "same_best": _mean(best, lowest=0.0)}


def summary(
    one: Played, other: Played, counts: dict[str, float], price: float | None = None, whole: bool = False
) -> dict[str, Any]:
    """
    What two pairings ask of a judge, what that costs at the mean of its pairs, and how near they come to each other.

    Args:
        one, other ([`Played`]): of the same rows.
        counts (`dict[str, float]`): of the judge, as [`Output`] has them.
        price (`float`, *optional*): of all that was asked.
        whole (`bool`, *optional*): whether the judge was asked about all completions of a row at once, which costs the
            same whichever pairs are wanted, and again in each wave.
    """
    each = {"seconds": counts.get("seconds", 0.0)} | ({} if price is None else {"price": price})
    if whole:
        every = sum(len(replace(row, asked=None).pairs) for row in one.rows)
        cost = {name: value * every / counts["pairs"] for name, value in each.items() if counts.get("pairs")}
        costs = {
            played.pairing.name: {"pairs": played.pairs, "waves": waves}
            | {name: waves * value for name, value in cost.items()}
            for played in (one, other)
            for waves in [max(map(played.pairing.waves, _sizes(played)))]
        }
        return {"costs": costs, "prompts": len(one.rows)} | agreement_of(one, other)
    differ = {
        (row.index, i, j): row.completions[i] != row.completions[j]
        for played in (one, other)
        for row in played.rows
        for i, j in row.pairs
    }
    asked = counts.get("pairs", 0) * sum(differ.values()) / max(1, len(differ))  # those of equal texts cost nothing
    costs = {
        played.pairing.name: {"pairs": played.pairs, "waves": max(map(played.pairing.waves, _sizes(played)))}
        | {name: played.pairs * value / asked for name, value in each.items() if asked}
        for played in (one, other)
    }
    return {"costs": costs, "prompts": len(one.rows)} | agreement_of(one, other)


def print_summary(console: Console, found: dict[str, Any]) -> None:
    """Prints what [`summary`] finds."""
    names = list(found["costs"])
    table = text_table("", *names)
    for key, form in {"pairs": "{:,}", "waves": "{}", "seconds": "{:,.1f}", "price": "{:.4g}"}.items():
        if all(key in cost for cost in found["costs"].values()):
            table.add_row(key, *(form.format(cost[key]) for cost in found["costs"].values()))
    console.print("", table)
    for key, text in {"rank_correlation": "rank correlation with", "same_best": "same best as"}.items():
        value = found[key]
        if value["prompts"]:
            low, high = value["interval"]
            within = "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
            said = f"{names[1]}: {text} {names[0]} {value['mean']:.3f}{within} over {value['prompts']:,} prompts"
            console.print(escape(said), soft_wrap=True)


def _each_once(pairs: list[list[int]]) -> tuple[tuple[int, int], ...]:
    """The pairs as [`Output`] keeps them: the lower index first."""
    return tuple(dict.fromkeys((min(i, j), max(i, j)) for i, j in pairs if i != j))


def _verdict(output: Output, row: Row, i: int, j: int) -> float:
    """P(i beats j)."""
    if i == j:
        return 0.5
    p = output.records[row.index, min(i, j), max(i, j)].get("preference")
    return math.nan if p is None else p if i < j else 1 - p


def _sizes(played: Played) -> set[int]:
    return {len(row.completions) for row in played.rows}


def _mean(values: list[float], lowest: float) -> dict[str, Any]:
    """Mean of values from `lowest` to 1, with the interval of a share of the way between."""
    count, mean = len(values), float(np.mean(values)) if values else math.nan
    interval = (math.nan, math.nan)
    if count > 1:
        width = 1 - lowest
        share, error = (mean - lowest) / width, float(np.std(values, ddof=1)) / math.sqrt(count) / width
        low, high = win_rate_interval(share, error, count)
        interval = lowest + width * low, lowest + width * high
    return {"mean": mean, "interval": interval, "prompts": count}
