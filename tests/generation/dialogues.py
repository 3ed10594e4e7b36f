# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Dialogues without a model: what the policy says is written down, and tokenizers that read any text."""

from types import SimpleNamespace

from tiny import build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trl_nash.data.messages import Dialogue
from trl_nash.generation.dialogue.play import TurnByTurn
from trl_nash.generation.prompts import PromptRenderer


def byte_tokenizer(template: str, specials=("<|im_start|>", "<|im_end|>", "<|endoftext|>")) -> PreTrainedTokenizerFast:
    """Every byte is a token, and so is every special token of a template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=template,
    )
    wrapped.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    return wrapped


def options(**changed) -> SimpleNamespace:
    """What a config says of dialogues."""
    default = {"max_turns": None, "max_new_tokens": 64, "max_length": 4000, "strip_thinking": False}
    return SimpleNamespace(**default | changed)


def source_of(tokenizer=None, *, user=None, toolbox=None, said=None, **changed) -> TurnByTurn:
    """Plays dialogues with a tokenizer, and keeps in `said` what it says once."""
    tokenizer = tokenizer or build_tokenizer()
    args = options(**changed)
    render = PromptRenderer(tokenizer, args.max_length - args.max_new_tokens)
    say = (lambda message, name: None) if said is None else (lambda message, name: said.setdefault(name, message))
    return TurnByTurn(args, render, [tokenizer.eos_token_id], user, toolbox, say)


class Script:
    """A policy that answers each dialogue with the next of its lines; `calls` keeps the contexts that it was given."""

    def __init__(self, tokenizer, lines, ends=True):
        self.tokenizer, self.lines, self.ends = tokenizer, iter(lines), ends
        self.calls = []

    def __call__(self, contexts, count):
        self.calls.append([(list(context), count) for context in contexts])
        drawn = [[self._line() for _ in range(count)] for _ in contexts]
        return drawn, [[[-0.5] * len(ids) for ids in own] for own in drawn]

    def _line(self):
        ids = self.tokenizer(next(self.lines), add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id] if self.ends else ids


def row(prompt, **columns) -> Dialogue:
    """A row's prompt as a trainer hands it over."""
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return Dialogue(messages, None, {"prompt": prompt, **columns})
