# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How a plan names this machine and its distribution."""

from types import SimpleNamespace

import pytest
import torch

from trl_nash.planning import machine
from trl_nash.usage import UsageError


@pytest.mark.parametrize(
    "name, known",
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("Tesla T4", "T4"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_devices(name, known, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: name)
    assert machine.known_device() == known


def test_a_device_that_nobody_knows(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Abacus 9")
    with pytest.raises(UsageError, match="knows no Abacus 9: give it --memory, --tflops and --bandwidth"):
        machine.known_device()


@pytest.mark.parametrize(
    "environment, strategy",
    [
        ({}, "ddp"),
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "zero1"),
    ],
)
def test_strategies(environment, strategy, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert machine.strategy_here(settings(torch.device("cuda"))) == strategy
    assert machine.strategy_here(settings(torch.device("cpu"))) == "cpu"


def settings(device):
    return SimpleNamespace(device=device, fsdp=None, deepspeed=None)
