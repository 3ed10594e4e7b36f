# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run costs: bytes, tokens, time, and whether it fits."""

from .plan import USABLE, Plan, usable


__all__ = ["USABLE", "Plan", "usable"]
