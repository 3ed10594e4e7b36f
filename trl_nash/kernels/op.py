# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The schedule as an operator of torch, with its gradient, so that `torch.compile` sees one node."""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from .schedule import Projection
from .scores import Scores, new_stash


@torch.library.custom_op("trl_nash::linear_logprob", mutates_args=())
def forward(
    hiddens: list[Tensor],
    weights: list[Tensor],
    bias: Tensor | None,
    targets: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    tile_rows: int,
    tile_columns: int,
    triton: bool,
    gradient: bool,
    stash_rows: int,
    statistics: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    vocabulary = len(weights[0])
    if len(targets) and not 0 <= (bounds := torch.stack(torch.aminmax(targets)).tolist())[0] <= bounds[1] < vocabulary:
        raise ValueError(
            f"`targets` go from {bounds[0]} to {bounds[1]}; they are token ids from 0 to {vocabulary - 1}. Positions "
            "without a target belong out of `mask`."
        )
    projection = _projection(
        hiddens, weights, bias, targets, logit_scale, softcap, temperature, tile_rows, tile_columns, triton
    )
    with torch.autocast(targets.device.type, enabled=False):
        return projection.forward(gradient=gradient, stash_rows=stash_rows, statistics=statistics)


@forward.register_fake
def _(
    hiddens,
    weights,
    bias,
    targets,
    logit_scale,
    softcap,
    temperature,
    tile_rows,
    tile_columns,
    triton,
    gradient,
    stash_rows,
    statistics,
):
    hidden = hiddens[0]
    count, dtype = len(targets), torch.float64 if hidden.dtype == torch.float64 else torch.float32
    row = hidden.new_empty(count, dtype=dtype)
    summary = hidden.new_empty(count if statistics else 0, dtype=dtype)
    width = sum(h.size(1) for h in hiddens) if gradient else 0
    stash = new_stash(hidden, stash_rows, len(weights[0]), hidden.dtype)
    return (
        row,
        summary,
        torch.empty_like(summary),
        torch.empty_like(summary, dtype=torch.bool),
        hidden.new_empty((count, width), dtype=stash.dtype),
        torch.empty_like(row),
        torch.empty_like(row),
        torch.empty_like(row),
        stash,
    )


@torch.library.custom_op("trl_nash::linear_logprob_weight_gradients", mutates_args=())
def weight_gradients(
    hiddens: list[Tensor],
    weights: list[Tensor],
    bias: Tensor | None,
    targets: Tensor,
    logit_scale: float,
    softcap: float | None,
    temperature: float,
    tile_rows: int,
    tile_columns: int,
    triton: bool,
    upstream: Tensor,
    anchor: Tensor,
    target_entry: Tensor,
    stash: Tensor,
    wanted: list[bool],
) -> list[Tensor]:
    projection = _projection(
        hiddens, weights, bias, targets, logit_scale, softcap, temperature, tile_rows, tile_columns, triton
    )
    with torch.autocast(targets.device.type, enabled=False):
        return projection.weight_gradients(upstream, anchor, target_entry, stash, wanted)


@weight_gradients.register_fake
def _(
    hiddens,
    weights,
    bias,
    targets,
    logit_scale,
    softcap,
    temperature,
    tile_rows,
    tile_columns,
    triton,
    upstream,
    anchor,
    target_entry,
    stash,
    wanted,
):
    parameters = zip([*weights, bias], wanted, strict=True)
    return [torch.empty_like(p) if is_wanted else upstream.new_empty(0) for p, is_wanted in parameters]


def _projection(*args: Any) -> Projection:
    *parts, triton = args
    if triton:
        from . import triton_folds

        parts = [*parts, triton_folds]
    return Projection(*parts)


def _setup_context(ctx, inputs, output):
    hiddens, weights, bias, targets, *ctx.options = inputs
    scores = Scores(*output)
    wanted = [weight.requires_grad for weight in weights] + [bias is not None and bias.requires_grad]
    ctx.wanted = wanted
    ctx.dtype = hiddens[0].dtype
    ctx.widths = [hidden.size(1) for hidden in hiddens]
    # A frozen head needs nothing but the gradient that is there already.
    again = (
        [*hiddens, *weights, bias, targets, scores.anchor, scores.target_entry, scores.stash] if any(wanted) else []
    )
    ctx.save_for_backward(scores.gradient, scores.row_scale, *again)
    ctx.mark_non_differentiable(*scores[1:])
    ctx.set_materialize_grads(False)


def _backward(ctx, upstream, *_):
    gradient, row_scale, *again = ctx.saved_tensors
    n = len(ctx.widths)
    hidden_gradients, parameter_gradients = [None] * n, [None] * (n + 1)
    if upstream is not None:
        if torch.is_grad_enabled() and upstream.requires_grad:
            raise RuntimeError("`linear_logprob` has no second derivative: leave out `create_graph=True`.")
        if gradient.size(1):
            hidden_gradients = list((upstream[:, None] * gradient).to(ctx.dtype).split(ctx.widths, dim=1))
        if any(ctx.wanted):
            hiddens, weights, (bias, targets, anchor, target_entry, stash) = (
                again[:n],
                again[n : 2 * n],
                again[2 * n :],
            )
            options = ctx.options[:6]
            with gathered(*weights, bias):
                found = weight_gradients(
                    hiddens,
                    weights,
                    bias,
                    targets,
                    *options,
                    upstream * row_scale,
                    anchor,
                    target_entry,
                    stash,
                    ctx.wanted,
                )
            parameter_gradients = [g if is_wanted else None for g, is_wanted in zip(found, ctx.wanted, strict=True)]
    return hidden_gradients, parameter_gradients[:n], parameter_gradients[n], *[None] * 10


def gathered(*parameters: Tensor | None):
    """Within it, parameters that ZeRO-3 has taken apart are whole again."""
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        from ..compat import maybe_gather_lm_head_ctx

        return maybe_gather_lm_head_ctx(*[parameter for parameter in parameters if parameter is not None])
    return nullcontext()


forward.register_autograd(_backward, setup_context=_setup_context)
