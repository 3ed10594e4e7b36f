# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Memory for copies of weights, in one process. What several processes share is tested by `tests/scale`, which trains.
"""

import gc
from pathlib import Path

import pytest
import torch

from trl_nash.policies.memory import MachineMemory, OwnMemory


CPU = torch.device("cpu")
WEIGHTS = {
    "wide": torch.randn(3, 5, dtype=torch.float64),
    "odd": torch.randn(7, dtype=torch.bfloat16),
    "scalar": torch.tensor(2.5),
    "strided": torch.randn(4, 6).T,
    "bytes": torch.arange(5, dtype=torch.uint8),
}


def mapped() -> int:
    """Policies that are in shared memory of this process."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("memfd:trl-nash-policy")


def fill(memory, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    copies = memory.allocate(weights)
    for name, weight in memory.mine(weights.items()):
        copies[name].copy_(weight)
    memory.wait()
    return copies


@pytest.mark.parametrize("kind", [OwnMemory, MachineMemory])
def test_copies_have_shape_type_and_content(kind):
    copies = fill(kind(CPU), WEIGHTS)
    assert copies.keys() == WEIGHTS.keys()
    for name, weight in WEIGHTS.items():
        assert copies[name].shape == weight.shape and copies[name].dtype == weight.dtype
        assert torch.equal(copies[name], weight)
    # Each tensor has a place of its own.
    copies["odd"].zero_()
    assert all(torch.equal(copies[name], weight) for name, weight in WEIGHTS.items() if name != "odd")


def test_shared_memory_is_given_back():
    """With the copies, also if a tensor of them is still held: then with that tensor. No file is left open."""
    memory, before, files = MachineMemory(CPU), mapped(), len(list(Path("/proc/self/fd").iterdir()))
    copies = fill(memory, WEIGHTS)
    assert mapped() == before + 1
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    kept = copies["wide"]
    del copies
    assert mapped() == before + 1 and torch.equal(kept, WEIGHTS["wide"])
    del kept
    assert mapped() == before


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [OwnMemory, MachineMemory])
def test_copies_of_a_gpu_are_pinned(kind):
    """And stay so while they live; the address can be pinned again afterwards."""
    device = torch.device("cuda", torch.cuda.current_device())
    weights = {name: weight.to(device) for name, weight in WEIGHTS.items()}
    for _ in range(3):
        copies = fill(kind(device), weights)
        assert all(copy.is_pinned() for copy in copies.values())
        assert all(torch.equal(copies[name], weight) for name, weight in WEIGHTS.items())
        del copies
        gc.collect()
