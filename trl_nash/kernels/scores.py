# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the schedule's forward leaves: log-probs, and what their gradients are made from."""

from typing import NamedTuple

import torch
from torch import Tensor

from .products import HALVES


class Scores(NamedTuple):
    """What [`Projection.forward`] returns; in the accumulator's dtype but where it says otherwise."""

    logps: Tensor  # (N,)
    entropy: Tensor  # (N,) or, like the next two, (0,) if nobody asked
    mean_logit: Tensor  # (N,)
    is_top1: Tensor  # (N,) bool: the target is the first of the largest logits
    gradient: Tensor  # (N, ΣD_i) or (N, 0): of log p with respect to the hidden states, in the dtype of `stash`
    row_scale: Tensor  # (N,) r
    anchor: Tensor  # (N,) z_y + m
    target_entry: Tensor  # (N,) E_y
    stash: Tensor  # (first rows, V) E


def entry_dtype(dtype: torch.dtype) -> torch.dtype:
    """What E is kept in where products are made of `dtype`."""
    return torch.bfloat16 if dtype in HALVES else dtype  # fp16 lacks the exponents


def new_stash(like: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Room for E of some rows, which begin where loads and stores are wide whatever the vocabulary's size."""
    return like.new_empty((rows, -(-columns // 64) * 64 if rows else columns), dtype=entry_dtype(dtype))[:, :columns]
