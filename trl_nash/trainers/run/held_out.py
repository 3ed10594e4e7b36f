# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Prompts of a round that its fits do not train on, in the micro-batch at hand."""

from collections.abc import Callable

import torch
from accelerate import Accelerator

from ...rounds.schedule import Place


class HeldOutPrompts:
    """
    Keeps held-out prompts out of the loss. They are in every forward, as they are in their micro-batches, and have no
    weight.

    Args:
        args ([`NashConfig`]): sizes and options.
        accelerator ([`~accelerate.Accelerator`]): knows which process this is.
        place (`Callable[[], Place]`): where the run is.
        training (`Callable[[], bool]`): whether it trains: in an evaluation nothing is held out.
    """

    def __init__(self, args, accelerator: Accelerator, place: Callable[[], Place], training: Callable[[], bool]):
        self._args = args
        self._accelerator = accelerator
        self._place = place
        self._training = training

    def mask(self, size: int) -> torch.Tensor | None:
        """Which of the `size` prompts of the micro-batch are held out, a bool tensor on the CPU; `None` for none."""
        if not self._args.fit_held_out or not self._training():
            return None
        place = self._place()
        return self._args.held_out.mask(place.round)[place.step, self._accelerator.process_index][:size]

    @property
    def are_measured(self) -> bool:
        """Whether the fit is in its last pass."""
        return self._place().iteration == self._args.num_iterations - 1

    def mean(self, losses: torch.Tensor) -> torch.Tensor:
        """
        The loss of a micro-batch: the mean of those of its prompts, of shape `(B,)`. With prompts held out it is
        scaled, so that its mean over the optimizer step and all processes is that of the prompts that are trained on.
        """
        held_out = self.mask(len(losses))
        if held_out is None:
            return losses.mean()
        weights = (~held_out).to(losses.dtype) * self._args.held_out.weight(self._place())
        return (losses * weights.to(losses.device, non_blocking=True)).mean()
