# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the K completions of a prompt have in common is computed once: one row is read, its cache is repeated."""

import inspect

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from ..policies import is_peft_model
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


def cache_name(model: torch.nn.Module) -> str | None:
    """The argument in which a model's forward takes its cache, which is also where its output has it."""
    accepted = _arguments(model)
    # The second is its name before transformers 5.24. State-space models have had others.
    return next((name for name in ("cache", "past_key_values") if name in accepted), None)


def forward_cached(
    model: torch.nn.Module, input_ids: torch.LongTensor, attention_mask: torch.LongTensor, cache: Cache | None
) -> tuple[torch.Tensor, Cache | None]:
    """
    One forward behind a cache.

    Args:
        model (`torch.nn.Module`): with PEFT's wrapper or without.
        input_ids (`torch.LongTensor` of shape `(R, N)`): tokens that are not in the cache.
        attention_mask (`torch.LongTensor` of shape `(R, T)`): of all T tokens, padded on the left.
        cache ([`~transformers.Cache`], *optional*): of the first T - N tokens.

    Returns:
        The logits behind the last token, `(R, V)`, and the cache of all tokens, if the model hands one out.
    """
    accepted, name = _arguments(model), cache_name(model)
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.size(1) :]
    optional = {"position_ids": positions, "logits_to_keep": 1}
    output = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        use_cache=True,
        **({} if cache is None else {name: cache}),
        **{key: value for key, value in optional.items() if key in accepted or "kwargs" in accepted},
    )
    return output.logits[:, -1], output.get(name)


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
        [`~transformers.Cache`], *optional*: with row `b * count + k` for completion k of prompt b, or `None` where the
        model's cache cannot be repeated or is not a matter of the prompt's tokens alone (state-space models without
        attention, whose cache does not know its length; PEFT's virtual tokens).
    """
    if cache_name(model) is None:
        return None
    _, cache = forward_cached(model, input_ids[:, :-1], attention_mask[:, :-1], None)
    if not isinstance(cache, Cache) or _length(cache) != input_ids.size(1) - 1:
        return None
    # As beam search deals rows out: `batch_repeat_interleave` passes over recurrent states and quantised keys.
    cache.reorder_cache(torch.arange(input_ids.size(0), device=input_ids.device).repeat_interleave(count))
    cache.layers = [RoomyLayer(layer) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _length(cache: Cache) -> int | None:
    try:
        return int(cache.get_seq_length())
    except ValueError:  # of a cache of recurrent states alone
        return None


def _arguments(model: torch.nn.Module):
    plain = model.get_base_model() if is_peft_model(model) else model
    return inspect.signature(plain.forward).parameters
