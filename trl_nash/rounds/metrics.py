# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Metrics that are right on several processes: ratios of sums that are added up over ranks before they are divided."""

import math
import time
from collections import defaultdict
from contextlib import contextmanager

import torch
from accelerate.utils import gather_object


_SQUARES = "²"  # behind the name of a metric: the mean of its squares


class Metrics:
    """
    Collects `total / count` by name, and the seconds spent by phase. A metric below another one
    (`judge/abstained/server`) is a part of it and shares its count, so that it need only be added where it occurs.

    Args:
        accelerator ([`~accelerate.Accelerator`]): adds the sums up over ranks.
    """

    def __init__(self, accelerator):
        self._accelerator = accelerator
        self._sums: dict[str, list] = defaultdict(lambda: [0.0, 0.0])
        self._seconds: dict[str, float] = defaultdict(float)
        self._phases: list[str] = []
        self._since = 0.0

    def add(self, name: str, total, count=1) -> None:
        """Adds to a metric's numerator and denominator (numbers or tensors with one element)."""
        entry = self._sums[name]
        for side, value in enumerate((total, count)):
            entry[side] = entry[side] + (value.detach() if isinstance(value, torch.Tensor) else value)

    def sample(self, name: str, values: torch.Tensor) -> None:
        """Adds a sample, of which `nan` is no part: its mean is logged as `name`, with standard error `name_se`."""
        count, values = (~values.isnan()).sum(), values.double().nan_to_num()
        self.add(name, values.sum(), count)
        self.add(f"{name}{_SQUARES}", values.square().sum(), count)

    @contextmanager
    def phase(self, name: str):
        """Times a phase. A phase within a phase stops the outer one's clock, so that the parts add up to the whole."""
        self._tick()
        self._phases.append(name)
        try:
            yield
        finally:
            self._tick()
            self._phases.pop()

    def _tick(self) -> None:
        now = time.perf_counter()
        if self._phases:
            self._seconds[self._phases[-1]] += now - self._since
        self._since = now

    def flush(self, steps: int = 0) -> dict[str, float]:
        """
        The metrics since the last flush, over all ranks, which must call this together.

        Args:
            steps (`int`, *optional*): optimizer steps since the last flush; seconds are reported per step.
        """
        for name, seconds in self._seconds.items():
            self.add(f"time/{name}", seconds, max(steps, 1))
        names = sorted(set(gather_object(list(self._sums))))  # a rank may have met what others have not
        sums = torch.tensor([[float(side) for side in self._sums[name]] for name in names], dtype=torch.float64)
        if names:
            sums = self._accelerator.reduce(sums.to(self._accelerator.device), "sum").cpu()
        self._sums.clear()
        self._seconds.clear()
        totals, counts = (dict(zip(names, side, strict=True)) for side in sums.T.tolist()) if names else ({}, {})
        counts |= {name: counts[whole] for name in names if (whole := name.rpartition("/")[0]) in counts}
        means = {name: totals[name] / counts[name] for name in names if counts[name] > 0}
        for name in [name for name in means if name.endswith(_SQUARES)]:
            square, of = means.pop(name), name.removesuffix(_SQUARES)
            if counts[of] > 1:
                means[f"{of}_se"] = math.sqrt(max(0.0, square - means[of] ** 2) / (counts[of] - 1))
        return means
