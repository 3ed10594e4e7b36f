# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tiny models and tokenizers, built from configs: nothing is downloaded."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
WORDS = "a b c d e f g h user assistant system yes no one two three".split()


def build_tokenizer(words: list[str] = WORDS, chat: bool = True, **special) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; every word is a token, so that tests can spell token sequences out."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<|im_start|>"]
    vocab = {word: index for index, word in enumerate(specials + list(words))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE if chat else None,
        **special,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, **config) -> LlamaForCausalLM:
    """A 2-layer, 16-wide Llama with a sharpened head, so that policies differ visibly."""
    torch.manual_seed(seed)
    options = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    } | config
    model = LlamaForCausalLM(LlamaConfig(**options))
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20)
    return model
