# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How many micro-steps a pass over a round has."""

from .values import check_range


def steps_of_round(args) -> int:
    """
    Args:
        args ([`NashConfig`]): with `steps_per_generation` or `generation_batch_size`, or neither.

    Raises:
        `ValueError`: If both are given and differ, or a round would not end with an optimizer step.
    """
    steps, per_step = args.steps_per_generation, args.per_device_train_batch_size * args.world_size
    if args.generation_batch_size is not None:
        found, left = divmod(args.generation_batch_size, per_step)
        if found == 0 or left:
            raise ValueError(
                f"`generation_batch_size` ({args.generation_batch_size}) must be a multiple of the prompts in a "
                f"micro-step: per_device_train_batch_size * processes = {per_step}."
            )
        if steps not in (None, found):
            raise ValueError(
                f"`generation_batch_size={args.generation_batch_size}` means {found} micro-steps a round, but "
                f"`steps_per_generation={steps}`. Set only one of them."
            )
        steps = found
    elif steps is None:
        steps = args.gradient_accumulation_steps
    check_range("steps_per_generation", steps, 1)
    if steps * args.num_iterations % args.gradient_accumulation_steps:
        raise ValueError(
            f"`steps_per_generation * num_iterations` ({steps} * {args.num_iterations}) must be a multiple of "
            f"`gradient_accumulation_steps` ({args.gradient_accumulation_steps}), so that a round ends with an "
            "optimizer step."
        )
    return steps
