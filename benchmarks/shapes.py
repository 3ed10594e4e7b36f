# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Models that benchmarks make from their shape, with random weights, and a tokenizer for them."""

import copy

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)


_TOKENS = {"max_position_embeddings": 4096, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
SHAPES = {
    "tiny": LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        **_TOKENS,
    ),
    # 21 million weights, 16 million of them in embeddings and head.
    "small": LlamaConfig(
        vocab_size=32_000,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        **_TOKENS,
    ),
    "smollm2-135m": LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        **_TOKENS,
    ),
    "qwen2.5-0.5b": Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        **_TOKENS,
    ),
}


def build_model(shape: str, seed: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> PreTrainedModel:
    """As random as it is made, where it is to run: drawing half a billion weights on a CPU takes seconds."""
    config = copy.deepcopy(SHAPES[shape])  # a model writes into its own
    torch.manual_seed(seed)
    architecture = Qwen2ForCausalLM if isinstance(config, Qwen2Config) else LlamaForCausalLM
    with torch.device(device):
        return architecture(config).to(dtype)


def build_tokenizer(shape: str) -> PreTrainedTokenizerFast:
    """One token for each of as many made-up words as the shape has."""
    words = {f"w{index}": index for index in range(3, SHAPES[shape].vocab_size)}
    tokenizer = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2} | words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
