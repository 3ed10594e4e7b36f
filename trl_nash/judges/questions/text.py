# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Texts on their way into a judge's question: prompts become messages, long ones are cut from the left, and completions
cannot speak as anything but completions.
"""

import contextlib
import re
from collections.abc import Iterable
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ..base import Prompt, joined


Message = dict[str, Any]

PROBE = "trlnashprobe"  # a word that no chat template holds


def as_messages(prompt: Prompt) -> list[Message]:
    """A prompt as turns that begin with the user's: a string is one, a system message is put in front of the first."""
    prompt = joined(prompt)
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    if len(prompt) > 1 and prompt[0]["role"] == "system":
        content = f"{prompt[0]['content']}\n\n{prompt[1]['content']}"
        return [{"role": prompt[1]["role"], "content": content}, *prompt[2:]]
    return list(prompt)


def cut_left(messages: list[Message], count: int, tokenizer: PreTrainedTokenizerBase) -> list[Message] | None:
    """`messages` without their first `count` tokens or a little more, `None` if nothing is left to cut."""
    first, *rest = messages
    ids = tokenizer(first["content"], add_special_tokens=False)["input_ids"]
    if ids and (len(ids) > count or not rest):
        text = tokenizer.decode(ids[count:]).lstrip("\ufffd")  # half a character, which would be longer as tokens
        # Not every tokenizer decodes what it encodes, and a text that did not become shorter would be cut for ever.
        if len(text) >= len(first["content"]):
            text = first["content"][max(len(first["content"]) * count // len(ids), 1) :]
        return [{**first, "content": text}, *rest]
    return rest[1:] or None  # a turn goes with the answer to it, so that the user still begins


class Neutraliser:
    """
    Takes the power from texts that a judge reads as part of its question: the tokenizer's special tokens and what the
    chat template writes around a turn are broken by a space (`<|eot_id|>` becomes `< |eot_id|>`), a question's
    delimiters lose their punctuation (`[RESPONSE B]` becomes `RESPONSE B`), whatever their case and spaces.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The judge's. Its chat template is used if it has one.
        delimiters (`Iterable[str]`, *optional*):
            What separates the parts of the question: words with punctuation.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, delimiters: Iterable[str] = ()):
        markers = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        markers.update(tokenizer.all_special_tokens)
        if tokenizer.chat_template is not None:
            turn = ""
            with contextlib.suppress(TemplateError):  # some templates of reward models render whole dialogues only
                turn = tokenizer.apply_chat_template(
                    [{"role": "user", "content": PROBE}], tokenize=False, add_generation_prompt=True
                )
            markers.update(token.content for token in tokenizer.added_tokens_decoder.values() if token.content in turn)
            markers.update(line.strip() for line in turn.partition(PROBE)[2].splitlines())
        # Blanks, words and single characters are no markers.
        markers = {marker.strip() for marker in markers}
        markers = sorted((m for m in markers if len(m) > 1 and re.search(r"[^\w\s]", m)), key=len, reverse=True)
        self._markers = re.compile("|".join(map(re.escape, markers)) or r"(?!)")
        delimiters = [r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", text))) for text in delimiters]
        self._delimiters = re.compile("|".join(delimiters) or r"(?!)", re.IGNORECASE)

    def __call__(self, text: str) -> str:
        # Again and again: what is left may be a marker itself.
        while self._delimiters.search(text):
            text = self._delimiters.sub(lambda match: re.sub(r"[^\w\s]", "", match[0]).strip(), text)
        while self._markers.search(text):
            text = self._markers.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
        return text

    def messages(self, messages: list[Message]) -> list[Message]:
        """The same for the contents of messages."""
        return [{**message, "content": self(message["content"])} for message in messages]
