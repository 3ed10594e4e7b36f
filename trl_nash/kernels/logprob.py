# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Log-probs of tokens from hidden states and the output head, without logits."""

import importlib.util
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..extras import pip_install
from . import op


OUTPUTS = ("log_probs", "entropy", "mean_logits", "is_top1")
BACKENDS = ("auto", "torch", "triton")


class LoRA(NamedTuple):
    """An adapter on the head, whose weight is then `W + scale * b @ a`."""

    a: Tensor  # (r, D)
    b: Tensor  # (V, r)
    scale: float = 1.0


def linear_logprob(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    lora: LoRA | None = None,
    mask: Tensor | None = None,
    head_grad: bool | str = "auto",
    stash_bytes: int | None = None,
    workspace_bytes: int | None = None,
    outputs: Sequence[str] = ("log_probs",),
    backend: str = "auto",
) -> Tensor | tuple[Tensor, ...]:
    r"""
    Log-probs of `targets` under `softmax(z)` with `z = logits / temperature` and, in this order,
    `logits = hidden @ weight.T + bias`, times `logit_scale`, `softcap * tanh(logits / softcap)`.

    Logits exist in fp32, one tile at a time: memory does not grow with tokens times vocabulary, and no logit is
    rounded to 16 bits. Under autocast the factors of the products are rounded to its dtype, as in a linear layer.
    See `docs/background/kernels.md` for what is computed, and at what cost.

    Args:
        hidden (`torch.Tensor` of shape `(..., D)`):
            Hidden states, in any floating dtype.
        weight (`torch.Tensor` of shape `(V, D)`):
            The head's weight.
        targets (`torch.Tensor` of shape `(...)`):
            int64 token ids in [0, V). Where `mask` is false anything may stand.
        bias (`torch.Tensor` of shape `(V,)`, *optional*):
            The head's bias.
        temperature (`float`, *optional*, defaults to `1.0`):
            What logits are divided by.
        logit_scale (`float`, *optional*, defaults to `1.0`):
            What logits are multiplied by (Cohere, Granite ...).
        softcap (`float`, *optional*):
            Bound of the logits (Gemma).
        lora (`LoRA` or `tuple`, *optional*):
            `(a, b, scale)` of an adapter on the head, of shapes (r, D) and (V, r).
        mask (`torch.Tensor` of shape `(...)`, *optional*):
            Which positions count. The others are dropped before anything is computed: their result is 0, and so is
            the gradient of their hidden states, whatever these hold.
        head_grad (`bool` or `"auto"`, *optional*, defaults to `"auto"`):
            Whether weight and bias get a gradient; `"auto"` asks their `requires_grad`. A frozen head costs two matrix
            products in all, a trained one three, or four where nothing is kept for the backward.
        stash_bytes (`int`, *optional*):
            How much may be kept for the gradient of a trained head, at 2 bytes (in fp32, 4) for each token and
            vocabulary entry. The default is a quarter of the free memory and at most 4 GiB on CUDA, and 0 elsewhere.
        workspace_bytes (`int`, *optional*):
            Size of a tile of logits. The default is 32 MiB on CUDA and 8 MiB elsewhere.
        outputs (`Sequence[str]`, *optional*, defaults to `("log_probs",)`):
            Names out of `"log_probs"`, `"entropy"`, `"mean_logits"` (of z) and `"is_top1"` (whether the target is the
            first of the largest logits; of logits that differ by fp32's rounding either may be). Only the log-probs
            have a gradient.
        backend (`str`, *optional*, defaults to `"auto"`):
            `"torch"`, `"triton"`, or `"auto"`: Triton for CUDA tensors if it is installed.

    Returns:
        `torch.Tensor` in the shape of `targets`, in fp32 (in fp64 for fp64 hidden states; `is_top1` is bool). With
        other `outputs` than the default, a tuple in their order.

    Raises:
        `ValueError`: for shapes that do not match, targets out of range and options out of theirs.
        `ImportError`: for `backend="triton"` where Triton is missing.

    Example:

    ```python
    >>> import torch
    >>> from trl_nash.kernels import linear_logprob

    >>> hidden, weight = torch.randn(2, 5, 16), torch.randn(100, 16)
    >>> targets = torch.randint(100, (2, 5))
    >>> logps = linear_logprob(hidden, weight, targets)
    >>> bool((logps - (hidden @ weight.T).log_softmax(-1).gather(-1, targets[..., None])[..., 0]).abs().max() < 1e-5)
    True
    ```
    """
    lora = None if lora is None else LoRA(*lora)
    _check(hidden, weight, targets, bias, lora, mask, temperature, softcap, outputs)
    if head_grad not in (True, False, "auto"):
        raise ValueError(f'`head_grad` is True, False or "auto", got {head_grad!r}.')
    if head_grad is True and not weight.requires_grad:
        raise ValueError("`head_grad=True`, but `weight` requires no gradient: set its `requires_grad`.")
    if head_grad is False:
        weight, bias = weight.detach(), None if bias is None else bias.detach()

    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else torch.promote_types(hidden.dtype, weight.dtype)
    triton = _uses_triton(backend, hidden, dtype)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    # Positions that do not count never reach a matrix product.
    index = None if mask is None else mask.reshape(-1).nonzero()[:, 0]
    rows, flat_targets = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
    if index is not None:
        rows, flat_targets = rows[index], flat_targets[index]
    rows = rows.to(dtype)
    hiddens, weights = [rows], [weight]
    if lora is not None:
        with torch.autocast(device, enabled=False):
            inner, *inner_rest = _in_parts(lora.scale * (rows.to(wide) @ lora.a.to(wide).T), dtype)
            outer, *outer_rest = _in_parts(lora.b, dtype)
        # (inner + inner_rest) @ (outer + outer_rest).T without the product of both rests.
        hiddens += [inner, *inner_rest, *[inner.detach()] * len(outer_rest)]
        weights += [outer, *[outer] * len(inner_rest), *outer_rest]

    trains = torch.is_grad_enabled()
    gradient = trains and any(h.requires_grad for h in hiddens)
    trains_head = trains and any(p is not None and p.requires_grad for p in (*weights, bias))
    tile_rows, tile_columns = _tile(len(flat_targets), len(weight), workspace_bytes, hidden.device)
    found = op.forward(
        hiddens,
        weights,
        bias,
        flat_targets,
        float(logit_scale),
        None if softcap is None else float(softcap),
        float(temperature),
        tile_rows,
        tile_columns,
        triton,
        gradient,
        _stash_rows(stash_bytes, len(flat_targets), len(weight), dtype, hidden.device) if trains_head else 0,
        any(name != "log_probs" for name in outputs),
    )
    results = []
    for name in outputs:
        result = found[OUTPUTS.index(name)]
        if index is not None:
            # Connected to the model also where nothing counts, so that every rank has a backward.
            result = result.new_zeros(targets.numel()).index_put((index,), result)
        results.append(result.view(targets.shape))
    return results[0] if tuple(outputs) == ("log_probs",) else tuple(results)


