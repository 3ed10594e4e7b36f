# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The functions of `folds.py` as Triton kernels, for CUDA tensors with accumulators in fp32.

A program has one row and goes over its columns, so that its sums have one order and need neither atomics nor a second
kernel: 2048 rows of 4 warps fill 132 SMs once, and a thread reads 32 and writes 16 bytes at a time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


def target_logits(hidden: Tensor, weight: Tensor, targets: Tensor, out: Tensor) -> None:
    """Adds the raw logit of each row's target, as [`folds.target_logits`] does."""
    assert out.dtype == torch.float32
    if len(out):
        with torch.cuda.device_of(out):
            _target_logits[(len(out),)](
                hidden,
                *hidden.stride(),
                weight,
                *weight.stride(),
                targets.contiguous(),
                out,
                *out.stride(),
                hidden.size(1),
                **_shape(len(out)),
            )


def add_target_rows(gradient: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """Adds the target's own part of the gradient, as [`folds.add_target_rows`] does."""
    assert gradient.dtype == torch.float32
    if len(gradient):
        with torch.cuda.device_of(gradient):
            _add_target_rows[(len(gradient),)](
                gradient,
                *gradient.stride(),
                weight,
                *weight.stride(),
                targets.contiguous(),
                scale.contiguous(),
                gradient.size(1),
                dtype=getattr(tl, str(dtype).removeprefix("torch.")),
                **_shape(len(gradient)),
            )


def fold(
    tile: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    anchor: Tensor,
    target_entry: Tensor | None,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    sums: Tensor | None,
    statistics: Tensor | None,
    entries: Tensor | None,
) -> None:
    """Sums a tile of raw logits and makes the entries of E of it, as [`folds.fold`] does."""
    assert tile.dtype == torch.float32 and tile.stride(1) == 1
    assert entries is None or entries.stride(1) == 1
    if len(tile):
        with torch.cuda.device_of(tile):
            _fold[(len(tile),)](
                tile,
                tile.stride(0),
                tile.size(1),
                None if bias is None else bias.contiguous(),
                targets.contiguous(),
                anchor.contiguous(),
                None if target_entry is None else target_entry.contiguous(),
                logit_scale / (temperature if softcap is None else softcap),
                None if softcap is None else softcap / temperature,
                sums,
                0 if sums is None else sums.stride(0),
                statistics,
                *((0, 0) if statistics is None else statistics.stride()),
                entries,
                0 if entries is None else entries.stride(0),
                **_shape(len(tile)),
            )


def _shape(rows: int) -> dict[str, int | bool]:
    """How to launch: 8 columns a thread, and more threads where few rows would not hide the latency of memory."""
    warps = 4 if rows >= 512 else 16
    # Not fused, `x * scale - anchor` is 0 wherever it is in torch: ties of logits stay ties.
    return {"block": 256 * warps, "num_warps": warps, "enable_fp_fusion": False}


# What depends on N alone, or on where a row starts, makes no version of its own.
@triton.jit(do_not_specialize=["targets", "out", "out_stride"])
def _target_logits(
    hidden,
    hidden_row,
    hidden_column,
    weight,
    weight_row,
    weight_column,
    targets,
    out,
    out_stride,
    width,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    hidden += row * hidden_row
    weight += tl.load(targets + row) * weight_row
    total = tl.zeros([block], tl.float32)
    for start in range(0, width, block):
        column = start + tl.arange(0, block).to(tl.int64)
        h = tl.load(hidden + column * hidden_column, mask=column < width, other=0.0)
        w = tl.load(weight + column * weight_column, mask=column < width, other=0.0)
        total += h.to(tl.float32) * w.to(h.dtype).to(tl.float32)
    out += row * out_stride
    tl.store(out, tl.load(out) + tl.sum(total))


@triton.jit(do_not_specialize=["targets", "scale"])
def _add_target_rows(
    gradient,
    gradient_row,
    gradient_column,
    weight,
    weight_row,
    weight_column,
    targets,
    scale,
    width,
    dtype: tl.constexpr,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    gradient += row * gradient_row
    weight += tl.load(targets + row) * weight_row
    factor = tl.load(scale + row)
    for start in range(0, width, block):
        column = start + tl.arange(0, block).to(tl.int64)
        w = tl.load(weight + column * weight_column, mask=column < width, other=0.0).to(dtype).to(tl.float32)
        part = gradient + column * gradient_column
        tl.store(part, tl.load(part, mask=column < width) + factor * w, mask=column < width)


@triton.jit(
    do_not_specialize=[
        "targets",
        "anchor",
        "target_entry",
        "sums",
        "sums_stride",
        "statistics",
        "statistics_row",
        "statistics_column",
    ]
)
def _fold(
    tile,
    tile_row,
    columns,
    bias,
    targets,
    anchor,
    target_entry,
    inner,
    outer,
    sums,
    sums_stride,
    statistics,
    statistics_row,
    statistics_column,
    entries,
    entries_row,
    block: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets + row).to(tl.int32)
    own_anchor = tl.load(anchor + row)
    tile += row * tile_row
    total = tl.zeros([block], tl.float32)
    total_de = tl.zeros([block], tl.float32)
    total_d = tl.zeros([block], tl.float32)
    wins = tl.zeros([block], tl.int32)
    for start in range(0, columns, block):
        column = start + tl.arange(0, block)
        is_real = column < columns
        x = tl.load(tile + column, mask=is_real, other=0.0)
        if bias is not None:
            x += tl.load(bias + column, mask=is_real, other=0.0).to(tl.float32)
        x *= inner
        if outer is not None:
            x = _tanh(x)
            d = x * outer - own_anchor
        else:
            d = x - own_anchor
        is_other = is_real & (column != target)
        e = tl.where(is_other, tl.exp(d), 0.0)
        total += e
        if statistics is not None:
            total_de += tl.where(is_other, d * e, 0.0)
            total_d += tl.where(is_other, d, 0.0)
            wins += (is_other & ((d > 0) | ((d == 0) & (column < target)))).to(tl.int32)
        if entries is not None:
            if outer is not None:
                e *= 1.0 - x * x
            if target_entry is not None:
                e = tl.where(column == target, tl.load(target_entry + row), e)
            tl.store(entries + row * entries_row + column, e.to(entries.dtype.element_ty), mask=is_real)
    if sums is not None:
        tl.store(sums + row * sums_stride, tl.sum(total))
    if statistics is not None:
        statistics += row * statistics_column
        tl.store(statistics, tl.sum(total_de))
        tl.store(statistics + statistics_row, tl.sum(total_d))
        tl.store(statistics + 2 * statistics_row, tl.sum(wins).to(tl.float32))


@triton.jit
def _tanh(x):
    """To 1.3e-7, and to 2e-7 of small values, which `2 * sigmoid(2 * x) - 1` has no digits of."""
    square = x * x
    # tanh(x) / x - 1 over x², a least-squares fit of its largest relative error for |x| < 0.75.
    fit = ((-0.004769475664943457 * square + 0.019664892926812172) * square - 0.053390249609947205) * square
    fit = (fit + 0.13326521217823029) * square - 0.3333306908607483
    far = 1.0 - 2.0 / (1.0 + tl.exp(2.0 * tl.abs(x)))
    return tl.where(tl.abs(x) < 0.75, x + x * square * fit, tl.where(x < 0, -far, far))
