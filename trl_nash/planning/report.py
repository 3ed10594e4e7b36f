# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash plan` prints."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .advice import hints, largest_batches
from .costs import USABLE, Plan
from .known import REMOTE_JUDGES
from .words import duration, gib, run_words


def record(plan: Plan) -> dict[str, Any]:
    """A plan as JSON: bytes, tokens, FLOP, seconds."""
    return {
        "model": {"name": plan.model.name, "parameters": plan.model.parameters},
        "run": asdict(plan.run),
        "device": plan.device._asdict(),
        "assumed": asdict(plan.speed),
        "memory": asdict(plan.memory) | {"peak": plan.peak, "limit": plan.limit, "fits": plan.fits},
        "advice": plan.advice(),
        "hints": hints(plan),
        "largest": largest_batches(plan) if plan.fits else None,
        "a_round": {
            "prompts": plan.run.prompts_per_round,
            **{f"tokens_{name}": count for name, count in plan.tokens_a_round._asdict().items()},
            "judge_calls": plan.judge_calls_a_round,
            "user_calls": plan.run.user_calls_a_round,
        },
        "in_all": {
            "rounds": plan.run.rounds,
            "optimizer_steps": plan.run.optimizer_steps,
            **{f"tokens_{name}": count for name, count in plan.tokens._asdict().items()},
            "judge_calls": plan.judge_calls,
            "user_calls": plan.user_calls,
            "flop": plan.flop,
            "seconds": plan.seconds,
        },
    }


def print_plans(
    console: Console, plans: list[Plan], notes: Iterable[str] = (), remarks: Mapping[str, str] = MappingProxyType({})
) -> None:
    """
    Prints one plan in full, or several strategies beside each other.

    Args:
        console ([`~rich.console.Console`]): where.
        plans (`list[Plan]`): of the same run.
        notes (`Iterable[str]`, *optional*): what was assumed besides.
        remarks (`Mapping[str, str]`, *optional*): what is said behind a line, as [`remarks_on`] has it.
    """
    first = plans[0]
    run = first.run
    grid = Table.grid(padding=(0, 2))
    for term, fact in {
        "model": f"{first.model.name}, {first.model.parameters:,} parameters",
        "hardware": f"{run.num_processes} x {first.device.memory:.0f} GiB",
        "run": f"{run.algorithm}, {_trained(first)}",
        **run_words(run, run.rounds, run.optimizer_steps),
    }.items():
        grid.add_row(Text(term, style="dim"), Text(fact + remarks.get(term, "")))
    console.print(grid, "")
    _print_memory(console, plans)
    _print_work(console, first)
    _print_time(console, plans)
    speed = first.speed
    assumed = [
        *notes,
        f"{speed.training_mfu:.0%} of the peak in fits, {speed.scoring_mfu:.0%} in forward passes",
        f"a decoding step reads weights and cache at {speed.bandwidth_use:.0%} of the bandwidth, and takes at least "
        f"{0 if run.use_vllm else speed.layer_overhead * 1e3:g} ms a layer",
        *[f"the judge answers {speed.judge_rate:g} calls a second, while nothing else is done"]
        * (run.judge in REMOTE_JUDGES),
        *[f"weights reach the vLLM server at {speed.link:g} GB/s"] * (run.use_vllm and run.vllm_mode == "server"),
        *["nothing for what devices send each other", "all processes on one machine"] * (run.num_processes > 1),
        f"prompts of {run.mean_prompt} and completions of {run.mean_completion} tokens in the mean; memory at "
        f"{run.max_prompt} and {run.max_new_tokens}",
        *["lengths of completions are spread exponentially, and a call of `generate` lasts as long as its longest"]
        * (run.mean_turn < run.max_new_tokens and not run.use_vllm),
        *[
            f"dialogues have all their {run.turns} turns, the user says as much as the policy and takes no time, and "
            "what was said is read again before each turn"
        ]
        * (run.turns > 1),
        f"{1 - USABLE:.0%} of a device's memory for the driver and for what lies in pieces",
    ]
    console.print("Assumed: " + "; ".join(assumed) + ".", style="dim")


def _trained(plan: Plan) -> str:
    run = plan.run
    if not run.use_peft:
        return f"all weights, {run.dtype}"
    base = "NF4" if run.load_in_4bit else "int8" if run.load_in_8bit else run.dtype
    return f"LoRA of rank {run.lora_r} on {base}"


def _print_memory(console: Console, plans: list[Plan]) -> None:
    several = len(plans) > 1
    phases = [(plan, phase) for plan in plans for phase in ("sampling", "fit")]
    names = [plan.run.strategy for plan in plans] if several else ["sampling", "fit"]
    table = _table("GiB on each device", *names)
    parts = [plan.memory for plan in plans]
    # Of several strategies, the fuller moment of each.
    columns = (
        [max(part.sampling, part.fit, key=lambda sizes: sum(sizes.values())) for part in parts]
        if several
        else [getattr(plan.memory, phase) for plan, phase in phases]
    )
    for item in dict.fromkeys(item for column in columns for item in column):
        table.add_row(item, *(gib(column.get(item)) for column in columns))
    table.add_row("together", *(gib(sum(column.values())) for column in columns), style="bold")
    if several:
        table.add_row("", *("fits" if plan.fits else "does not fit" for plan in plans))
    console.print(table, "")
    host = _table("GiB on the CPU, each process", *(names if several else [""]))
    for item in dict.fromkeys(item for part in parts for item in part.host):
        host.add_row(item, *(gib(part.host.get(item)) for part in parts))
    if (count := plans[0].run.num_processes) > 1:
        sums = (gib(count * sum(part.host.values())) for part in parts)
        host.add_row(f"all {count} processes", *sums, style="bold")
    console.print(host, "")
    for plan in plans:
        prefix = f"{plan.run.strategy}: " if several else ""
        verdict = plan.advice() or f"It fits: {gib(plan.peak)} of {gib(plan.limit)} GiB."
        console.print(Text(prefix + verdict, style="green" if plan.fits else "yellow"), soft_wrap=True)
        for hint in hints(plan):
            console.print(Text(prefix + hint), soft_wrap=True)
    console.print("")


def _print_work(console: Console, plan: Plan) -> None:
    table = _table("", "a round", "in all")
    for name, once, always in zip(plan.tokens._fields, plan.tokens_a_round, plan.tokens, strict=True):
        table.add_row(f"tokens {name}", f"{once:,.0f}", f"{always:,.0f}")
    table.add_row("judge calls", f"{plan.judge_calls_a_round:,}", f"{plan.judge_calls:,}")
    if plan.run.user:
        table.add_row("user calls, at most", f"{plan.run.user_calls_a_round:,}", f"{plan.user_calls:,}")
        table.add_row("turns of a dialogue, at most", f"{plan.run.turns}", "")
    console.print(table, "")


def _print_time(console: Console, plans: list[Plan]) -> None:
    table = _table("", "FLOP", *(plan.run.strategy for plan in plans))
    for name, flop in plans[0].flop.items():
        table.add_row(name, f"{flop:.2e}", *(duration(plan.seconds[name]) for plan in plans))
    totals = (duration(sum(plan.seconds.values())) for plan in plans)
    table.add_row("together", f"{sum(plans[0].flop.values()):.2e}", *totals, style="bold")
    console.print(table, "")


def _table(first: str, *columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
