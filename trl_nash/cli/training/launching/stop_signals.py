# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Ctrl-C and SIGTERM, which a scheduler sends before it takes a machine away, end a run with a checkpoint."""

import signal
import sys
import time
from typing import Any

from ...errors import is_first_process


class StopSignals:
    """
    Asks the trainer to stop at the first signal. A second Ctrl-C does not wait; before training begins, nor does the
    first.

    Attributes:
        trainer ([`NashTrainer`], *optional*): the trainer that is training.
        number (`int`, *optional*): the first signal that came.
    """

    trainer: Any = None
    number: int | None = None

    def install(self) -> None:
        """From now on these signals come here."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)

    @property
    def name(self) -> str:
        """What the user knows the signal by."""
        if self.number is None:
            return "A signal to another process"
        return "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name

    def __call__(self, number: int, frame: Any) -> None:
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if self.trainer is None:
                self._now()
            self.trainer.request_stop(self.name)
            if is_first_process():
                again = " Press Ctrl-C again to stop at once." if number == signal.SIGINT else ""
                sentence = f"{self.name}: stopping at the next step, with a checkpoint.{again}"
                print(f"\n{sentence}", file=sys.stderr, flush=True)
        # One Ctrl-C reaches a process from the terminal and again from its launcher.
        elif number == signal.SIGINT and (self.trainer is None or time.monotonic() - self._since > 1.0):
            self._now()

    @staticmethod
    def _now() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt
