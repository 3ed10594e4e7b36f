# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The demo's language model: a tokenizer and a small Llama made on the spot, and warmed up on text."""

import random
from collections.abc import Callable

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

from .data import Example


MAX_PROMPT_TOKENS = 64
MAX_NEW_TOKENS = 40
ON_TOPIC = 0.4  # share of the warm-up's answers that belong to their question

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(examples: list[Example], vocab_size: int = 2048) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer with a chat template on the examples' text."""
    special = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for e in examples for text in (e.prompt, *e.answers)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, hidden_size: int = 96, layers: int = 2) -> LlamaForCausalLM:
    """Builds a Llama of some 400,000 random weights for the tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def warm_up(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: list[Example],
    steps: int,
    batch_size: int = 32,
    learning_rate: float = 4e-3,
    on_step: Callable[[int, float], None] = lambda done, loss: None,
) -> None:
    """
    Trains the model on the next token of prompts and answers, so that its completions look like text and end.

    Args:
        model ([`~transformers.LlamaForCausalLM`]):
            Trained in place, on the CPU.
        tokenizer ([`~transformers.PreTrainedTokenizerFast`]):
            Renders prompt and answer with its chat template.
        examples (`list[Example]`):
            Each step draws `batch_size` of them, and one answer of each.
        steps (`int`):
            Optimizer steps.
        batch_size (`int`, *optional*, defaults to `32`):
            Sequences in a step.
        learning_rate (`float`, *optional*, defaults to `4e-3`):
            Its peak; it follows a cosine.
        on_step (`Callable[[int, float], None]`, *optional*):
            Called after each step, with how many are done and its loss.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    scheduler = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    model.train()
    for done in range(1, steps + 1):
        rows = [_draw(tokenizer, examples) for _ in range(batch_size)]
        batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        on_step(done, loss.item())
    model.eval()


def _draw(tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> list[int]:
    """A prompt and an answer as token ids. As in raw text, the answer tends to be long and may miss the question."""
    example = random.choice(examples)
    answered = example if random.random() < ON_TOPIC else random.choice(examples)
    answer = max(random.choices(answered.answers, k=2), key=len)
    turns = [{"role": "user", "content": example.prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # Long prompts are cut from the left, as in training.
    prompt_ids = tokenizer(text, add_special_tokens=False)["input_ids"][-MAX_PROMPT_TOKENS:]
    answer_ids = tokenizer(answer, add_special_tokens=False)["input_ids"][: MAX_NEW_TOKENS - 1]
    return prompt_ids + answer_ids + [tokenizer.eos_token_id]
