# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What `trl-nash demo` shows: a bar while it trains, a table and some answers at the end. In a file, or the log of a CI
job, there is no bar, but lines.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .data import Example


if TYPE_CHECKING:
    from rich.console import Console

    from ..trainers.comal import COMALTrainer


class Policy(NamedTuple):
    """What the final table says of a policy. `answers` are those of each prompt."""

    answers: list[list[str]]
    win_rate: float
    standard_error: float
    kl: float

    @property
    def texts(self) -> list[str]:
        return [text for answers in self.answers for text in answers]


def waiting(console: "Console", what: str) -> AbstractContextManager:
    """Says what takes a moment, on a terminal for so long as it does."""
    if console.is_terminal:
        return console.status(what)
    console.print(what)
    return nullcontext()


@contextmanager
def progress_bar(console: "Console", what: str, total: int, lines: int = 4) -> Iterator[Callable[[int, str], None]]:
    """
    A bar with a note behind it, or where there is no terminal some lines.

    Args:
        console ([`~rich.console.Console`]): where.
        what (`str`): is done.
        total (`int`): steps of it.
        lines (`int`, *optional*, defaults to `4`): how many, at equal distances.

    Yields:
        `Callable[[int, str], None]`: takes the steps that are done, and the note.
    """
    if not console.is_terminal:

        def say(done: int, note: str) -> None:
            if done * lines // total > (done - 1) * lines // total:
                console.print(f"  {what} {done}/{total}  {note}", style="dim")

        yield say
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    note = TextColumn("{task.fields[note]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), note)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"  {what}", total=total, note="")
        yield lambda done, note: progress.update(task, completed=done, note=note)


def show_training(trainer: "COMALTrainer", console: "Console", update: Callable[[int, str], None], round_steps: int):
    """Adds a callback that shows the trainer's steps as a bar, and each of its evaluations as a line above it."""
    from transformers import TrainerCallback

    console.print("  round   beats the first   KL to the first   tokens an answer", style="dim")

    class Watch(TrainerCallback):
        note = ""

        def on_step_end(self, args, state, control, **kwargs):
            update(state.global_step, self.note)

        def on_log(self, args, state, control, logs, **kwargs):
            if "fit/r2" in logs:
                self.note = f"fit R² {logs['fit/r2']:.2f}"

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            console.print(
                f"  {state.global_step // round_steps:>5}"
                f"   {metrics['eval_policy/win_rate_reference']:>15.1%}"
                f"   {metrics['eval_policy/kl_reference']:>15.2f}"
                f"   {metrics['eval_completions/mean_length']:>16.1f}"
            )

    watch = Watch()
    trainer.add_callback(watch)
    return watch


def print_comparison(console: "Console", examples: list[Example], first: Policy, last: Policy, unseen: bool) -> None:
    """Prints what the demo is about: the first policy beside the last."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 2), show_edge=False)
    table.add_column("")
    table.add_column("first policy", justify="right")
    table.add_column("last policy", justify="right", style="bold")
    for label, cell in {
        "wins against the first": lambda p: f"{p.win_rate:.1%} ± {p.standard_error:.1%}",
        "KL to the first, nats an answer": lambda p: f"{p.kl:.2f}",
        "words an answer": lambda p: f"{np.mean([len(text.split()) for text in p.texts]):.1f}",
        "short / medium / long": lambda p: " / ".join(f"{share:.0%}" for share in length_shares(p.texts)),
    }.items():
        table.add_row(label, cell(first), cell(last))
    console.print(table)
    console.print(
        f"  {len(first.texts):,} comparisons in each column, on {len(examples)} prompts that training "
        f"{'never saw' if unseen else 'used'}; ± is a standard error.",
        style="dim",
    )


def length_shares(texts: list[str]) -> np.ndarray:
    """The shares of short, medium and long answers."""
    from .judge import length_class

    return np.bincount([length_class(text) for text in texts], minlength=3) / len(texts)


def print_answers(console: "Console", examples: list[Example], first: Policy, last: Policy) -> None:
    """Prints an answer of each policy to the first prompts."""
    from rich.text import Text

    for index in range(min(3, len(examples))):
        lines = {"": examples[index].prompt, "first": first.answers[index][0], "last": last.answers[index][0]}
        for label, text in lines.items():
            line = Text(f"  {label:<7}", style="dim") + Text(" ".join(text.split()), style="" if label else "italic")
            console.print(line, no_wrap=True, overflow="ellipsis")
