# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The models and trainers that `benchmarks.generation` samples from."""

import argparse
import math

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_nash import NashTrainer, PairConfig, RandomJudge


VOCABULARY, EOS = 8192, 1  # of words; a model may have more tokens
MEAN_TOKENS = 80
# Hidden, inner, layers, heads, heads of keys, tokens, dtype.
SHAPES = {
    "qwen-0.5b": (896, 4864, 24, 14, 2, 151_936, torch.bfloat16),
    "smollm2-135m": (576, 1536, 30, 9, 3, 49_152, torch.bfloat16),
    "llama-34m": (512, 1408, 8, 8, 8, VOCABULARY, torch.float32),
    "llama-7m": (256, 704, 6, 4, 4, VOCABULARY, torch.float32),
    "tiny": (64, 128, 1, 1, 1, VOCABULARY, torch.float32),
}


def build_model(shape: str) -> LlamaForCausalLM:
    """A Llama of such a shape, with random weights."""
    hidden, inner, layers, heads, key_heads, tokens, dtype = SHAPES[shape]
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokens,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).to(dtype)


def end_at_random(model: LlamaForCausalLM, mean_tokens: float = MEAN_TOKENS) -> None:
    """Makes a model end a completion with probability 1 / `mean_tokens` at every token; all words are alike."""
    tokens = model.config.vocab_size
    model.lm_head.weight = torch.nn.Parameter(1e-3 * model.lm_head.weight.detach())
    model.config.tie_word_embeddings = False
    bias = torch.zeros(tokens, dtype=model.dtype)
    bias[EOS] = math.log((tokens - 1) / (mean_tokens - 1))
    model.lm_head.bias = torch.nn.Parameter(bias)


def build_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {"<pad>": 0, "<eos>": EOS, "<unk>": 2} | {f"w{index}": index for index in range(3, VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def build_trainer(shape: str, prompts: list[str], folder: str, options: argparse.Namespace, **engine) -> NashTrainer:
    """A trainer that is ready to sample two completions of a prompt, of 80 tokens in the mean."""
    model = build_model(shape)
    end_at_random(model)
    new_tokens = options.new_tokens["continuous"]
    trainer = NashTrainer(
        model=model,
        args=PairConfig(
            output_dir=folder,
            use_cpu=options.device == "cpu",
            bf16=model.dtype == torch.bfloat16,
            report_to="none",
            num_generations=2,
            max_new_tokens=new_tokens,
            max_length=new_tokens + max(len(prompt.split()) for prompt in prompts),
            **engine,
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=build_tokenizer(),
        judge=RandomJudge(),
    )
    trainer.model.train()
    return trainer
