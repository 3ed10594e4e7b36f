# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The machine that this process runs on, in the terms of a plan."""

import os

from ..usage import UsageError
from .costs.time import DEVICES, Device


def machine_memory() -> float:
    """GiB of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def memory_here(training) -> float:
    """GiB of the device that a process trains on."""
    import torch

    if training.device.type == "cuda":
        return torch.cuda.get_device_properties(training.device).total_memory / 2**30
    return machine_memory()


def device_here(training) -> tuple[str, Device]:
    """
    The device that a process trains on, and its name in [`DEVICES`].

    Args:
        training ([`NashConfig`]): its `device`.

    Raises:
        UsageError: If there is none like it.
    """
    name = "cpu" if training.device.type == "cpu" else known_device()
    return name, DEVICES[name]._replace(memory=memory_here(training))


def known_device() -> str:
    """This machine's accelerator, as [`DEVICES`] calls it."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.accelerator.current_accelerator().type
    words = name.upper().replace("-", " ").split()
    for known in sorted(DEVICES, key=len, reverse=True):
        if all(part in words for part in known.upper().replace("-", " ").split()):
            return known
    raise UsageError(f"`trl-nash plan` knows no {name}: give it --memory, --tflops and --bandwidth there.")


def strategy_here(training) -> str:
    """How accelerate, or the options, distribute the run: one of `STRATEGIES`."""
    from transformers.integrations import is_deepspeed_zero3_enabled

    def uses(what: str) -> bool:
        return os.environ.get(f"ACCELERATE_USE_{what}", "false").lower() == "true"

    if training.device.type == "cpu":
        return "cpu"
    if uses("FSDP") or training.fsdp:
        return "fsdp2"
    if uses("DEEPSPEED") or training.deepspeed:
        if is_deepspeed_zero3_enabled():
            return "zero3"
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        return f"zero{stage}" if stage in ("1", "2", "3") else "ddp"
    return "ddp"
