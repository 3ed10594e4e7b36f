# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash judge` prints and writes."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .measures import agreement, column, measure, preferences


Results = dict[str, dict[str, Any]]  # of "judge" and "second_judge"


def evaluate(
    records: list[dict[str, Any]],
    counts: dict[str, Counter],
    specs: dict[str, str],
    prices: tuple[float, float] | None = None,
) -> Results:
    """
    All figures of the judgements.

    Args:
        records (`list[dict]`): the judgements.
        counts (`dict[str, Counter]`): what [`Output`] counted, for each judge.
        specs (`dict[str, str]`): how each judge was called.
        prices (`tuple[float, float]`, *optional*):
            What a million tokens of prompts and of answers cost at the (first) judge.

    Returns:
        `dict[str, dict]`: for each judge its `spec`, what [`measure`] finds, `orders` (`position_bias`, `flip_rate`
        and the number of pairs), `label_mass`, `modes` (a server's answers by how they were read), `cost`, and what
        [`agreement`] finds with `label` and with `second_judge`, where there are such.
    """
    different = [record for record in records if record["first"] != record["second"]]
    label, results = column(different, "label"), {}
    for name, spec in specs.items():
        prefix = name.removesuffix("judge")
        p, counted = preferences(different, prefix), counts[name]
        both = counted["both_orders"]
        results[name] = {"spec": spec} | measure(records, prefix)
        results[name]["orders"] = {
            "pairs": int(both),
            "position_bias": counted["disagreement"] / both if both else math.nan,
            "flip_rate": counted["flips"] / both if both else math.nan,
        }
        results[name]["cost"] = {
            "seconds": counted["seconds"],
            "seconds_per_pair": counted["seconds"] / counted["pairs"] if counted["pairs"] else math.nan,
            **{key: counted[key] for key in sorted(counted) if key not in NO_COST},
        }
        results[name]["label_mass"] = counted["label_mass"] / counted["labelled"] if counted["labelled"] else math.nan
        results[name]["modes"] = {mode: counted[f"read_as_{mode}"] for mode in MODES if counted[f"read_as_{mode}"]}
        tokens = {key: counted[key] for key in TOKENS if counted[key]}
        if asked := counted["asked"] if tokens else 0:
            pairs = counted["pairs"] or math.nan
            results[name]["cost"] |= {
                "tokens_per_question": sum(tokens.values()) / asked,
                "tokens_per_pair": sum(tokens.values()) / pairs,
            }
            if prices is not None and name == "judge":
                price = sum(tokens.get(key, 0) * each for key, each in zip(TOKENS, prices, strict=True)) / 1e6
                results[name]["cost"] |= {
                    "price": price,
                    "price_per_question": price / asked,
                    "price_per_pair": price / pairs,
                }
        if not all(map(math.isnan, label)):
            results[name]["label"] = agreement(p, label)
        if name == "judge" and "second_judge" in specs:
            results[name]["second_judge"] = agreement(p, preferences(different, "second_"))
    return results


MODES = ("logprobs", "structured", "text")  # in which a server's answers are read
TOKENS = ("prompt_tokens", "completion_tokens")
NO_COST = {"pairs", "seconds", "both_orders", "disagreement", "flips", "labelled", "label_mass"}
NO_COST |= {f"read_as_{mode}" for mode in MODES}


def measures(results: Results) -> list[tuple[str, list[str]]]:
    """The lines of the table: a text for each judge. Lines that say nothing of any judge are left out."""
    lines = []

    def add(name: str, texts: list[str]) -> None:
        if any(texts):
            lines.append((name, texts))

    judges = list(results.values())
    add("pairs judged", [f"{j['judged']:,} of {j['pairs'] - j['equal']:,}" for j in judges])
    add("pairs of equal texts", [f"{j['equal']:,}" * bool(j["equal"]) for j in judges])
    for reason in dict.fromkeys(reason for j in judges for reason in j["abstained"]):
        add(f"abstained: {reason}", [f"{j['abstained'].get(reason, 0):,}" for j in judges])
    add("mean preference", [_with_error(j["mean_preference"], j["standard_error"]) for j in judges])
    add("ties", [_percent(j["ties"]) for j in judges])
    add(
        "position bias",
        [_number(j["orders"]["position_bias"]) or "one order asked" * bool(j["judged"]) for j in judges],
    )
    add("order flips", [_percent(j["orders"]["flip_rate"]) for j in judges])
    add("label mass", [_percent(j["label_mass"]) for j in judges])
    add("answers by mode", [", ".join(f"{n:,} {mode}" for mode, n in j["modes"].items()) for j in judges])
    add("cycle rate", [_of(_percent(j["cycle_rate"]), j["triples"], "triples") for j in judges])
    add("longer wins", [_percent(j["longer_wins"]) for j in judges])
    add("correlation with length", [_number(j["length_correlation"]) for j in judges])
    for against, title in {"label": "label", "second_judge": "second judge"}.items():
        found = [j.get(against) for j in judges]
        if not any(found):
            continue
        add(
            f"agreement with {title}",
            [
                f and (_of(_percent(f["accuracy"]), f["decided"], "pairs") or "no pair has a winner") or ""
                for f in found
            ],
        )
        for key, name in {"brier": "Brier score", "log_loss": "log loss", "ece": "calibration error"}.items():
            add(f"  {name}", [f and _number(f[key]) or "" for f in found])
        add("  correlation", [f and _number(f["correlation"]) or "" for f in found])
    cost = [j["cost"] for j in judges]
    add("questions asked", [f"{c['asked']:,}" if c.get("asked") else "" for c in cost])
    add("  from the cache", [f"{c['cached']:,}" if c.get("cached") else "" for c in cost])
    add("seconds a pair", [_seconds(c["seconds_per_pair"]) for c in cost])
    add("seconds in all", [f"{c['seconds']:,.1f}" for c in cost])
    add("requests", [_failed(c) for c in cost])
    add(
        "seconds a request",
        [_seconds(c["request_seconds"] / c["requests"]) if c.get("requests") else "" for c in cost],
    )
    for key in ("prompt_tokens", "completion_tokens", "cut_prompts"):
        add(key.replace("_", " "), [f"{c[key]:,}" if c.get(key) else "" for c in cost])
    for key, name in {"tokens_per_question": "tokens a question", "tokens_per_pair": "tokens a pair"}.items():
        add(name, [f"{c[key]:,.1f}" if key in c else "" for c in cost])
    of = {"price_per_question": "price of a question", "price_per_pair": "price of a pair", "price": "price in all"}
    for key, name in of.items():
        add(name, [f"{c[key]:.4g}" if key in c else "" for c in cost])
    return lines


