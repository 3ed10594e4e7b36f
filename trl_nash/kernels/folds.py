# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What happens between the matrix products, in torch: on any device, in fp32 or fp64. The symbols are those of
`schedule.py`; `triton_folds.py` has the same functions with the same arguments.
"""

import math

import torch
from torch import Tensor


GATHERED_BYTES = 2**24  # of the rows of W that are gathered at once


def target_logits(hidden: Tensor, weight: Tensor, targets: Tensor, out: Tensor) -> None:
    """
    Adds the raw logit of each row's target: `out += Σ_d hidden[:, d] weight[targets, d]`.

    Args:
        hidden (`torch.Tensor` of shape `(N, D)`): strided by rows.
        weight (`torch.Tensor` of shape `(V, D)`): strided in any way; rounded to the dtype of `hidden`.
        targets (`torch.Tensor` of shape `(N,)`): int64.
        out (`torch.Tensor` of shape `(N,)`): in the accumulator's dtype.
    """
    for rows in _chunks(hidden, out.dtype):
        gathered = weight[targets[rows]].to(hidden.dtype).to(out.dtype)
        out[rows] += torch.linalg.vecdot(hidden[rows].to(out.dtype), gathered)


def add_target_rows(gradient: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, dtype: torch.dtype) -> None:
    """
    Adds the target's own part of the gradient: `gradient += scale ∘ weight[targets]`.

    Args:
        gradient (`torch.Tensor` of shape `(N, D)`): in the accumulator's dtype, strided by rows.
        weight (`torch.Tensor` of shape `(V, D)`): strided in any way.
        targets (`torch.Tensor` of shape `(N,)`): int64.
        scale (`torch.Tensor` of shape `(N,)`): in the accumulator's dtype.
        dtype (`torch.dtype`): that `weight` is rounded to.
    """
    for rows in _chunks(gradient, gradient.dtype):
        gradient[rows].addcmul_(scale[rows, None], weight[targets[rows]].to(dtype).to(gradient.dtype))


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
    """
    Sums a tile of raw logits over its columns, and makes the entries of E of it. The tile is overwritten.

    Args:
        tile (`torch.Tensor` of shape `(n, c)`): raw logits without bias, in the accumulator's dtype.
        bias (`torch.Tensor` of shape `(c,)`, *optional*): in any floating dtype.
        targets (`torch.Tensor` of shape `(n,)`): int64 columns of the tile; not in [0, c) where it lies elsewhere.
        anchor (`torch.Tensor` of shape `(n,)`): `z_y + m`.
        target_entry (`torch.Tensor` of shape `(n,)`, *optional*): what to put at the target in `entries`, 0 if `None`.
        logit_scale, softcap, temperature (`float`): of the logits.
        sums (`torch.Tensor` of shape `(n,)`, *optional*): set to `Σ e` of the tile.
        statistics (`torch.Tensor` of shape `(3, n)`, *optional*):
            Set to `Σ d e`, `Σ d` and the number of columns that win against the target (larger, or equal and before
            it), all without the target, with `d = z - anchor`.
        entries (`torch.Tensor` of shape `(n, c)`, *optional*): set to E, in any floating dtype. It may be `tile`.
    """
    rows, slope = torch.arange(len(tile), device=tile.device), None
    if bias is not None:
        tile += bias
    if softcap is None:
        if logit_scale != temperature:
            tile *= logit_scale / temperature
    else:
        tile.mul_(logit_scale / softcap).tanh_()
        slope = 1 - tile * tile if entries is not None else None
        tile *= softcap / temperature
    tile -= anchor[:, None]

    inside = (targets >= 0) & (targets < tile.size(1))
    columns = targets.clamp(0, tile.size(1) - 1)
    rows, columns, kept = rows[inside], columns[inside], inside.nonzero()[:, 0]
    if statistics is not None:
        d = tile.clone()
        d[rows, columns] = 0.0
        before = torch.arange(tile.size(1), device=tile.device) < targets[:, None]
        wins = (tile > 0) | ((tile == 0) & before)
        wins[rows, columns] = False
    tile[rows, columns] = -math.inf
    tile.exp_()
    if statistics is not None:
        statistics[0], statistics[1], statistics[2] = (d * tile).sum(1), d.sum(1), wins.sum(1)
    if sums is not None:
        torch.sum(tile, 1, out=sums)
    if entries is not None:
        if slope is not None:
            tile *= slope
        if target_entry is not None:
            tile[rows, columns] = target_entry[kept]
        if entries is not tile:
            entries.copy_(tile)


def _chunks(matrix: Tensor, dtype: torch.dtype):
    size = max(1, GATHERED_BYTES // (dtype.itemsize * max(1, matrix.size(1))))
    for start in range(0, len(matrix), size):
        yield slice(start, start + size)
