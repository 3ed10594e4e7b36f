# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Whether completions are sampled from softmax(logits / T), measured on what `generate` would do to logits.

The options are those of the *resolved* generation config: the trainer's own, filled up with transformers' defaults.
Each is tried alone, so that no list of names says which of them matter.
"""

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from accelerate.logging import get_logger
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from ...generation.plain import only


if TYPE_CHECKING:
    from ..config import NashConfig

logger = get_logger("trl_nash")  # speaks on the main process only

# Options that say whose a completion is or where it ends: (name, the value at which it does nothing, why).
NOT_HERE = [
    ("num_return_sequences", 1, "set `num_generations`"),
    ("stop_strings", None, "a completion ends with an end-of-sequence token (`eos_token_id`)"),
    ("max_time", None, "where a completion ends cannot depend on the clock"),
    ("return_dict_in_generate", False, "it is tokens that are sampled"),
]
_PROMPT = 64  # tokens, all the same: whoever forbids repetition finds one


def check_sampler(model: PreTrainedModel, given: GenerationConfig, args: "NashConfig") -> list[int]:
    """
    Warns once where completions come from another policy than the one in the loss, and names what makes it so.

    Args:
        model ([`~transformers.PreTrainedModel`]): the policy, without PEFT's wrapper.
        given ([`~transformers.GenerationConfig`]): what the trainer has `generate` go by.
        args ([`NashConfig`]): of the trainer.

    Returns:
        `list[int]`: the tokens that end a completion.

    Raises:
        `ValueError`: if no token ends a completion, or `generation_kwargs` does not sample.
    """
    kwargs = args.generation_kwargs or {}
    config, biased = copy.deepcopy(given), []
    if args.use_vllm:
        # What transformers does not know cannot be tried.
        biased += [f"{name}={value}" for name, value in config.update(**kwargs).items() if name != "stop_token_ids"]
    elif not args.use_transformers_continuous_batching:
        config = _resolved(model, given)
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if None in ends:
        raise ValueError("No token ends a completion: set `processing_class.eos_token`.")
    biased += [
        f"{name}={value}"[:80]
        for name, value in config.to_dict().items()
        if value is not None and _is_biased(model, config, name, args)
    ]
    if biased:
        logger.warning(
            "Sampling with %s: the pairs come from another policy than the one in the loss, so each step is taken "
            "against *that* policy and is biased. Turn them off unless you want this.",
            ", ".join(biased),
        )
    return [*ends, *kwargs.get("stop_token_ids", [])]


def _resolved(model: PreTrainedModel, given: GenerationConfig) -> GenerationConfig:
    """The settings that `model.generate` goes by."""
    with only(given, model):
        config, _ = model._prepare_generation_config(given)
    if (mode := config.get_generation_mode()) != "sample":
        raise ValueError(
            f"`generation_kwargs` asks for {mode.value}, but pairs are sampled: remove from it what does so."
        )
    return config


def _is_biased(model: PreTrainedModel, config: GenerationConfig, name: str, args: "NashConfig") -> bool:
    """Whether one of the settings, alone, samples from anything but softmax(logits / T)."""
    vocabulary = model.config.get_text_config().vocab_size
    logits = torch.linspace(-20.0, 20.0, vocabulary)[None]
    expected = (logits / (args.temperature if name == "temperature" else 1.0)).log_softmax(-1)
    alone = GenerationConfig()
    alone.do_sample = True
    setattr(alone, name, getattr(config, name))
    alone._eos_token_tensor = torch.tensor(config.eos_token_id).flatten()
    for prompt, tokens in _occasions(getattr(config, name), vocabulary - 1, args.max_new_tokens):
        alone.max_length = prompt + args.max_new_tokens
        try:
            processors = model._get_logits_processor(
                alone, input_ids_seq_length=prompt, encoder_input_ids=tokens[:, :prompt], device="cpu"
            )
            found = processors(tokens, logits.clone()).log_softmax(-1)
        except Exception:  # what needs more than logits does something to them
            return True
        if not torch.allclose(found, expected, atol=1e-4):
            return True
    return False


def _occasions(value: Any, token: int, length: int) -> Iterator[tuple[int, Tensor]]:
    """Lengths of prompts, and tokens up to a position at which an option of this value may show."""
    yield 1, torch.full((1, 1), token)  # the first token of a completion
    yield _PROMPT, torch.full((1, _PROMPT + length - 1), token)  # the last one
    words = list(_tokens_in(value))
    for position in range(1, len(words)):  # in the middle of a word that is forbidden or favoured
        yield position, torch.tensor([words[:position]])


def _tokens_in(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        value = list(value.items())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _tokens_in(part)
    elif isinstance(value, int):
        yield value
