# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is done once by all processes of a run together. Without a process group there is one."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..base import JudgeError


class Exchange:
    """
    Exchanges of one function that all processes call. They have a process group of their own, on the CPU, so that
    those of several functions may be under way at a time, in another order on each process.
    """

    def __init__(self):
        self._world: Any = None  # whose processes the group is of
        self._group: Any = None

    def open(self) -> None:
        """Before the first exchange of a call. All processes open the exchanges of their functions in one order."""
        # Torch is not imported for it: who has a process group has done so.
        torch = sys.modules.get("torch")
        there = torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized()
        world = torch.distributed.group.WORLD if there else None
        if world is not self._world:
            self._world, self._group = world, torch.distributed.new_group(backend="gloo") if there else None

    @property
    def place(self) -> tuple[int, int]:
        """Which of the processes this one is, from 0, and how many there are."""
        return (self._group.rank(), self._group.size()) if self._group is not None else (0, 1)

    def gathered(self, own: Any) -> list:
        """What each process gives, by rank. All must call this together."""
        if self._group is None:
            return [own]
        parts: list = [None] * self._group.size()
        sys.modules["torch"].distributed.all_gather_object(parts, own, group=self._group)
        return parts

    def shared_out(self, work: Callable[[list[int]], Sequence], count: int) -> list:
        """
        The results of `work` for the places 0 ... `count` - 1, each of which one process does: all get all of them.

        Args:
            work (`Callable`): gets some places and returns a result for each; it is not called where there are none.
            count (`int`): the same on all processes, which must call this together.

        Raises:
            `Exception`: What `work` raises; where it was raised by another process's, `JudgeError` with its sentence.
        """
        rank, world = self.place
        places, failure, done = range(rank, count, world), None, []
        try:
            done = list(work(list(places))) if places else []
        except Exception as error:  # the others wait: they are told first
            failure = error
        parts = self.gathered((done, failure and f"{type(failure).__name__}: {failure}"))
        if failure is not None:
            raise failure
        results: list = [None] * count
        for process, (part, said) in enumerate(parts):
            if said:
                raise JudgeError(f"Process {process} could not judge its part of the batch ({said}).")
            results[process::world] = part
        return results
