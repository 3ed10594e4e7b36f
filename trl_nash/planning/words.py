# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Numbers, bytes and seconds in words, and what a round consists of."""

from collections.abc import Container

from .costs.bytes import GIB
from .sizes import LEFT_OUT


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def number_of(text: str) -> int:
    """`7B` is 7,000,000,000."""
    text = text.strip().upper()
    unit = text[-1:] if text[-1:] in _UNITS else ""
    return int(float(text.removesuffix(unit) if unit else text) * _UNITS[unit])


def duration(seconds: float) -> str:
    """`3.2 h`, `4 min`."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def gib(size: int | None) -> str:
    if not size:
        return ""
    return f"{size / GIB:.2f}" if size >= GIB / 200 else "< 0.01"


def counted(count: int, one: str, several: str | None = None) -> str:
    """`1 round`, `2,000 rounds`."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def run_words(sizes, rounds: int, steps: int) -> dict[str, str]:
    """
    What a round and a run consist of, a line each.

    Args:
        sizes ([`Run`] or [`NashConfig`]): how large a round is.
        rounds (`int`): of the run.
        steps (`int`): optimizer steps of the run.

    Returns:
        `dict[str, str]`: by headings.
    """
    passes = f" in {sizes.num_iterations} passes" if sizes.num_iterations > 1 else ""
    return {
        "round": f"{sizes.prompts_per_round:,} prompts x {sizes.num_generations} completions of up to "
        f"{sizes.max_new_tokens} tokens, then {counted(sizes.optimizer_steps_per_round, 'optimizer step')}{passes}",
        "generate": f"{sizes.generation_chunk} prompts a call",
        "steps": f"{counted(rounds, 'round')}, {counted(steps, 'optimizer step')}",
    }


def remarks_on(
    sizes, chosen: Container[str], max_steps: int | None = None, prompts: int | None = None, rounds: int = 0
) -> dict[str, str]:
    """
    What is said behind the lines of [`run_words`]: which sizes nobody has chosen, and how many prompts are left out.

    Args:
        sizes ([`Run`] or [`NashConfig`]): how large a round is.
        chosen (`Container[str]`): the options that somebody has chosen.
        max_steps (`int`, *optional*): optimizer steps of the run, if they are given.
        prompts (`int`, *optional*): how many there are to train on, if that is known.
        rounds (`int`, *optional*): of the run. One of less than an epoch leaves prompts out because it is short.
    """
    found = {}
    if "generation_batch_size" not in chosen and "steps_per_generation" not in chosen:
        whole = max_steps is not None and max_steps > 0 and max_steps % sizes.optimizer_steps_per_round == 0
        why = f"whole rounds of --max_steps {max_steps}; " if whole else ""
        found["round"] = f" ({why}--generation_batch_size N to decide yourself)"
    if "per_device_generation_batch_size" not in chosen:
        found["generate"] = " (--per_device_generation_batch_size N to decide yourself)"
    left = 0 if prompts is None else prompts % sizes.prompts_per_round
    if prompts is not None and left > LEFT_OUT * prompts and rounds >= prompts // sizes.prompts_per_round > 0:
        found["steps"] = (
            f"; {left:,} of the {prompts:,} prompts fill no round, and every epoch leaves so many out (smaller "
            "rounds, or a smaller --per_device_train_batch_size, leave out fewer)"
        )
    return found
