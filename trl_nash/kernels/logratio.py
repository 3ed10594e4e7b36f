# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Log-ratios of a policy and its anchors: of tokens, of sequences, of pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .logprob import LoRA, linear_logprob


REDUCTIONS = ("none", "sequence", "pair")


@dataclass(frozen=True)
class Head:
    """Hidden states and what makes logits of them; see [`linear_logprob`]."""

    hidden: Tensor  # (..., D)
    weight: Tensor  # (V, D)
    bias: Tensor | None = None  # (V,)
    logit_scale: float = 1.0
    softcap: float | None = None
    lora: LoRA | None = None


@dataclass(frozen=True)
class LogRatioOutput:
    """What [`linear_logratio`] returns."""

    logratios: tuple[Tensor, ...]  # one for each anchor, reduced
    log_probs: Tensor  # of the policy, in the shape of `targets`, with gradient
    reference_logps: tuple[Tensor, ...]  # of each anchor, in the shape of `targets`


def linear_logratio(
    policy: Head,
    targets: Tensor,
    *,
    reference_logps: Tensor | Sequence[Tensor] | None = None,
    references: Sequence[Head] = (),
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = "none",
    signs: Tensor | Sequence[float] | None = None,
    **options: Any,
) -> LogRatioOutput:
    r"""
    `log π(y) - log μ(y)` of a policy π and each of its anchors μ, with a gradient through the policy only.

    Args:
        policy ([`Head`]):
            The policy, live.
        targets (`torch.Tensor` of shape `(..., T)`):
            int64 token ids.
        reference_logps (`torch.Tensor` of the shape of `targets`, or several, *optional*):
            Log-probs of anchors that were scored before, which is what trainers have.
        references (`Sequence[Head]`, *optional*):
            Anchors that are scored here, without gradient. They come behind those of `reference_logps`.
        temperature, mask:
            As in [`linear_logprob`], for policy and `references` alike.
        reduction (`str`, *optional*, defaults to `"none"`):
            `"none"` leaves the shape of `targets`; `"sequence"` sums over the last dimension, `(...)`; `"pair"` also
            sums the sequences of a pair with `signs` over the dimension before it.
        signs (`torch.Tensor` or `Sequence[float]`, *optional*, defaults to `(1, -1)`):
            For `"pair"`: one for each sequence in the last dimension but one of `targets`.
        options:
            Others of [`linear_logprob`]: `head_grad`, `stash_bytes`, `workspace_bytes`, `backend`.

    Returns:
        [`LogRatioOutput`]

    Raises:
        `ValueError`: for anchors of another shape, without any anchor, and as [`linear_logprob`].

    Example:

    ```python
    >>> import torch
    >>> from trl_nash.kernels import Head, linear_logratio

    >>> policy = Head(torch.randn(3, 2, 7, 16), torch.randn(100, 16))  # 3 pairs of 7 tokens
    >>> anchor = Head(torch.randn(3, 2, 7, 16), policy.weight)
    >>> targets = torch.randint(100, (3, 2, 7))
    >>> linear_logratio(policy, targets, references=[anchor], reduction="pair").logratios[0].shape
    torch.Size([3])
    ```
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"`reduction` is one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}.")
    if signs is not None and reduction != "pair":
        raise ValueError(
            f'`signs` are those of a pair: leave them out, or set `reduction="pair"` (it is {reduction!r}).'
        )
    if reference_logps is None:
        reference_logps = ()
    anchors = [reference_logps] if isinstance(reference_logps, Tensor) else reference_logps
    anchors = [anchor.detach() for anchor in anchors]
    if not anchors and not references:
        raise ValueError("A ratio has two sides: pass `reference_logps` or `references`.")
    for anchor in anchors:
        if anchor.shape != targets.shape:
            raise ValueError(
                f"`reference_logps` has shape {tuple(anchor.shape)}; one number for each target is "
                f"{tuple(targets.shape)}."
            )

    def score(head: Head) -> Tensor:
        return linear_logprob(
            head.hidden,
            head.weight,
            targets,
            bias=head.bias,
            logit_scale=head.logit_scale,
            softcap=head.softcap,
            lora=head.lora,
            temperature=temperature,
            mask=mask,
            **options,
        )

    log_probs = score(policy)
    with torch.no_grad():
        anchors += [score(reference) for reference in references]
    if mask is not None:
        anchors = [anchor.masked_fill(~mask, 0.0) for anchor in anchors]
    ratios = [log_probs - anchor for anchor in anchors]
    if reduction != "none":
        ratios = [ratio.sum(-1) for ratio in ratios]
    if reduction == "pair":
        sides = torch.as_tensor((1.0, -1.0) if signs is None else signs, dtype=log_probs.dtype).to(log_probs.device)
        if targets.dim() < 2 or sides.shape != targets.shape[-2:-1]:
            raise ValueError(
                f"`signs` has shape {tuple(sides.shape)} for `targets` of shape {tuple(targets.shape)}: there is one "
                "for each sequence in the last dimension but one."
            )
        ratios = [(ratio * sides).sum(-1) for ratio in ratios]
    return LogRatioOutput(tuple(ratios), log_probs, tuple(anchors))
