# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The program of `usage.py` runs, and its types and those of the public modules are right."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


def test_the_program_runs(tmp_path):
    found = runpy.run_path(str(Path(__file__).parent / "usage.py"))["main"](str(tmp_path))
    assert found.rewards == [1.0, 0.0]
    assert found.verdicts == [[1.0]] * 3
    assert found.prompts == 8 and found.step_size == 2.0 and len(found.fits) == 1
    assert abs(found.gap) < 1e-9 and found.gaps == 41
    assert found.method and "peft" in found.command


def test_types(tmp_path):
    pytest.importorskip("mypy", reason="the extra `test` is not installed")
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path)]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
