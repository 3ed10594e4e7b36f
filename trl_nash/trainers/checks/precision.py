# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The number formats of weights, and whether a step is more than their rounding."""

import torch
from torch.distributed.tensor import DTensor
from transformers.utils import is_torch_bf16_gpu_available


SAMPLE = 65536  # weights of a tensor that are looked at


def best_precision(use_cpu: bool = False) -> str:
    """
    What to compute in on this machine: `"bf16"`, `"fp16"` or `"fp32"`.

    Args:
        use_cpu (`bool`, *optional*, defaults to `False`): whether its accelerators are left alone.
    """
    if use_cpu or not torch.accelerator.is_available() or torch.backends.mps.is_available():
        return "fp32"
    if torch.cuda.is_available():
        # Cards before Ampere emulate bf16: slower than fp32, and fp16 is what they have units for.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if is_torch_bf16_gpu_available() else "fp32"


def precision_of(model: torch.nn.Module, computed: str) -> str:
    """
    What is said of a model's precision at the start of a run.

    Args:
        model (`torch.nn.Module`): the model.
        computed (`str`): accelerate's mixed precision, `"no"` for none.
    """
    names = {True: set(), False: set()}
    for parameter in model.parameters():
        names[parameter.requires_grad].add(str(parameter.dtype).removeprefix("torch."))
    parts = [f"trainable weights in {' and '.join(sorted(names[True]))}"]
    if names[False]:
        parts.append(f"frozen ones in {' and '.join(sorted(names[False]))}")
    return ", ".join(parts) + ("" if computed == "no" else f", computed with in {computed}")


@torch.no_grad()
def movable_share(model: torch.nn.Module, step: float) -> float:
    """
    The share of the trainable weights that a step changes at all: of the others it is less than half the distance to
    the next number of their format (a bfloat16 w moves if the step is more than about `|w| / 512`).

    Args:
        model (`torch.nn.Module`): the model. Large tensors are sampled.
        step (`float`): by how much an optimizer moves a weight: Adam's is about the learning rate.
    """
    moved, total = 0.0, 0
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.numel():
            own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
            values = own.flatten()[:: max(1, own.numel() // SAMPLE)]
            moved = moved + (values - step != values).float().mean() * own.numel()
            total += own.numel()
    return float(moved / total) if total else 1.0
