# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling from the geometric mixture of two policies, with a KV cache for each."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from accelerate.utils import is_peft_model
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor, LogitsProcessorList

from ..compat import unwrap_model_for_generation
from ..rounds.batch import until_eos


if TYPE_CHECKING:
    from ..trainers.base import NashTrainer


class GeometricMixture(LogitsProcessor):
    """
    Turns a policy's next-token logits into those of `policy^{1-coef} · reference^coef`.

    The logits are mixed before the temperature is applied, which is the mixture of the two tempered policies. One
    token a row goes through the reference at every step, behind the reference's own cache.

    Args:
        reference (`Callable`): context manager in which a model is the reference policy.
        attention_mask (`torch.Tensor` of shape `(R, T)`): of the prompts, padded on the left.
        coef (`float`): weight of the reference, in [0, 1].
    """

    def __init__(self, reference: Callable, attention_mask: torch.Tensor, coef: float):
        self.reference = reference
        self.attention_mask = attention_mask
        self.coef = coef
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
        return (1 - self.coef) * scores + self.coef * reference_scores


@torch.no_grad()
def generate_mixture(
    trainer: "NashTrainer", prompt_ids: list[list[int]], count: int, reference: str, coef: float
) -> list[list[list[int]]]:
    """
    Samples `count` completions for each of B prompts from `policy^{1-coef} · reference^coef`.

    Args:
        trainer ([`NashTrainer`]): its live policy, frozen policies and generation settings are used.
        prompt_ids (`list[list[int]]`): the prompts' tokens.
        count (`int`): completions per prompt.
        reference (`str`): name of the frozen policy that is mixed in.
        coef (`float`): its weight.

    Returns:
        For each prompt its completions' token lists.
    """
    rows = [torch.tensor(ids[::-1]) for ids in prompt_ids for _ in range(count)]
    input_ids = pad_sequence(rows, batch_first=True, padding_value=trainer._tokenizer.pad_token_id).flip(-1)
    lengths = torch.tensor([len(row) for row in rows])
    width = input_ids.size(1)
    attention_mask = (torch.arange(width) >= width - lengths[:, None]).long()
    input_ids, attention_mask = (t.to(trainer.accelerator.device) for t in (input_ids, attention_mask))
    with (
        trainer.policies.beside(reference) as policy,
        unwrap_model_for_generation(
            trainer.model_wrapped,
            trainer.accelerator,
            gather_deepspeed3_params=trainer.args.ds3_gather_for_generation,
            generation_kwargs=trainer.generation_kwargs,
        ) as model,
    ):
        output = model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=trainer.generation_config,
            logits_processor=LogitsProcessorList([GeometricMixture(policy, attention_mask, coef)]),
        )
    completions = [until_eos(row, set(trainer.eos_token_ids)) for row in output[:, width:].tolist()]
    return [completions[b * count : (b + 1) * count] for b in range(len(prompt_ids))]