def _in_parts(x: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """`x` as a sum of what `dtype` can hold: in 16 bits two parts, so that an adapter's few columns stay exact."""
    rounded = x.to(dtype)
    if x.dtype.itemsize <= dtype.itemsize:
        return [rounded]
    return [rounded, (x - rounded).to(dtype).detach()]  # the gradient of x is that of the first


def _check(hidden, weight, targets, bias, lora, mask, temperature, softcap, outputs) -> None:
    if hidden.shape[:-1] != targets.shape:
        raise ValueError(
            f"`hidden` has shape {tuple(hidden.shape)} and `targets` {tuple(targets.shape)}: there is one target for "
            "each hidden state."
        )
    if weight.dim() != 2 or weight.size(1) != hidden.size(-1):
        raise ValueError(
            f"`weight` has shape {tuple(weight.shape)}; for hidden states of size {hidden.size(-1)} it is "
            f"(vocabulary, {hidden.size(-1)})."
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"`targets` are {targets.dtype}; they are token ids of dtype torch.int64.")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"`bias` has shape {tuple(bias.shape)}; it is ({len(weight)},), as `weight` has it.")
    if mask is not None and (mask.shape != targets.shape or mask.dtype != torch.bool):
        raise ValueError(
            f"`mask` has shape {tuple(mask.shape)} and dtype {mask.dtype}; it is bool in the shape of `targets`, "
            f"{tuple(targets.shape)}."
        )
    if lora is not None and (lora.a.shape[1:] != weight.shape[1:] or lora.b.shape != (len(weight), len(lora.a))):
        raise ValueError(
            f"`lora` has shapes {tuple(lora.a.shape)} and {tuple(lora.b.shape)}; they are (r, {weight.size(1)}) and "
            f"({len(weight)}, r)."
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"`temperature` is positive, got {temperature}.")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"`softcap` is positive, or None for no bound, got {softcap}.")
    for name in outputs:
        if name not in OUTPUTS:
            raise ValueError(f"`outputs` has {name!r}; it is made of {', '.join(map(repr, OUTPUTS))}.")


def _uses_triton(backend: str, hidden: Tensor, dtype: torch.dtype) -> bool:
    if backend not in BACKENDS:
        raise ValueError(f"`backend` is one of {', '.join(map(repr, BACKENDS))}, got {backend!r}.")
    installed = importlib.util.find_spec("triton") is not None
    runs = hidden.is_cuda or os.environ.get("TRITON_INTERPRET") == "1"
    if backend == "auto":
        return installed and hidden.is_cuda and dtype != torch.float64
    if backend == "triton":
        if not installed:
            raise ImportError(f'`backend="triton"` needs Triton: {pip_install("kernels")}')
        if not runs or dtype == torch.float64:
            raise ValueError(
                f'`backend="triton"` computes in fp32 on CUDA, and got {dtype} on {hidden.device}: use "auto".'
            )
    return backend == "triton"


def _tile(rows: int, columns: int, workspace_bytes: int | None, device: torch.device) -> tuple[int, int]:
    """Rows and columns of a tile: large enough for fast products, small enough to stay in the cache."""
    most_rows, default_bytes = (2048, 2**25) if device.type == "cuda" else (512, 2**23)
    tile_rows = max(1, min(rows, most_rows))
    tile_columns = (workspace_bytes or default_bytes) // (4 * tile_rows) // 128 * 128
    return tile_rows, min(columns, max(128, tile_columns))


def _stash_rows(stash_bytes: int | None, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> int:
    """For how many rows there is room to keep E."""
    if stash_bytes is None:
        if device.type != "cuda":
            return 0
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        stash_bytes = min((torch.cuda.mem_get_info(device)[0] + reserved) // 4, 2**32)
    return min(rows, stash_bytes // (columns * max(2, dtype.itemsize)))
