# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling from the geometric mixture of two policies, with a KV cache for each."""

from collections.abc import Callable

import torch
from transformers import LogitsProcessor

from ..policies import forward_cached
from .prefix import shared_prefix


class GeometricMixture(LogitsProcessor):
    """
    Turns a policy's next-token logits into those of `policy^{1-coef} · reference^coef`, for one call of `generate`.

    The logits are mixed before the temperature is applied, which is the mixture of the two tempered policies. One
    token a row goes through the reference at every step, behind the reference's own cache, which reads a prompt once
    for all its rows.

    Args:
        reference (`Callable`): context manager in which a model is the reference policy.
        coef (`float`): weight of the reference, in [0, 1].
        attention_mask (`torch.Tensor` of shape `(R, T)`): of the prompts, padded on the left.
        count (`int`, *optional*, defaults to 1): rows of each prompt, one behind the other.
    """

    def __init__(self, reference: Callable, coef: float, attention_mask: torch.Tensor, count: int = 1):
        self.reference = reference
        self.coef = coef
        self.attention_mask = attention_mask
        self.count = count
        self.cache = None
        self.cached = 0  # tokens a row

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        mask, length = self.attention_mask, input_ids.size(1)
        self.attention_mask = torch.cat([mask, mask.new_ones(len(mask), length - mask.size(1))], dim=-1)
        with self.reference() as model:
            if self.cached == 0 and self.count > 1:
                prompts, own = input_ids[:: self.count], self.attention_mask[:: self.count]
                self.cache = shared_prefix(model, prompts, own, self.count)
                self.cached = 0 if self.cache is None else length - 1
            fresh = input_ids[:, self.cached :]
            logits, self.cache = forward_cached(model, fresh, self.attention_mask, self.cache)
        self.cached = 0 if self.cache is None else length  # a model without a cache reads all of them again
        sides = ((1 - self.coef, scores), (self.coef, logits.to(scores.dtype)))
        mixed = sum(weight * side for weight, side in sides if weight)  # 0 * -inf would be nan
        # What an earlier processor forbids, as `min_new_tokens` does an early end, is forbidden to the reference too.
        return mixed.masked_fill(scores.isneginf(), -torch.inf)
