# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which prompts of a round are held out of its fits."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache

import torch

from .schedule import Place, Schedule


@dataclass(frozen=True)
class HeldOut:
    r"""
    The prompts that a round's fits do not train on, drawn anew for each round and the same in all its fits and passes.

    Whole prompts are held out, never single pairs of one: the K(K-1)/2 pairs of K answers have only K-1 degrees of
    freedom. Their margins are differences of K numbers, so a pair that is held out follows from the trained pairs of
    the same prompt, and would test no generalisation.

    The draw depends on seed and round alone, not on the number of processes, but for this: a prompt is passed over if
    an optimizer step would have none left to train on.

    Args:
        share (`float`): of a round's prompts; how many that is, is rounded.
        batch (`int`): prompts of a process in a micro-batch.
        world_size (`int`): processes.
        schedule ([`~trl_nash.rounds.schedule.Schedule`]): of a round.
        seed (`int`): of the draws.
    """

    share: float
    batch: int
    world_size: int
    schedule: Schedule
    seed: int

    @property
    def prompts(self) -> int:
        """Prompts in a round, over all processes."""
        return self.batch * self.world_size * self.schedule.steps

    @property
    def count(self) -> int:
        """How many of them are held out."""
        return round(self.share * self.prompts)

    @property
    def block(self) -> int:
        """Micro-batches of which one prompt at least is trained on: every optimizer step has such a block in it."""
        return math.gcd(self.schedule.steps, self.schedule.accumulation)

    @property
    def most(self) -> int:
        """How many can be held out."""
        return self.prompts - self.schedule.steps // self.block

    def mask(self, round: int) -> torch.Tensor:
        """Whether each prompt of a round is held out: a bool tensor of shape `(steps, world_size, batch)`."""
        return _mask(self, round)

    def weight(self, place: Place) -> float:
        """All prompts of the optimizer step that a micro-step belongs to, for each that is trained on."""
        steps = self.schedule.optimizer_step(place)
        return len(steps) * self.world_size * self.batch / (~self.mask(place.round)[steps]).sum().item()


@lru_cache(maxsize=2)
def _mask(held_out: HeldOut, round: int) -> torch.Tensor:
    batch, steps, block = held_out.batch, held_out.schedule.steps, held_out.block
    mask = torch.zeros(steps, held_out.world_size, batch, dtype=torch.bool)
    left = [block * held_out.world_size * batch] * (steps // block)  # to train on, in each block
    count = held_out.count
    for position in random.Random(f"{held_out.seed} {round}").sample(range(held_out.prompts), held_out.prompts):
        rank, row = divmod(position, steps * batch)  # as `Share` deals a round out: to each process a run of it
        step, index = divmod(row, batch)
        if count and left[step // block] > 1:
            mask[step, rank, index] = True
            left[step // block] -= 1
            count -= 1
    return mask
