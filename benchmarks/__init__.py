# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Each benchmark is one command, from the root of the repository: `python -m benchmarks.NAME`. One of several files is a
folder, whose `__main__.py` is the command; what several benchmarks share lies here.
"""

from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
