# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run has come to, in sentences: for the terminal and for the model card."""

from math import isnan
from typing import TypeGuard

from ....rounds.metrics import win_rate_interval
from ...config import WIN_RATE


# Nats a completion. A policy that is its start has a KL of 0 without an error: a large error is a policy that moved.
NEAR_KL = 0.2


def is_near(kl: float, error: float | None) -> bool:
    """
    Whether the estimate of a KL, in nats a completion, is small on either side of 0, even with two of its standard
    errors (if known) on top.
    """
    return abs(kl) + 2 * (error if is_known(error) else 0.0) < NEAR_KL


def is_known(error: float | None) -> TypeGuard[float]:
    """Whether there is an error: of one prompt there is none."""
    return error is not None and not isnan(error)


def result(log_history: list[dict]) -> str | None:
    """
    How the policy did against its start in the last evaluation, and how far it has moved.

    Args:
        log_history (`list[dict]`): of the [`~transformers.TrainerState`].

    Returns:
        `str`: Sentences, or `None` if it was not evaluated or the judge had no opinion.
    """
    found = ((entry, name) for entry in reversed(log_history) for name in entry if name.endswith(WIN_RATE))
    entry, name = next(found, (None, ""))
    if entry is None:
        return None
    said = against_the_start(entry[name], entry.get(f"{name}_se"), entry.get(f"{name}_n", 1))
    prefix = name.removesuffix(WIN_RATE)
    moved = []
    if (kl := entry.get(f"{prefix}policy/kl_reference")) is not None:
        moved.append(f"KL {kl_words(kl, entry.get(f'{prefix}policy/kl_reference_se'))} nats")
    lengths = [entry.get(f"{prefix}completions/mean_length{whose}") for whose in ("", "_reference")]
    if None not in lengths:
        moved.append("{:.0f} tokens an answer, the start's {:.0f}".format(*lengths))
    return f"{said} {', '.join(moved)}." if moved else said


def kl_words(kl: float, error: float | None) -> str:
    """
    A KL as one reads it. It is an estimate from samples: what is within its error has that beside it, and is about 0
    if the error is small, too.

    Args:
        kl (`float`): in nats.
        error (`float`, *optional*): its standard error, if it is known.
    """
    if kl >= 0 and not (is_known(error) and kl < 2 * error):
        return f"{kl:.3g}"
    estimate = f"{kl:.3g}" + (f" ± {error:.2g}" if is_known(error) else "")
    return f"about 0 (estimate {estimate})" if is_near(kl, error) else estimate


def against_the_start(rate: float, error: float | None, count: int) -> str:
    """
    A sentence on a win rate.

    Args:
        rate (`float`): mean over prompts.
        error (`float`, *optional*): its standard error over prompts, if there are two.
        count (`int`): judged prompts.
    """
    if error is None:
        return f"Against the start it wins {rate:.1%}, on one prompt: too few to say how sure that is."
    low, high = win_rate_interval(rate, error, count)
    if low <= 0.5 <= high:
        return (
            f"No measurable change: against the start it wins {rate:.1%} ± {error:.1%}, and the 95 % interval, "
            f"{low:.1%} to {high:.1%}, holds 50 % (n = {count} prompts)."
        )
    return (
        f"Against the start it wins {rate:.1%} ± {error:.1%} (95 % interval {low:.1%} to {high:.1%}, n = {count} "
        "prompts)."
    )
