# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Where in a run a micro-step is: a pure function of how many there were before it."""

from dataclasses import dataclass
from typing import NamedTuple


class Place(NamedTuple):
    """Where a micro-step is. All four count from 0."""

    round: int
    fit: int  # of the round
    iteration: int  # pass of the fit over the round
    step: int  # micro-batch of the round

    @property
    def begins_fit(self) -> bool:
        return self.iteration == self.step == 0

    @property
    def begins_round(self) -> bool:
        return self.begins_fit and self.fit == 0


@dataclass(frozen=True)
class Schedule:
    """
    What a round consists of: `fits` regressions in turn, each of `iterations` passes over `steps` micro-batches, of
    which `accumulation` are an optimizer step.
    """

    steps: int
    iterations: int = 1
    fits: int = 1
    accumulation: int = 1

    @property
    def micro_steps_per_fit(self) -> int:
        return self.steps * self.iterations

    @property
    def micro_steps_per_round(self) -> int:
        return self.micro_steps_per_fit * self.fits

    @property
    def optimizer_steps_per_fit(self) -> int:
        return self.micro_steps_per_fit // self.accumulation

    @property
    def first_steps(self) -> int:
        """Micro-batches that a fit sees before its first optimizer step."""
        return min(self.accumulation, self.steps)

    def is_as_sampled(self, place: Place) -> bool:
        """Whether a round has made no optimizer step: the live policy is what sampled it, if that sampled it."""
        return place.fit == place.iteration == 0 and place.step < self.first_steps

    def in_second_half(self, place: Place) -> bool:
        """Whether a micro-step is of the second half of its fit's optimizer steps; those of an only one are."""
        before = (place.iteration * self.steps + place.step) // self.accumulation
        return 2 * (before + 1) > self.optimizer_steps_per_fit

    def optimizer_step(self, place: Place) -> list[int]:
        """The micro-batches of the optimizer step that a micro-step belongs to."""
        before = place.iteration * self.steps + place.step
        first = before - before % self.accumulation
        return [micro_step % self.steps for micro_step in range(first, first + self.accumulation)]

    def place(self, micro_step: int) -> Place:
        """The place of micro-step number `micro_step` of a run, counted from 0."""
        before, step = divmod(micro_step, self.steps)
        before, iteration = divmod(before, self.iterations)
        round, fit = divmod(before, self.fits)
        return Place(round, fit, iteration, step)
