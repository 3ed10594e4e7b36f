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
        spans (`tuple[str, ...]`, *optional*, defaults to `("log",)`):
            What metrics are averaged over: each span has all that was added since it was flushed itself.
    """

    def __init__(self, accelerator, spans: tuple[str, ...] = ("log",)):
        self._accelerator = accelerator
        self._sums: dict[str, dict[str, list]] = {span: defaultdict(lambda: [0.0, 0.0]) for span in spans}
        self._seconds: dict[str, dict[str, float]] = {span: defaultdict(float) for span in spans}
        self._phases: list[str] = []
        self._since = 0.0

    def add(self, name: str, total, count=1, span: str | None = None) -> None:
        """Adds to a metric's numerator and denominator (numbers or tensors with one element), of all spans or one."""
        sides = [value.detach() if isinstance(value, torch.Tensor) else value for value in (total, count)]
        for sums in self._sums.values() if span is None else [self._sums[span]]:
            sums[name] = [kept + value for kept, value in zip(sums[name], sides, strict=True)]

    def sample(self, name: str, values: torch.Tensor) -> None:
        """Adds a sample without its `nan`: mean, error and size are logged as `name`, `name_se` and `name_n`."""
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
        for seconds in self._seconds.values() if self._phases else ():
            seconds[self._phases[-1]] += now - self._since
        self._since = now

    def clear(self, span: str) -> None:
        """Forgets what a span has."""
        self._sums[span].clear()
        self._seconds[span].clear()

    def flush(self, steps: int = 0, span: str = "log") -> dict[str, float]:
        """
        The metrics of a span since its last flush, over all ranks, which must call this together.

        Args:
            steps (`int`, *optional*): optimizer steps since that flush; seconds are reported per step.
            span (`str`, *optional*, defaults to `"log"`): one of the spans.
        """
        kept = self._sums[span]
        kept |= {f"time/{name}": [seconds, max(steps, 1)] for name, seconds in self._seconds[span].items()}
        names = sorted(set(gather_object(list(kept))))  # a rank may have met what others have not
        sums = torch.tensor([[float(side) for side in kept[name]] for name in names], dtype=torch.float64)
        if names:
            sums = self._accelerator.reduce(sums.to(self._accelerator.device), "sum").cpu()
        self.clear(span)
        totals, counts = (dict(zip(names, side, strict=True)) for side in sums.T.tolist()) if names else ({}, {})
        counts |= {name: counts[whole] for name in names if (whole := name.rpartition("/")[0]) in counts}
        means = {name: totals[name] / counts[name] for name in names if counts[name] > 0}
        for name in [name for name in means if name.endswith(_SQUARES)]:
            square, of = means.pop(name), name.removesuffix(_SQUARES)
            means[f"{of}_n"] = int(counts[of])
            if counts[of] > 1:
                means[f"{of}_se"] = math.sqrt(max(0.0, square - means[of] ** 2) / (counts[of] - 1))
        return means


def win_rate_interval(rate: float, error: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """
    The interval of a win rate.

    It is [Wilson's](https://doi.org/10.1080/01621459.1927.10502953) score interval with the quantile of Student's t,
    for as many independent verdicts as would have the same standard error. Unlike mean ± t · error it covers the truth
    near 0 and 1 too, and where a few prompts all say the same.

    Args:
        rate (`float`): mean over prompts, from 0 to 1.
        error (`float`): its standard error over prompts.
        count (`int`): prompts, at least 2.
        level (`float`, *optional*, defaults to `0.95`): of the interval.

    Returns:
        `tuple[float, float]`
    """
    from scipy.stats import t

    quantile = float(t.ppf((1 + level) / 2, count - 1))
    spread = rate * (1 - rate)
    # Prompts that all say 0, or 1, count as one verdict each; those that agree on anything between are certain.
    per_verdict = error**2 / spread if spread > 0 else 1 / count
    shift = quantile**2 * per_verdict
    centre = (rate + shift / 2) / (1 + shift)
    half = quantile * (per_verdict * (spread + shift / 4)) ** 0.5 / (1 + shift)
    return max(0.0, centre - half), min(1.0, centre + half)
