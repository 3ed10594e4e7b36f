# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Bytes and seconds in words."""

from .memory import GIB


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
