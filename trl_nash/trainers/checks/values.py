# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Values of options: schedules, ranges, choices. The command line asks before it imports torch."""

from collections.abc import Sequence
from typing import Any


# Least and largest value of numbers, and of each number of schedules.
RANGES = {
    "beta": (0.0,),
    "step_size": (0.0,),
    "num_generations": (2,),
    "num_iterations": (1,),
    "fit_held_out": (0.0, 1.0),
    "steps_per_generation": (1,),
    "reference_rounds": (1,),
    "anchor_history": (2,),
    "mixture_coef": (0.0, 1.0),
    "ema_decay": (0.0, 1.0),
    "history_weights": (0.0, 1.0),
    "max_nan_rate": (0.0, 1.0),
    "opponent_pool_rounds": (1,),
    "max_turns": (1,),
}


def check_values(options: Any) -> None:
    """
    Refuses numbers out of their range, and those that do not go together whatever the rest is.

    Args:
        options ([`NashConfig`] or `argparse.Namespace`): where the options are attributes.

    Raises:
        ValueError: If there is one.
    """
    for name, limits in RANGES.items():
        if (value := getattr(options, name, None)) is not None:
            check_range(name, value, *limits)
    for name in ("temperature", "reward_temperature"):
        if getattr(options, name) <= 0:
            raise ValueError(f"`{name}` must be positive, got {getattr(options, name)}.")
    if options.max_new_tokens >= options.max_length:
        raise ValueError(
            f"`max_length` ({options.max_length}) counts prompt and completion: it must exceed `max_new_tokens` "
            f"({options.max_new_tokens}), or no prompt is left."
        )


def scheduled(values: float | list[float], index: int) -> float:
    """Entry `index` of a schedule whose last value repeats; a number is a schedule that never changes."""
    if not isinstance(values, (list, tuple)):
        return float(values)
    return float(values[min(index, len(values) - 1)])


def as_list(values: float | list[float]) -> list[float]:
    return list(values) if isinstance(values, (list, tuple)) else [values]


def check_range(name: str, values: float | list[float], low: float, high: float = float("inf")) -> None:
    """Raises `ValueError` unless every value lies in `[low, high]`."""
    if not as_list(values):
        raise ValueError(f"`{name}` is an empty list: give at least one number.")
    for value in as_list(values):
        if not isinstance(value, (int, float)) or not low <= value <= high:
            allowed = f"between {low:g} and {high:g}" if high < float("inf") else f"at least {low:g}"
            raise ValueError(f"`{name}` must be {allowed}, got {value!r}.")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def collapse(values: float | list[float]) -> float | list[float]:
    return values[0] if isinstance(values, (list, tuple)) and len(values) == 1 else values


def check_on_policy(config) -> None:
    """Raises `ValueError` unless a round is one optimizer step, as a policy gradient needs it."""
    if config.optimizer_steps_per_round > 1 or config.num_iterations > 1:
        raise ValueError(
            "A policy gradient is on-policy: a round must be one optimizer step. Leave `num_iterations` at 1 and "
            "`steps_per_generation` at `gradient_accumulation_steps`."
        )


def check_one_policy(config) -> None:
    """Raises `ValueError` if vLLM would have to sample from a mixture of two policies."""
    if config.use_vllm and any(0 < coef < 1 for coef in as_list(config.mixture_coef)):
        raise ValueError(
            "vLLM samples from one policy at a time, and not from a mixture of two: leave `use_vllm` out, or set "
            "`mixture_coef` to 0 or 1."
        )
