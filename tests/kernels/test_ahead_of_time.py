# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Every version of every Triton kernel compiles for the GPUs that we name, without one, and spills no registers.

The functions of `triton_folds` are called as the schedule calls them, with a driver that knows only its target, and
what they would launch is compiled. What the machine code holds is read from the file, not from a loaded kernel.
"""

import itertools
import re
import subprocess
from pathlib import Path

import pytest
import torch


triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402

from trl_nash.kernels import triton_folds  # noqa: E402


ARCHITECTURES = (80, 90, 100)
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


class Driver:
    """As much of a driver as compiling needs."""

    def __init__(self, architecture: int):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.target  # compiled kernels are kept by device

    def get_current_stream(self, device):
        return 0


class CompileOnly:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel, compiled: list, options: dict):
        self.kernel, self.compiled, self.options = kernel, compiled, options

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.compiled.append(
            self.kernel.warmup(*args, grid=grid, **kwargs, **self.options)
        )


@pytest.fixture
def compile_launches(monkeypatch, tmp_path):
    """Compiles what some functions launch, for an architecture, to `{version: kernel}`."""

    def run(architecture: int, *functions, **options) -> dict:
        compiled = []
        with monkeypatch.context() as patch:
            patch.setenv("TRITON_CACHE_DIR", str(tmp_path))
            patch.setattr(triton.runtime.driver, "_active", Driver(architecture))
            for name in ("_target_logits", "_add_target_rows", "_fold"):
                patch.setattr(triton_folds, name, CompileOnly(getattr(triton_folds, name), compiled, options))
            for function in functions:
                function()
        return {(kernel.hash, str(kernel.src.signature)): kernel for kernel in compiled}

    return run


def spilled_bytes(kernel, folder: Path) -> int:
    file = folder / "kernel.cubin"
    file.write_bytes(kernel.asm["cubin"])
    command = [CUOBJDUMP, "--dump-resource-usage", file]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {name: int(value) for name, value in re.findall(r"\b(STACK|LOCAL):(\d+)", dump)}
    # Spilled registers are counted in STACK; our kernels have nothing else to put in either.
    return found["STACK"] + found["LOCAL"]


def call_fold(rows, columns, *, bias=None, softcap=None, statistics=False, entries=None, backward=False):
    tile, vector = torch.empty(rows, columns), torch.empty(rows)
    if entries is not None:
        entries = tile if entries == FP32 else torch.empty(rows, columns, dtype=entries)
    triton_folds.fold(
        tile,
        None if bias is None else torch.empty(columns, dtype=bias),
        torch.empty(rows, dtype=torch.int64),
        vector,
        vector if backward else None,
        1.0,
        softcap,
        1.0,
        None if backward else vector,
        torch.empty(3, rows) if statistics else None,
        entries,
    )


def call_folds():
    for bias, softcap, entries in itertools.product((None, BF16), (None, 30.0), (None, BF16, FP32)):
        for statistics in (False, True):
            call_fold(512, 256, bias=bias, softcap=softcap, statistics=statistics, entries=entries)
        if entries is not None:
            call_fold(512, 256, bias=bias, softcap=softcap, entries=entries, backward=True)


def call_folds_of_other_shapes():
    """Few rows, tiles that are not aligned and other biases, where most has to be kept in registers."""
    for rows, columns, bias in ((64, 256, BF16), (64, 255, FP16), (512, 255, FP32)):
        for entries in (BF16, FP32):
            call_fold(rows, columns, bias=bias, softcap=30.0, statistics=True, entries=entries)


def call_target_kernels():
    for rows, dtype, weight_dtype in ((512, BF16, BF16), (512, FP32, FP32), (64, BF16, FP32), (64, FP16, FP16)):
        hidden, row = torch.empty(rows, 64, dtype=dtype), torch.empty(rows)
        targets = torch.empty(rows, dtype=torch.int64)
        for weight in (torch.empty(128, 64, dtype=weight_dtype), torch.empty(64, 128, dtype=weight_dtype).T):
            triton_folds.target_logits(hidden, weight, targets, row)
            triton_folds.add_target_rows(hidden.float(), weight, targets, row, dtype)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(compile_launches, tmp_path, architecture):
    found = compile_launches(architecture, call_folds, call_folds_of_other_shapes, call_target_kernels)
    # With and without bias and softcap, 6 versions of the forward and 2 of the backward; the others' calls differ.
    assert len(found) == 2 * 2 * (6 + 2) + 3 * 2 + 4 * 4
    assert [version for version, kernel in found.items() if spilled_bytes(kernel, tmp_path)] == []


def test_spills_would_be_seen(compile_launches, tmp_path):
    found = compile_launches(90, lambda: call_fold(64, 256, softcap=30.0, statistics=True), maxnreg=24)
    assert [spilled_bytes(kernel, tmp_path) > 0 for kernel in found.values()] == [True]


def test_sixteen_bytes_are_moved_at_a_time(compile_launches):
    """Of rows that are aligned to as much; what is alike but for the number of rows is one version."""
    found = compile_launches(90, lambda: call_fold(512, 256, entries=BF16), lambda: call_fold(513, 256, entries=BF16))
    (kernel,) = found.values()
    assert "ld.global.v4.b32" in kernel.asm["ptx"] and "st.global.v4.b32" in kernel.asm["ptx"]
