# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is done once by all processes of a run together. Without a process group there is one."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..base import JudgeError


def _distributed() -> Any:
    """`torch.distributed` if it has processes. Torch is not imported for it: who has a process group has done so."""
    torch = sys.modules.get("torch")
    there = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed if there else None


def place() -> tuple[int, int]:
    """Which of the processes this one is, from 0, and how many there are."""
    distributed = _distributed()
    return (distributed.get_rank(), distributed.get_world_size()) if distributed else (0, 1)


def gathered(own: Any) -> list:
    """What each process gives, by rank. All must call this together."""
    distributed = _distributed()
    if not distributed:
        return [own]
    parts: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, own)
    return parts


def shared_out(work: Callable[[list[int]], Sequence], count: int) -> list:
    """
    The results of `work` for the places 0 ... `count` - 1, each of which one process does: all get all of them.

    Args:
        work (`Callable`): gets some places and returns a result for each; it is not called where there are none.
        count (`int`): the same on all processes, which must call this together.

    Raises:
        `Exception`: What `work` raises; where it was raised by another process's, `JudgeError` with its sentence.
    """
    rank, world = place()
    places, failure, done = range(rank, count, world), None, []
    try:
        done = list(work(list(places))) if places else []
    except Exception as error:  # the others wait: they are told first
        failure = error
    parts = gathered((done, failure and f"{type(failure).__name__}: {failure}"))
    if failure is not None:
        raise failure
    results: list = [None] * count
    for process, (part, said) in enumerate(parts):
        if said:
            raise JudgeError(f"Process {process} could not judge its part of the batch ({said}).")
        results[process::world] = part
    return results
