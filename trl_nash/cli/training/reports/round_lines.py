# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a training command shows while it trains: a line for each round. Trackers and `log_history` have the rest."""

import math
import time

from transformers import PrinterCallback, ProgressCallback

from ....trainers.config import WIN_RATE
from ....trainers.run.reports.result import kl_words


PHASES = ("generate", "judge", "score", "fit")


class RoundLines(ProgressCallback):
    """
    transformers' progress bar, and in place of its dictionaries a line for each round.

    Args:
        bar (`bool`): whether there is a bar.
    """

    def __init__(self, bar: bool):
        super().__init__()
        self._bar = bar
        self._waiting: dict[str, float] | None = None  # metrics of a round that an evaluation may follow
        self._rounds = 0  # of this process
        self._start = 0.0

    def round_ended(self, metrics: dict[str, float]) -> None:
        """Takes the metrics of a round. Its line waits for what belongs to its last step, such as an evaluation."""
        self._waiting = metrics
        self._rounds += 1

    def on_train_begin(self, args, state, control, **kwargs):
        self._start = time.monotonic()
        if self._bar:
            super().on_train_begin(args, state, control, **kwargs)

    def on_step_begin(self, args, state, control, **kwargs):
        self._say_round(args, state)

    def on_step_end(self, args, state, control, **kwargs):
        if self._bar:
            super().on_step_end(args, state, control, **kwargs)

    def on_prediction_step(self, args, state, control, **kwargs):
        if self._bar:
            super().on_prediction_step(args, state, control, **kwargs)

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass

    def on_train_end(self, args, state, control, **kwargs):
        self._say_round(args, state)
        if self._bar:
            super().on_train_end(args, state, control, **kwargs)

    def _say_round(self, args, state) -> None:
        metrics, self._waiting = self._waiting, None
        if metrics is None or not state.is_world_process_zero:
            return
        rounds = math.ceil(state.max_steps / args.optimizer_steps_per_round)
        left = (time.monotonic() - self._start) / self._rounds * (rounds - metrics["round"])
        logged = [entry for entry in state.log_history if entry.get("step") == state.global_step]
        if rates := [entry[name] for entry in logged for name in entry if name.endswith(WIN_RATE)]:
            metrics = metrics | {WIN_RATE: rates[0]}
        line = round_line(metrics, rounds, left)
        print(line, flush=True) if self.training_bar is None else self.training_bar.write(line)


def round_line(metrics: dict[str, float], rounds: int, left: float) -> str:
    """
    What there is to say of a round.

    Args:
        metrics (`dict[str, float]`): of the round, and the win rate if it was evaluated at its end.
        rounds (`int`): of the run.
        left (`float`): seconds until its end.

    Returns:
        `str`
    """
    shown = {
        WIN_RATE: "win rate {:.1%}",
        "policy/kl_reference": "KL {}",
        "fit/r2_end": "R² {:.2f}",
        "fit/r2_held_out": "held out {:.2f}",
        "completions/mean_length": "{:.0f} tokens",
        "completions/clipped_ratio": "{:.0%} clipped",
    }
    said = dict(metrics)
    if (kl := metrics.get("policy/kl_reference")) is not None:
        said["policy/kl_reference"] = kl_words(kl, metrics.get("policy/kl_reference_se"))
    parts = [text.format(said[name]) for name, text in shown.items() if name in said]
    seconds = {phase: metrics.get(f"time/{phase}", 0.0) for phase in PHASES}
    spent = ", ".join(f"{phase} {_number(value)}" for phase, value in seconds.items())
    parts.append(f"{_number(sum(seconds.values()))} s ({spent})")
    if left >= 1:
        parts.append(f"{_duration(left)} left")
    return f"round {metrics['round']:.0f}/{rounds} | {' | '.join(parts)}"


def show_rounds(trainer) -> RoundLines:
    """Has a trainer show its rounds this way, and returns what shows them."""
    lines = RoundLines(bar=not trainer.args.disable_tqdm)
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    trainer.add_callback(lines)
    trainer.round_end.listeners.append(lines.round_ended)
    return lines


def _number(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}"


def _duration(seconds: float) -> str:
    minutes, hours = round(seconds / 60), seconds / 3600
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{hours:.1f} h"
