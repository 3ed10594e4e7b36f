# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the K completions of a prompt have in common is computed once: one row is read, its cache is repeated."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import Cache

from .peft_model import is_peft_model


def cache_name(model: torch.nn.Module | Callable) -> str | None:
    """The argument in which a model's forward takes its cache, which is also where its output has it."""
    accepted = _arguments(model)
    # The second is its name before transformers 5.24. State-space models have had others.
    return next((name for name in ("cache", "past_key_values") if name in accepted), None)


def inputs_behind(
    model: torch.nn.Module | Callable,
    input_ids: torch.LongTensor,
    attention_mask: torch.LongTensor,
    cache: Cache | None,
) -> dict[str, Any]:
    """
    What a model is called with to read tokens behind a cache, and to hand out the cache of all of them.

    Args:
        model (`torch.nn.Module` or `Callable`): with PEFT's wrapper or without, or what is called as a model is.
        input_ids (`torch.LongTensor` of shape `(R, N)`): tokens that are not in the cache.
        attention_mask (`torch.LongTensor` of shape `(R, T)`): of all T tokens; the cache's are padded on the left.
        cache ([`~transformers.Cache`], *optional*): of the first T - N tokens.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": True}
    if accepts(model, "position_ids"):
        inputs["position_ids"] = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.size(1) :]
    return inputs if cache is None else inputs | {cache_name(model): cache}


def forward_cached(
    model: torch.nn.Module | Callable,
    input_ids: torch.LongTensor,
    attention_mask: torch.LongTensor,
    cache: Cache | None,
) -> tuple[torch.Tensor, Cache | None]:
    """
    One forward behind a cache, with the arguments of [`inputs_behind`].

    Returns:
        The logits behind the last token, `(R, V)`, and the cache of all tokens, if the model hands one out.
    """
    inputs = inputs_behind(model, input_ids, attention_mask, cache)
    output = model(**inputs, **({"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}))
    return output.logits[:, -1], output.get(cache_name(model))


def repeated_cache(
    model: torch.nn.Module | Callable, input_ids: torch.LongTensor, attention_mask: torch.LongTensor, count: int
) -> tuple[torch.Tensor | None, Cache | None]:
    """
    As [`forward_cached`], of some rows of tokens, each of them read once, whose cache is then repeated.

    Args:
        model (`torch.nn.Module` or `Callable`): as of [`inputs_behind`].
        input_ids (`torch.LongTensor` of shape `(B, T)`): rows of tokens, padded on the left.
        attention_mask (`torch.LongTensor` of shape `(B, T)`): 0 at padding.
        count (`int`): how often a row is repeated.

    Returns:
        The logits behind the last token of each row, `(B, V)`, and the cache with row `b * count + k` for repetition k
        of row b, or `None` where the model's cache cannot be repeated or is not a matter of the tokens alone
        (state-space models without attention, whose cache does not know its length; PEFT's virtual tokens).
    """
    if cache_name(model) is None:
        return None, None
    logits, cache = forward_cached(model, input_ids, attention_mask, None)
    if not isinstance(cache, Cache) or _length(cache) != input_ids.size(1):
        return logits, None
    # As beam search deals rows out: `batch_repeat_interleave` passes over recurrent states and quantised keys.
    cache.reorder_cache(torch.arange(input_ids.size(0), device=input_ids.device).repeat_interleave(count))
    return logits, cache


def checkpointed_layers(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The layers that compute their activations again in the backward, and so know of no cache in training mode."""
    return (module for module in model.modules() if getattr(module, "gradient_checkpointing", False))


@contextmanager
def without_checkpointing(model: torch.nn.Module):
    """Within it no layer recomputes activations, which would cost it its cache. Afterwards each does as it did."""
    layers = list(checkpointed_layers(model))
    for module in layers:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in layers:
            module.gradient_checkpointing = True


def _length(cache: Cache) -> int | None:
    try:
        return int(cache.get_seq_length())
    except ValueError:  # of a cache of recurrent states alone
        return None


def accepts(model: torch.nn.Module | Callable, name: str) -> bool:
    """Whether a model's forward takes an argument."""
    accepted = _arguments(model)
    return name in accepted or "kwargs" in accepted


def _arguments(model: torch.nn.Module | Callable):
    if not isinstance(model, torch.nn.Module):
        return inspect.signature(model).parameters
    plain = model.get_base_model() if is_peft_model(model) else model
    return inspect.signature(plain.forward).parameters
