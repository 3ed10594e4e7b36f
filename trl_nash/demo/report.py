# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash demo` shows: a bar while it trains, a table and some answers at the end."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .data import Example


if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

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


def progress_bar(console: "Console") -> "Progress":
    """A bar with a note behind it."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


def show_training(trainer: "COMALTrainer", progress: "Progress", steps_per_round: int):
    """Adds a callback that shows the trainer's steps as a bar, and each of its evaluations as a line above it."""
    from transformers import TrainerCallback

    task = progress.add_task("  optimizer steps", total=trainer.args.max_steps, note="")
    progress.console.print("  round   beats the first   KL to the first   tokens an answer", style="dim")

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            progress.update(task, completed=state.global_step)

        def on_log(self, args, state, control, logs, **kwargs):
            if "fit/r2" in logs:
                progress.update(task, note=f"fit R² {logs['fit/r2']:.2f}")

        def on_evaluate(self, args, state, control, metrics, **kwargs):
            progress.console.print(
                f"  {state.global_step // steps_per_round:>5}"
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
