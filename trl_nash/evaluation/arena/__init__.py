# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Policies against each other on the same prompts: `trl-nash arena`, as a library."""

from .contestants import Contestant, read_contestants
from .game import Arena
from .report import write_files
from .result import ArenaResult
from .sampling import Sampling, SamplingError
from .standings import Standing, Standings


__all__ = [
    "Arena",
    "ArenaResult",
    "Contestant",
    "Sampling",
    "SamplingError",
    "Standing",
    "Standings",
    "read_contestants",
    "write_files",
]
