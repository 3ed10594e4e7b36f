# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Who beats whom, and who says so: judged pairs on disk, and what they say of a judge."""

from .frozen import frozen_policies
from .matrix import BradleyTerry, Cycle, Estimate, WinRateMatrix
from .scores import ELO


__all__ = ["ELO", "BradleyTerry", "Cycle", "Estimate", "WinRateMatrix", "frozen_policies"]
