# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
COMAL on whole dialogues, offline and in seconds: a model of random weights guesses a colour, and a user says no.

    python examples/dialogues.py

The user is a function; `user="openai:MODEL@URL"` is a model on a server. The judge sees both dialogues as
messages: the one with fewer words until the colour falls wins. The win rate is against the model as it was.
"""

import sys
import tempfile

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_nash import COMALConfig, COMALTrainer


COLOURS = ["red", "green", "blue", "white"]
WORDS = ["<pad>", "<eos>", "<unk>", "user", "assistant", "guess", "no", *COLOURS]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def build() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A model whose words are tokens, and whose answers are one or a few of them."""
    words = Tokenizer(models.WordLevel({word: k for k, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "chat_template": TEMPLATE}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), pad_token_id=0, eos_token_id=1, **sizes)), tokenizer


def user(messages, colour):
    """Says no until the colour falls. What it needs beside the messages are columns of the data."""
    return None if colour in messages[-1]["content"].split() else "no"


def sooner(prompts, first, second, colour):
    """P(first ≻ second): fewer words until the colour falls are better; each side is a list of messages."""
    verdicts = []
    for word, *sides in zip(colour, first, second, strict=True):
        said = [[w for m in turns if m["role"] == "assistant" for w in m["content"].split()] for turns in sides]
        a, b = (len(words) if word in words else 99 for words in said)
        verdicts.append(0.5 + 0.45 * ((a < b) - (a > b)))
    return verdicts


sooner.symmetric = True

model, tokenizer = build()
prompts = [[{"role": "user", "content": "guess"}]] * 32
data = Dataset.from_dict({"prompt": prompts, "colour": COLOURS * (len(prompts) // len(COLOURS))})
args = COMALConfig(
    output_dir=tempfile.mkdtemp(),
    max_turns=4,  # of the policy; `max_new_tokens` is of a turn, `max_length` of the whole dialogue
    max_new_tokens=4,
    max_length=56,
    num_generations=4,
    step_size=2.0,
    beta=0.1,
    per_device_train_batch_size=8,
    max_steps=int(sys.argv[1]) if len(sys.argv) > 1 else 150,
    learning_rate=3e-3,
    lr_scheduler_type="constant",
    bf16=False,
    use_cpu=True,
    report_to="none",
    save_strategy="no",
    disable_tqdm=True,
    logging_steps=50,
)
trainer = COMALTrainer(model, args=args, train_dataset=data, eval_dataset=data, processing_class=tokenizer,
                       judge=sooner, user=user)  # fmt: skip
trainer.train()
found = trainer.evaluate()
for answer in trainer.reporter.answers:
    print(f"\nbefore: {answer.second!r}\nafter:  {answer.first!r}")
rate, error = (found[f"eval_policy/win_rate_reference{end}"] for end in ("", "_se"))
turns = found["eval_rollouts/turns"]
print(f"\nDialogues of {turns:.2f} turns; win rate against the start {rate:.2f} ± {1.96 * error:.2f}")
