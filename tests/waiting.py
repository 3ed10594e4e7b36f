# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tests wait for events, never for time: other work on the machine may take as much of it as it likes."""

import time
from collections.abc import Callable


PATIENCE = 600.0  # seconds; only a test that fails waits so long


def until(condition: Callable[[], bool]) -> None:
    """
    Returns when `condition()` is true.

    Raises:
        `AssertionError`: if it never is.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for has not happened"
        time.sleep(0.005)
