# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash arena` prints and writes."""

import json
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

from ..matrix import Cycle, Estimate
from ..report import text_table
from .contestants import Contestant
from .exports import write_alpaca_eval, write_arena_hard
from .page import save_page
from .result import ArenaResult
from .standings import Standing, Standings


def print_standings(console: Console, standings: Standings) -> None:
    """Prints a line for each policy, and what no line says."""
    best = [f"by best of {standings.count}"] * bool(standings.count)
    table = text_table("policy", "win rate", "equal length", "equilibrium", "exploitable", *best, "Elo")
    for column in table.columns[1:]:
        column.no_wrap = True
    for line in standings.lines:
        table.add_row(
            escape(line.name),
            with_half(line.win_rate),
            percent(line.length_controlled),
            percent(line.weight.value),
            percent(line.exploitability.value),
            *[percent(line.best_of.value)] * len(best),
            points(line.elo.value),
        )
    console.print(table)
    for sentence in sentences(standings):
        console.print("\n" + sentence, soft_wrap=True, markup=False)


def sentences(standings: Standings) -> list[str]:
    """
    What the figures say together: holes, cycles, how far a single score explains them, and the pool's gap. Where no
    two policies differ there is nothing to say of their order.
    """
    found = []
    holes = standings.matrix.holes
    if holes:
        pairs = ", ".join(f"{first} and {second}" for first, second in holes[:5])
        more = f" and {len(holes) - 5} pairs more" if len(holes) > 5 else ""
        found.append(f"Never compared, because an answer or a verdict is missing on every prompt: {pairs}{more}.")
    known = {line.name: line.answers + sum(standings.failed.get(line.name, {}).values()) for line in standings.lines}
    if fewer := [f"{name} has {count:,}" for name, count in known.items() if count < max(known.values())]:
        found.append(f"Not all have answers to all {max(known.values()):,} prompts: {', '.join(fewer)}.")
    if standings.failed:
        failed = (f"{name} {count} ({way})" for name, ways in standings.failed.items() for way, count in ways.items())
        found.append(f"Dialogues that failed, and were not judged: {', '.join(failed)}.")
    if standings.left_out:
        found.append(
            f"Without equilibrium, exploitability and Elo, which need a comparison with all others: "
            f"{', '.join(standings.left_out)}."
        )
    if not standings.matrix.counts[~np.eye(len(standings.lines), dtype=bool)].any():
        return found
    if not standings.differ:
        count = len(standings.matrix.preferences)
        return [*found, f"No difference can be seen with {count} prompts: all intervals of win rates contain 50 %."]
    sure = [cycle for cycle in standings.cycles if _is_sure(cycle, standings)]
    if standings.cycles:
        cycle = (sure or standings.cycles)[0]
        circle = " beats ".join([*cycle.policies, cycle.policies[0]])
        others = f", the strongest of {len(sure)} such circles" if len(sure) > 1 else ""
        chance = "That may be chance: some of their intervals contain 50 %."
        found.append(
            f"{circle}: each wins at least {percent(0.5 + cycle.strength)}{others}. "
            + ("No ranking can say that; the equilibrium does." if sure else chance)
        )
    if len(standings.lines) - len(standings.left_out) > 2:  # the scores of two explain all there is
        i, j = np.unravel_index(np.nanargmax(standings.unexplained), standings.unexplained.shape)
        names, value, least = standings.matrix.names, standings.residual[i, j], standings.unexplained[i, j]
        found.append(
            f"Elo is off by {value:.1%}, and surely by {least:.1%}, for {names[i]} against {names[j]}."
            if least > 0
            else "Elo explains all win rates as well as these prompts can tell."
        )
    if not math.isnan(standings.gap.value):
        best = min((line for line in standings.lines if line.name not in standings.left_out), key=_exploitability)
        found.append(
            f"{best.name} is the hardest to exploit: "
            + (
                f"the best answer of the pool to it wins {percent(0.5 + best.exploitability.value)} "
                f"({interval(best.exploitability)} over one half)."
                if best.exploitability.value > 0
                else f"no policy of the pool beats it by its mean win rate ({interval(best.exploitability)} over one "
                "half with other prompts)."
            )
        )
    return found


def write_files(
    result: ArenaResult, standings: Standings, contestants: list[Contestant], directory: Path, title: str = "Arena"
) -> Path:
    """
    Writes `arena.json`, `arena.parquet` (a row for each policy), `arena.html`, and the answers as AlpacaEval and
    Arena-Hard read them, if they are no dialogues.

    Args:
        result ([`ArenaResult`]): what was judged.
        standings ([`Standings`]): the figures, of that.
        contestants (`list[Contestant]`): whose sources the page and the files name, as `Arena.contestants`.
        directory (`Path`): where they go, as `Arena.directory`.
        title (`str`, *optional*, defaults to `"Arena"`): of the page.

    Returns:
        `Path`: The page.
    """
    import pandas as pd

    facts = {"judge": result.judge, "prompts": len(result.rows), "judgements": len(result.records)}
    text = json.dumps(facts | standings.to_dict(), indent=1, allow_nan=False, ensure_ascii=False)
    (directory / "arena.json").write_text(text + "\n", encoding="utf-8")
    lines = []
    for line in standings.lines:
        columns: dict[str, object] = {}
        for name, value in line._asdict().items():
            if isinstance(value, Estimate):
                columns |= {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}
            else:
                columns[name] = value
        lines.append(columns)
    pd.DataFrame(lines).to_parquet(directory / "arena.parquet")
    if not result.has_dialogues:  # which neither can read
        write_alpaca_eval(result, contestants, directory / "alpaca_eval")
        write_arena_hard(result, contestants, directory / "model_answer")
    return save_page(result, standings, sentences(standings), directory / "arena.html", title)


def percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


def with_half(estimate: Estimate) -> str:
    """A share and half the width of its interval."""
    return percent(estimate.value) and f"{estimate.value:.1%} ±{50 * (estimate.high - estimate.low):.1f}"


def interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"{100 * estimate.low:.1f} – {estimate.high:.1%}"


def points(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+.0f}"


def _is_sure(cycle: Cycle, standings: Standings) -> bool:
    """Whether all three win rates of a circle have intervals above one half."""
    i, j, k = map(standings.matrix.names.index, cycle.policies)
    return bool(min(standings.rates.low[i, j], standings.rates.low[j, k], standings.rates.low[k, i]) > 0.5)


def _exploitability(line: Standing) -> float:
    return line.exploitability.value
