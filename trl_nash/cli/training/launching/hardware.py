# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What this machine can do: how many accelerators, and the precision that they train in."""

import argparse


def visible_devices() -> int:
    """The number of accelerators that PyTorch can use here, 0 on a machine without any."""
    import torch

    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def hardware_options(arguments: argparse.Namespace) -> tuple[list[str], str]:
    """
    The options that follow from the hardware where the user has not decided.

    Args:
        arguments (`argparse.Namespace`):
            Parsed options of a training command.

    Returns:
        `tuple[list[str], str]`: Options to add, and one line that says what was chosen.
    """
    on_cpu = arguments.use_cpu or visible_devices() == 0
    options = ["--use_cpu", "True"] if on_cpu and not arguments.use_cpu else []
    where = "the CPU" if on_cpu else _device_name()
    if arguments.bf16 is not None or arguments.fp16:
        chosen = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "fp32"
        return options, f"Precision: {chosen} on {where}, as you set it."
    from ....trainers.checks.precision import best_precision

    chosen = best_precision(on_cpu)
    options += ["--bf16", str(chosen == "bf16"), "--fp16", str(chosen == "fp16")]
    return options, f"Precision: {chosen}, chosen for {where} (--bf16 or --fp16, True or False, to decide yourself)."


def _device_name() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"the {torch.accelerator.current_accelerator().type} device"
