# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The Triton kernels compute what their twins in torch compute: `interpreted.py`, in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


HERE = Path(__file__).parent


def test_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    # In another process, because Triton reads the variable when it is imported.
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(HERE), "CUDA_VISIBLE_DEVICES": ""},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if process.returncode:
        pytest.fail(process.stdout + process.stderr, pytrace=False)
