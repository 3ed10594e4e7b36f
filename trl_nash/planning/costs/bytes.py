# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a precision and a strategy make of a parameter: its bytes, and the part of it that a process holds."""

import math

from ..known import DEEPSPEED, SHARDED
from ..model import ModelSizes
from ..run import Run


GIB = 2**30
FEW = 0.1  # of all parameters are trained, as in `trainers.checks.sample`


def loaded_bytes(run: Run) -> int:
    """Bytes of a weight that is neither quantised nor an adapter's."""
    half = run.precision != "fp32"
    if run.strategy in DEEPSPEED and half:
        return 2
    if quantised(run) and run.strategy != "cpu":
        # PEFT's preparation makes fp32 of them, and TRL bf16 of that for 4-bit models.
        return 2 if run.load_in_4bit and run.precision == "bf16" else 4
    if run.strategy == "fsdp2" and half and not run.use_peft:
        return 4  # accelerate's master weights
    return 4 if run.dtype == "float32" else 2


def trained_size(run: Run) -> int:
    """Bytes of a weight that is trained."""
    if not run.use_peft or (run.strategy in DEEPSPEED and run.precision != "fp32"):
        return loaded_bytes(run)
    if run.load_in_4bit and run.strategy != "fsdp2":
        return loaded_bytes(run)
    return 4  # PEFT keeps adapters of 16-bit models in fp32


def quantised(run: Run) -> bool:
    return run.load_in_4bit or run.load_in_8bit


def compute_bytes(run: Run) -> int:
    """Bytes of what a linear layer takes and returns in a training step."""
    return 2 if run.precision != "fp32" or run.dtype != "float32" else 4


def stream_bytes(run: Run) -> int:
    """Bytes of the residual stream, and of keys: both have the dtype that the embeddings are used in."""
    return 2 if run.strategy == "fsdp2" and run.precision != "fp32" else loaded_bytes(run)


def shard(run: Run, size: float, *strategies: str) -> int:
    """What one process holds of `size` where `strategies` take it apart."""
    return math.ceil(size / run.num_processes) if run.strategy in strategies else int(size)


def adapter_tensors(model: ModelSizes, run: Run) -> list[int]:
    """The elements of each tensor of the adapter."""
    adapted = model.adapted(run.lora_target_modules)
    return [
        run.lora_r * side for layer in adapted for side in (layer.inputs, layer.outputs) for _ in range(layer.count)
    ]


def trained_tensors(model: ModelSizes, run: Run) -> list[int]:
    return adapter_tensors(model, run) if run.use_peft else model.tensors


def shares_prompts(model: ModelSizes, run: Run) -> bool:
    """Whether a prompt is read once for its completions where these are scored: see `Sample.single_forward`."""
    trained = sum(trained_tensors(model, run))
    few = trained <= FEW * (model.parameters + (trained if run.use_peft else 0))
    return few and not run.gradient_checkpointing


def trained_bytes(model: ModelSizes, run: Run) -> int:
    """The trained weights that one process holds."""
    return shard(run, trained_size(run) * sum(trained_tensors(model, run)), *SHARDED)
