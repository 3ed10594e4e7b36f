# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Implementations that are compared. Each is a function `(hidden, weight, targets, mask) -> log_probs` of N
rows, called as its authors say; what it returns where `mask` is false does not matter.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


IGNORED = -100
OURS, OURS_WITHOUT_STASH, NAIVE, TRL = "trl-nash", "trl-nash, nothing kept", "naive", "TRL"
LIGER, TORCH = "Liger scaled CE", "torch"


def _ours(**options) -> Callable:
    from trl_nash.kernels import linear_logprob

    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        return linear_logprob(hidden, weight, targets, mask=mask, **options)

    return logprob


def _naive() -> Callable:
    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        # Logits in the dtype of the inputs and their softmax in fp32: what autocast does.
        logps = (hidden @ weight.T).float().log_softmax(-1)
        return torch.take_along_dim(logps, targets[:, None], 1)[:, 0]

    return logprob


def _trl() -> Callable:
    from trl.kernels import ChunkedLogProbFunction

    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        # As `add_fused_lm_head` calls it: rows that do not count are dropped on Triton devices only.
        if not hidden.is_cuda:
            return ChunkedLogProbFunction.apply(hidden, weight, None, targets, 1.0, 32768, None, 1.0, ())[0]
        found = ChunkedLogProbFunction.apply(hidden[mask], weight, None, targets[mask], 1.0, 32768, None, 1.0, ())[0]
        return found.new_zeros(mask.shape).masked_scatter(mask, found)

    return logprob


def _torch() -> Callable:
    try:
        from torch.nn import LinearCrossEntropyOptions
        from torch.nn.functional import linear_cross_entropy
    except ImportError:
        raise ImportError("torch 2.13 or newer has it") from None

    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        return -linear_cross_entropy(
            hidden,
            weight,
            targets.masked_fill(~mask, IGNORED),
            reduction="none",
            ignore_index=IGNORED,
            options=LinearCrossEntropyOptions(),
        )

    return logprob


def _liger_triton() -> Callable:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        found = liger_fused_linear_cross_entropy(
            hidden, weight, targets.masked_fill(~mask, IGNORED), ignore_index=IGNORED, reduction="none"
        )
        return -(found[0] if isinstance(found, tuple) else found)

    return logprob


def _liger_scaled() -> Callable:
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction

    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        return -LigerFusedLinearScaledCrossEntropyFunction.apply(
            hidden, weight, targets.masked_fill(~mask, IGNORED), 1.0, IGNORED, 1, False
        )

    return logprob


def _cut_cross_entropy() -> Callable:
    from cut_cross_entropy import linear_cross_entropy

    def logprob(hidden: Tensor, weight: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        return -linear_cross_entropy(
            hidden, weight, targets.masked_fill(~mask, IGNORED), ignore_index=IGNORED, reduction="none"
        )

    return logprob


_EVERYWHERE = {OURS: _ours, NAIVE: _naive, TRL: _trl, TORCH: _torch}
_ON_CUDA = {
    OURS_WITHOUT_STASH: functools.partial(_ours, stash_bytes=0),
    LIGER: _liger_scaled,
    "Liger FLCE": _liger_triton,
    "cut-cross-entropy": _cut_cross_entropy,
}


def load_peers(device: str) -> tuple[dict[str, Callable], dict[str, str]]:
    """Those that can run here, and why the others cannot."""
    peers, absent = {}, {}
    for name, load in (_EVERYWHERE | _ON_CUDA if device == "cuda" else _EVERYWHERE).items():
        try:
            peers[name] = load()
        except ImportError as error:
            absent[name] = str(error)
    return peers, absent | ({} if device == "cuda" else dict.fromkeys([*_ON_CUDA][1:], "for CUDA only"))
