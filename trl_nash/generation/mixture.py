# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling from the geometric mixture of two policies, with a KV cache for each."""

import inspect
from collections.abc import Callable

import torch
from accelerate.utils import is_peft_model
from transformers import LogitsProcessor


class GeometricMixture(LogitsProcessor):
    """
    Turns a policy's next-token logits into those of `policy^{1-coef} · reference^coef`, for one call of `generate`.

    The logits are mixed before the temperature is applied, which is the mixture of the two tempered policies. One
    token a row goes through the reference at every step, behind the reference's own cache.

    Args:
        reference (`Callable`): context manager in which a model is the reference policy.
        coef (`float`): weight of the reference, in [0, 1].
        attention_mask (`torch.Tensor` of shape `(R, T)`): of the prompts, padded on the left.
    """

    def __init__(self, reference: Callable, coef: float, attention_mask: torch.Tensor):
        self.reference = reference
        self.coef = coef
        self.attention_mask = attention_mask
        self.cache = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        fresh = input_ids
        if self.cache is not None:
            fresh = input_ids[:, -1:]
            self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(fresh)], dim=-1)
        positions = (self.attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -fresh.size(1) :]
        with self.reference() as model:
            plain = model.get_base_model() if is_peft_model(model) else model
            accepted = inspect.signature(plain.forward).parameters
            cache = "cache" if "cache" in accepted else "past_key_values"  # its name before transformers 5.24
            optional = {"position_ids": positions, "logits_to_keep": 1}
            output = model(
                input_ids=fresh,
                attention_mask=self.attention_mask,
                use_cache=True,
                **{cache: self.cache},
                **{name: value for name, value in optional.items() if name in accepted or "kwargs" in accepted},
            )
        self.cache = output[cache]
        reference_scores = output.logits[:, -1].to(scores.dtype)
        sides = ((1 - self.coef, scores), (self.coef, reference_scores))
        mixed = sum(weight * side for weight, side in sides if weight)  # 0 * -inf would be nan
        # What an earlier processor forbids, as `min_new_tokens` does an early end, is forbidden to the reference too.
        return mixed.masked_fill(scores.isneginf(), -torch.inf)