def print_results(console: Console, results: Results) -> None:
    """Prints the figures of each judge, and how often it was right by how sure it was."""
    table = text_table("", *(result["spec"] for result in results.values()))
    for name, texts in measures(results):
        table.add_row(*map(escape, (name, *texts)))
    console.print(table)
    against, found = _calibrated(results)
    if found:
        table = text_table("confidence", "pairs", "mean confidence", f"agrees with {against}")
        for b in found["judge"]["calibration"]:
            limits = f"{b['low']:.2f} to {b['high']:.2f}"
            table.add_row(limits, f"{b['pairs']:,}", f"{b['confidence']:.3f}", _percent(b["right"]))
        console.print("", table)
    if results["judge"]["cycle_rate"] > 0:
        console.print(
            "\nSome of these preferences are cyclic: no reward can explain them, and Nash methods have a use. Noise "
            "has cycles too: of coin flips, 25 % of the triples are cyclic.",
            soft_wrap=True,
        )


def write_files(console: Console, results: Results, records: list[dict], source: str, directory: Path) -> None:
    """Writes `judge.json` and `report.html`, with matplotlib figures too."""
    from ..figures.style import figures_missing

    text = json.dumps(_without_nan(results), indent=1, allow_nan=False, ensure_ascii=False)
    (directory / "judge.json").write_text(text + "\n", encoding="utf-8")
    page = _write_page(results, records, source, directory)
    figures = figures_missing() or "The figures are beside them."
    console.print(f"\nSaved {page} and judge.json. {figures}", soft_wrap=True, markup=False)


def _write_page(results: Results, records: list[dict], source: str, directory: Path) -> Path:
    from ..figures.page import save_report
    from .plots import histogram_figure, reliability_figure

    titles = {"judge": "judge", "second_judge": "second judge"}
    different = [record for record in records if record["first"] != record["second"]]
    values = {titles[name]: preferences(different, name.removesuffix("judge")) for name in results}
    against, found = _calibrated(results)

    def draw() -> dict:
        figures = {"preferences": histogram_figure({name: p[p == p] for name, p in values.items()})}
        if found:
            tables = {titles[name]: result["calibration"] for name, result in found.items()}
            figures["reliability"] = reliability_figure(tables, against)
        return figures

    captions = {
        "preferences": "The preferences of the pairs whose texts differ.",
        "reliability": "How often the winner is right, by how sure the judge is. Calibrated judges are on the dotted "
        "line. Larger dots are more pairs; bars are Wilson's 95 % intervals.",
    }
    facts = {"file": source} | {titles[name]: result["spec"] for name, result in results.items()}
    table = [
        {"": name.strip()} | dict(zip((titles[judge] for judge in results), texts, strict=True))
        for name, texts in measures(results)
    ]
    return save_report(directory, draw, table, "What the judge does", facts=facts, captions=captions)


def _calibrated(results: Results) -> tuple[str, Results]:
    """What judges are compared with for their calibration, and how they agree with it."""
    against = "label" if "label" in results["judge"] else "second_judge"
    found = {name: result[against] for name, result in results.items() if result.get(against, {}).get("pairs")}
    return f"the {against.replace('_', ' ')}", found if "judge" in found else {}


def text_table(*columns: str) -> Table:
    """A table of the terminal without lines: texts in the first column, numbers in the others."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for index, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if index else "left", overflow="fold")
    return table


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1%}"


def _with_error(value: float, error: float) -> str:
    return _number(value) + ("" if math.isnan(error) else f" ± {error:.3f}")


def _of(text: str, count: int, things: str) -> str:
    return text and f"{text} of {count:,} {things}"


def _seconds(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2g}"


def _failed(cost: dict[str, Any]) -> str:
    if not cost.get("requests"):
        return ""
    failed = f", {cost['failed_requests']:,} failed" if cost.get("failed_requests") else ""
    return f"{cost['requests']:,}{failed}"


def _without_nan(value: Any) -> Any:
    """JSON has neither nan nor infinity: `null`, and a text."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
