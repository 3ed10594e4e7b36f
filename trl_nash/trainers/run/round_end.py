# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What happens when a round is over."""

from collections.abc import Callable

from transformers import TrainerCallback

from .reports.advice import Adviser, Facts, reached
from .reports.generalisation import Generalisation
from .reports.reporter import Reporter


class RoundEnd(TrainerCallback):
    """
    Reads the metrics of each round that is over, gives advice on them, and hands them on.

    Args:
        reporter ([`Reporter`]): has the metrics.

    Attributes:
        facts ([`~trl_nash.trainers.run.reports.advice.Facts`]): what is known of the last round that is over.
        listeners (`list[Callable[[dict[str, float]], None]]`): called with the metrics of a round, on all ranks.
    """

    def __init__(self, reporter: Reporter):
        self.facts = Facts()
        self.listeners: list[Callable[[dict[str, float]], None]] = []
        self._reporter = reporter
        self._advise = Adviser(reporter.say_once)
        self._generalisation = Generalisation()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % args.optimizer_steps_per_round:
            return
        metrics = self._reporter.flush_round()
        self._generalisation.add(metrics)
        self.facts = Facts(
            metrics
            | self._generalisation.facts(args.held_out.count)
            | {
                "reached": reached(metrics),
                "is_last": state.global_step >= state.max_steps,
                "warm_steps": state.global_step - args.get_warmup_steps(state.max_steps),
                "steps_per_fit": args.schedule.optimizer_steps_per_fit,
                "passes": args.num_iterations,
                "learning_rate": args.learning_rate,
                "max_new_tokens": args.max_new_tokens,
                "temperature": args.temperature,
            }
        )
        self._advise(self.facts)
        for listener in self.listeners:
            listener(metrics)
