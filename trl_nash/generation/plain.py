# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""transformers' `generate`: all completions of some prompts in one call, each prompt read once."""

from collections.abc import Callable
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from ..policies import cache_name, is_peft_model
from ..rounds.batch import chunks
from .prefix import shared_prefix


@torch.no_grad()
def generate_plainly(
    policy: torch.nn.Module,
    config: GenerationConfig,
    device: torch.device,
    prompt_ids: list[list[int]],
    count: int,
    mixing: Callable[[torch.Tensor, int], LogitsProcessor] | None = None,
    tell: Callable[[int], None] = lambda token: None,
) -> list[list[list[int]]]:
    """
    `count` completions of each of B prompts.

    Args:
        policy (`torch.nn.Module`): unwrapped, without gradient checkpointing.
        config ([`~transformers.GenerationConfig`]): how tokens are drawn. The policy's own has no part in it.
        device (`torch.device`): of the weights.
        prompt_ids (`list[list[int]]`): B prompts.
        count (`int`): completions of a prompt.
        mixing (`Callable`, *optional*):
            Makes of the attention mask of shape `(B * count, T)` and of `count` what changes the policy's logits.
        tell (`Callable[[int], None]`, *optional*): is told each token that is drawn, counted from 1.

    Returns:
        `list[list[list[int]]]`: B x count completions, with padding behind those that have ended.
    """
    input_ids, attention_mask = left_padded(prompt_ids, config.pad_token_id, width=2 if count > 1 else 1)
    input_ids, attention_mask = input_ids.to(device), attention_mask.to(device)
    rows, mask = input_ids.repeat_interleave(count, dim=0), attention_mask.repeat_interleave(count, dim=0)
    processors = [Told(tell)] + ([mixing(mask, count)] if mixing else [])
    with only(config, policy):
        cache = None
        if count > 1 and shares_prefix(config):
            with without_autocast(policy) if is_peft_model(policy) else nullcontext():
                cache = shared_prefix(policy, input_ids, attention_mask, count)
        output = policy.generate(
            input_ids=rows,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList(processors),
            **({} if cache is None else {cache_name(policy): cache}),
        )
    completions = output[:, rows.size(1) :].tolist()
    return list(chunks(completions, count))


class Told(LogitsProcessor):
    """Counts the tokens of a call of `generate`, and leaves the logits alone."""

    def __init__(self, tell: Callable[[int], None]):
        self._tell = tell
        self._count = 0

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._count += 1
        self._tell(self._count)
        return scores


def shares_prefix(config: GenerationConfig) -> bool:
    """Whether `generate` takes a cache that is there already: another one, none, or a prefill in parts excludes it."""
    return bool(config.use_cache) and config.cache_implementation is None and config.prefill_chunk_size is None


def left_padded(rows: list[list[int]], padding: int, width: int = 1) -> tuple[torch.LongTensor, torch.LongTensor]:
    """Token ids and attention mask, both of shape `(R, T)`, of rows that end together; T is `width` or more."""
    reversed_rows = [torch.tensor(row[::-1]) for row in rows]
    input_ids = pad_sequence(reversed_rows, batch_first=True, padding_value=padding).flip(-1)
    if input_ids.size(1) < width:
        input_ids = torch.nn.functional.pad(input_ids, (width - input_ids.size(1), 0), value=padding)
    width, lengths = input_ids.size(1), torch.tensor([len(row) for row in rows])
    return input_ids, (torch.arange(width) >= width - lengths[:, None]).long()


@contextmanager
def only(config: GenerationConfig, model: torch.nn.Module):
    """
    Within it a model's own generation config is `config`, so that `generate` has nothing else to fill up with.

    A field that is `None` in what `generate` is given is taken from the model, and for many of them (forbidden words,
    another cache, a limit of time) `None` is the only value that does nothing.
    """
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    before = [module.generation_config for module in owners]
    for module in owners:
        module.generation_config = config
    try:
        yield
    finally:
        for module, own in zip(owners, before, strict=True):
            module.generation_config = own


@contextmanager
def without_autocast(model: torch.nn.Module):
    """
    Within it a model computes in the dtype of its weights, as PEFT's `generate`, which calls the model beneath its
    wrapper, and as continuous batching, whose cache accelerate's autocast would take for a tensor to convert.
    """
    wrapped, original = vars(model).get("forward"), vars(model).get("_original_forward")
    if original is not None:
        model.forward = original
    try:
        yield
    finally:
        if original is not None:
            model.forward = wrapped
