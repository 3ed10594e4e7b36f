# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From a dataset's prompt to the tokens that are sampled from, and from sampled tokens to the text that is judged."""

from transformers import PreTrainedTokenizerBase

from ..compat import is_conversational, maybe_apply_chat_template
from ..judges.calls import joined


class PromptRenderer:
    """
    Renders prompts as at most `limit` tokens, cut from the left.

    Conversations go through the chat template. Plain strings begin with the tokenizer's BOS token if it is in the
    habit of adding one.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's tokenizer.
        limit (`int`): tokens that a prompt may have.
        chat_template_kwargs (`dict`, *optional*): passed to the chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int, chat_template_kwargs: dict | None = None):
        self.tokenizer = tokenizer
        self.limit = limit
        self.chat_template_kwargs = chat_template_kwargs or {}
        bos = tokenizer.bos_token_id
        self._adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]

    def ids(self, prompt: str | list[dict]) -> tuple[list[int], bool]:
        """Returns the tokens that are sampled from, and whether the prompt had to be cut."""
        ids = self.tokenizer(self._text(prompt), add_special_tokens=False)["input_ids"]
        if len(ids) <= self.limit:
            return ids, False
        head = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return head + ids[len(ids) - self.limit + len(head) :], True

    def __call__(self, prompt: str | list[dict]) -> tuple[str, bool]:
        """Returns the text of these tokens, and whether the prompt had to be cut."""
        ids, cut = self.ids(prompt)
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) if cut else self._text(prompt), cut

    def _text(self, prompt: str | list[dict]) -> str:
        prompt = joined(prompt)
        if is_conversational({"prompt": prompt}) and not self.tokenizer.chat_template:
            raise ValueError(
                "The prompts are conversations, but the tokenizer has no chat template. Set one "
                "(`tokenizer.chat_template = ...`) or give the prompts as plain text."
            )
        text = maybe_apply_chat_template({"prompt": prompt}, self.tokenizer, **self.chat_template_kwargs)["prompt"]
        bos = self.tokenizer.bos_token
        if isinstance(prompt, str) and self._adds_bos and not text.startswith(bos):
            text = bos + text
        return text


def opens_thinking(text: str) -> bool:
    """Whether a rendered prompt ends in `<think>`, so that the completion begins within the thinking."""
    return text.rstrip().endswith("<think>")


def strip_thinking(text: str, opened: bool = False) -> str:
    """
    What a completion says behind its thinking, which is everything up to the last `</think>`, opened in it or not.

    Args:
        text (`str`): the completion.
        opened (`bool`, *optional*, defaults to `False`): whether the prompt has opened the thinking.

    Returns:
        `str`: the answer, empty if the thinking never came to its end.
    """
    _, closed, answer = text.rpartition("</think>")
    unfinished = "<think>" in answer or (opened and not closed)
    return "" if unfinished else answer.strip()


def text_of(prompt: str | list[dict]) -> str:
    """What to show of a prompt: the text, or the last message's."""
    prompt = joined(prompt)
    return prompt if isinstance(prompt, str) else prompt[-1]["content"] or ""
