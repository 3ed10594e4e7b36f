# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tiny models and tokenizers of the shapes that published judges have, built from configs."""

import torch
from tiny import build_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


# What Meta-Llama-3-8B-Instruct writes.
LLAMA3_TEMPLATE = (
    "{% for m in messages %}{{ bos_token if loop.first else '' }}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA3_SPECIALS = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
WORDS = [
    *"A B a b c d e f g h i j one two three four five red green blue".split(),
    *"user assistant turn CONTEXT RESPONSE Output Instruction Which is better User Assistant system".split(),
    *"<>|[](){}#:.,?*/_“”-!\"'1234567890",
    *" \n",
]


def build_llama3_tokenizer(chat_template: str | None = LLAMA3_TEMPLATE) -> PreTrainedTokenizerFast:
    """
    Llama 3's special tokens, chat template and habit of beginning every text with one of them. Words, punctuation
    marks and blanks are a token each, so that a text can be read off its tokens.
    """
    vocab = {word: i for i, word in enumerate(["<unk>", *LLAMA3_SPECIALS, *dict.fromkeys(WORDS)])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s|[A-Za-z]+|[^A-Za-z\s]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", vocab["<|begin_of_text|>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        additional_special_tokens=LLAMA3_SPECIALS[2:],
        chat_template=chat_template,
    )


def build_judge_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0, **config) -> LlamaForCausalLM:
    """A Llama whose attention is not nearly uniform, so that what it reads far back matters."""
    model = build_model(tokenizer, seed, **{"max_position_embeddings": 2048, **config})
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight.mul_(32)
            elif "proj" in name or "embed" in name:
                weight.mul_(8)
        model.get_output_embeddings().weight.div_(5)
    return model
