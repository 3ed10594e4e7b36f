# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The table of `log_completions=True`: prompt, two completions and the verdict, on the console and in the trackers."""

from dataclasses import astuple, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Verdict:
    """One judged pair. `preference` is P(first beats second), nan where the judge abstained."""

    prompt: str
    first: str
    second: str
    preference: float


def log_verdicts(
    verdicts: list[Verdict],
    step: int,
    output_dir: str,
    report_to: list[str],
    name: str = "completions",
    sides: tuple[str, str] = ("first", "second"),
) -> None:
    """
    Prints the verdicts, keeps them as `completions/<name>_<step>.parquet` and sends them to the trackers. `sides` says
    whose completions the first and the second are.
    """
    import pandas as pd

    columns = ["prompt", *sides, "preference"]
    table = pd.DataFrame([astuple(verdict) for verdict in verdicts], columns=columns)
    table.insert(0, "step", step)
    folder = Path(output_dir) / "completions"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_parquet(folder / f"{name}_{step:05d}.parquet")
    _print(verdicts, step, sides)
    for package in {"wandb", "trackio"} & set(report_to or []):
        tracker = __import__(package)
        if package == "trackio" or tracker.run is not None:
            tracker.log({name: tracker.Table(dataframe=table)})


def _print(verdicts: list[Verdict], step: int, sides: tuple[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Step {step}", show_lines=True)
    for heading in ("prompt", *sides):
        table.add_column(heading.capitalize(), overflow="fold")
    table.add_column(f"P({sides[0]})", justify="right")
    for v in verdicts:
        preference = "none" if v.preference != v.preference else f"{v.preference:.2f}"
        table.add_row(*(Text(printable(text)) for text in (v.prompt, v.first, v.second)), preference)
    Console().print(table)


def printable(text: str) -> str:
    """The text without what a terminal would obey instead of showing it."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
