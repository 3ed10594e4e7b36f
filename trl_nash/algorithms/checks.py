# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a setting must be, whoever reads it."""

import math


def check_positive(name: str, value: float) -> None:
    """Raises `ValueError` unless `value` is a positive number, and finite, as is its inverse."""
    try:
        positive = 0 < float(value) < math.inf and 1 / float(value) < math.inf
    except (TypeError, ValueError, OverflowError):
        positive = False
    if not positive or isinstance(value, str):
        raise ValueError(f"`{name}` must be a positive number, got {value}.")
