# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Sizes of a run that nobody has chosen: a round that is fitted, generation calls that fill the device.

The configs of Python keep OnlineDPOTrainer's meaning: a round of one optimizer step, generated as it is trained.
"""

import math
from dataclasses import replace

from .costs.memory import device_memory
from .known import REMOTE_JUDGES
from .model import ModelSizes
from .run import Run


STEPS = 16  # optimizer steps in a pass over a round, where there are prompts for them
MANY = 10 * STEPS  # in an epoch, from which on a part of a round that is left out is little
FITTED = 10  # optimizer steps from which on a round counts as fitted, as trainers advise
LEFT_OUT = 0.1  # share of the prompts that may fill no round where they are few, and of which nothing is said
MOST = 128  # prompts in a generation call: beyond, a call gains little, and waits for its longest answer
SAFE = 0.95  # of what a device has for tensors: nobody has asked for a call of this size


def fitted_round(
    run: Run, prompts: int | None = None, passes: int | None = None, max_steps: int | None = None
) -> tuple[int, int]:
    """
    A round of `STEPS` optimizer steps; of few prompts, or of a run of few steps, the number near it that leaves fewest
    of them out, and of still fewer nearly all, with as many passes as make `FITTED` steps where there are so many.

    Args:
        run ([`Run`]): its batch sizes, processes, and what its method fits.
        prompts (`int`, *optional*): how many there are to train on; `None` of a stream.
        passes (`int`, *optional*): the passes, if somebody has chosen them.
        max_steps (`int`, *optional*): optimizer steps of the run, if they are given.

    Returns:
        `tuple[int, int]`: `steps_per_generation` and `num_iterations`.
    """
    accumulation, fits = run.gradient_accumulation_steps, run.fits_per_round
    micro_step = run.per_device_train_batch_size * run.num_processes
    limited = max_steps is not None and max_steps > 0
    there = MANY if prompts is None else prompts // (micro_step * accumulation)  # optimizer steps in an epoch
    if prompts is not None and 1 <= there < FITTED:
        most = max_steps // fits if limited else None
        if (found := _nearly_all(prompts, micro_step, accumulation, passes, most)) is not None:
            return found
    there = max(there, 1)
    if limited:
        there = min(there, max(max_steps // (fits * (passes or 1)), 1))
    steps = STEPS if there >= MANY else there
    if FITTED <= there < MANY:
        steps = min(range(FITTED, 2 * STEPS), key=lambda steps: (there % steps, abs(steps - STEPS)))
    if passes is None:
        passes = math.ceil(FITTED / steps)
        passes = max(min(passes, max_steps // (steps * fits)), 1) if limited else passes
    return steps * accumulation, passes


def _nearly_all(
    prompts: int, micro_step: int, accumulation: int, passes: int | None, most: int | None
) -> tuple[int, int] | None:
    """
    Micro-steps and passes of a round of nearly all prompts, or of as many as fill micro-steps: of those that end with
    an optimizer step, are fitted and have no more than `most`, the one of fewest optimizer steps.
    """
    whole = prompts // micro_step
    rounds = []
    for steps in range(min(whole, math.ceil((1 - LEFT_OUT) * prompts / micro_step)), whole + 1):
        unit = accumulation // math.gcd(steps, accumulation)  # passes that end with an optimizer step
        made = passes or math.ceil(FITTED * accumulation / steps / unit) * unit
        if made % unit == 0 and (most is None or steps * made // accumulation <= most):
            rounds.append((steps, made))
    return min(rounds, key=lambda one: (one[0] * one[1], -one[0]), default=None)


def generation_batch(sizes: ModelSizes, run: Run, limit: int) -> int:
    """
    The largest number of prompts in a generation call, halved from `MOST`, that fits, and that a round has for it.

    Args:
        sizes ([`ModelSizes`]): of the policy.
        run ([`Run`]): the run.
        limit (`int`): bytes that a device has for tensors.

    Returns:
        `int`: No less than the prompts of a micro-step.
    """
    own = run.per_device_train_batch_size
    share = run.prompts_per_round // run.num_processes
    # A remote judge is asked while the next call generates.
    count = min(MOST, share // 4 if run.judge in REMOTE_JUDGES else share)
    while count > own:
        needed = device_memory(sizes, replace(run, per_device_generation_batch_size=count), limit)
        if sum(needed.sampling.values()) <= SAFE * limit:
            return count
        count //= 2
    return own
