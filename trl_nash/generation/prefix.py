# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A prompt is read once for all its completions, and a token is written behind those before it."""

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from ..policies import repeated_cache
from . import ROOM


class RoomyLayer(DynamicLayer):
    """
    A layer of a cache that writes a token behind those before it. `DynamicLayer` copies all of these for every token,
    which is most of what a token costs where K completions have long prompts.

    Args:
        layer ([`~transformers.cache_utils.DynamicLayer`]): what it begins with.
    """

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        vars(self).update(vars(layer))
        self._buffers: tuple[torch.Tensor, torch.Tensor] | None = None  # `keys` and `values` are their beginnings

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        start, end = self.keys.size(-2), self.keys.size(-2) + key_states.size(-2)
        if not self._has_room(end):
            self._buffers = tuple(
                torch.cat([old, old.new_empty(*old.shape[:-2], end - start + ROOM, old.size(-1))], dim=-2)
                for old in (self.keys, self.values)
            )
        keys, values = self._buffers
        keys[..., start:end, :], values[..., start:end, :] = key_states, value_states
        self.keys, self.values = keys[..., :end, :], values[..., :end, :]
        return self.keys, self.values

    def _has_room(self, end: int) -> bool:
        # What has dealt out rows, or dropped some, has left the buffers behind.
        buffers = self._buffers
        return buffers is not None and buffers[0].data_ptr() == self.keys.data_ptr() and buffers[0].size(-2) >= end


def shared_prefix(
    model: torch.nn.Module, input_ids: torch.LongTensor, attention_mask: torch.LongTensor, count: int
) -> Cache | None:
    """
    A cache of all but the last token of some prompts, each of them read once, for `count` completions of each.

    It ends before the last token because that one's logits are what a completion begins with. So nothing has to be
    taken out of the cache again, which sliding windows and recurrent states could not undo.

    Args:
        model (`torch.nn.Module`): with PEFT's wrapper or without.
        input_ids (`torch.LongTensor` of shape `(B, T)`): prompts of T >= 2 tokens, padded on the left.
        attention_mask (`torch.LongTensor` of shape `(B, T)`): 0 at padding.
        count (`int`): completions of a prompt.

    Returns:
        [`~transformers.Cache`], *optional*: of [`repeated_cache`]; also `None` where a prompt is a single token, so
        that its row is padding alone, which some models take for a token.
    """
    ids, mask = input_ids[:, :-1], attention_mask[:, :-1]
    _, cache = repeated_cache(model, ids, mask, count)  # in any case, so that all processes make the same calls
    if cache is None or not mask.any(1).all():
        return None
    cache.layers = [RoomyLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
