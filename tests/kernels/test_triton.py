# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The Triton kernels compute what their twins in torch compute: `on_device.py`, in Triton's interpreter and on a GPU.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


HERE = Path(__file__).parent


def run(**environment: str) -> subprocess.CompletedProcess:
    # In another process, because Triton reads the environment when it is imported.
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "on_device.py")],
        env={**os.environ, **environment},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=1800,
    )


def test_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    process = run(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.gpu
def test_kernels_on_a_gpu():
    process = run(TRITON_INTERPRET="0")
    assert process.returncode == 0, process.stdout + process.stderr
