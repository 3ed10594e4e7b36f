# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From a dataset's prompt to the tokens that are sampled from, and from sampled tokens to the text that is judged."""

import os
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby

from transformers import PreTrainedTokenizerBase

from ..compat import maybe_apply_chat_template
from ..data.messages import dialogue, without_empty_keys
from ..judges.calls import joined
from ..judges.questions.text import PROBE


LONGEST_TAG = 8  # tokens that `<think>`, and blanks behind it, may take


class PromptRenderer:
    """
    Renders prompts as at most `limit` tokens, cut from the left.

    Conversations go through the chat template, and so does a plain string, as one turn of the user. Two kinds of
    strings are read as they are, and begin with the tokenizer's BOS token if it is in the habit of adding one: those
    that have the template's markup already, and all where there is no template or `raw_prompts` is set.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's tokenizer.
        limit (`int`): tokens that a prompt may have.
        chat_template_kwargs (`dict`, *optional*): passed to the chat template.
        raw_prompts (`bool`, *optional*, defaults to `False`): whether all strings are read as they are.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
        chat_template_kwargs: dict | None = None,
        raw_prompts: bool = False,
    ):
        self.tokenizer = tokenizer
        self.limit = limit
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.raw_prompts = raw_prompts
        bos = tokenizer.bos_token_id
        self._adds_bos = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]

    @classmethod
    def of(cls, args, tokenizer: PreTrainedTokenizerBase) -> "PromptRenderer":
        """The renderer of a run."""
        limit = args.max_length - args.max_new_tokens
        return cls(tokenizer, limit, args.chat_template_kwargs, args.raw_prompts)

    def ids(self, prompt: str | list[dict]) -> tuple[list[int], bool]:
        """Returns the tokens that are sampled from, and whether the prompt had to be cut."""
        ids = self.tokenizer(self.text(prompt), add_special_tokens=False)["input_ids"]
        if len(ids) <= self.limit:
            return ids, False
        head = ids[:1] if ids[0] == self.tokenizer.bos_token_id else []
        return head + ids[len(ids) - self.limit + len(head) :], True

    def __call__(self, prompt: str | list[dict]) -> tuple[str, bool]:
        """Returns the text of these tokens, and whether the prompt had to be cut."""
        ids, cut = self.ids(prompt)
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False) if cut else self.text(prompt), cut

    def text(self, prompt: str | list[dict]) -> str:
        """
        The whole text of a prompt.

        Raises:
            `ValueError`: if the chat template refuses it, or there is none for a conversation.
        """
        if isinstance(prompt, str):
            turns = dialogue(prompt) or [{"role": "user", "content": prompt}] if self.chats else None
            if turns is None or self.is_rendered(prompt):
                bos = self.tokenizer.bos_token
                return bos + prompt if self._adds_bos and not prompt.startswith(bos) else prompt
            prompt = turns
        if not self.tokenizer.chat_template:
            raise ValueError(
                "it is a conversation, but the tokenizer has no chat template. Set one (`tokenizer.chat_template = "
                "...`) or give the prompts as plain text"
            )
        tools, turns = getattr(prompt, "tools", None), list(map(without_empty_keys, joined(prompt)))
        try:
            row = maybe_apply_chat_template({"prompt": turns}, self.tokenizer, tools, **self.chat_template_kwargs)
        except Exception as error:  # a template may raise anything, most of it by itself
            raise ValueError(f"the chat template refuses it ({str(error) or type(error).__name__})") from error
        return row["prompt"]

    @property
    def cut_sentence(self) -> str:
        """What a run says where a prompt was cut."""
        return (
            f"Some prompts are longer than max_length - max_new_tokens = {self.limit} tokens and were cut from the "
            "left (metric prompts/cut_ratio)."
        )

    @property
    def chats(self) -> bool:
        """Whether strings are turns."""
        return bool(self.tokenizer.chat_template) and not self.raw_prompts

    @property
    def takes_tools(self) -> bool:
        """Whether the chat template shows the model tools."""
        return "tools" in str(self.tokenizer.chat_template)

    @property
    def settings(self) -> str:
        """All that a text depends on beside the prompt."""
        return repr((self.tokenizer.chat_template, self.chat_template_kwargs, self.raw_prompts))

    def is_rendered(self, text: str) -> bool:
        """Whether a text has the chat template's markup already: a turn of the user, and its end."""
        opens, answers, closes = self._markup
        text = _squeezed(text)
        return opens in text and (answers in text or text.endswith(closes)) if opens and answers else False

    @cached_property
    def _markup(self) -> tuple[str, str, str]:
        """What opens a turn of the user, what stands between it and the answer, and what closes it, without blanks."""
        if not self.tokenizer.chat_template:
            return "", "", ""
        said = [{"role": role, "content": PROBE} for role in ("user", "assistant", "user")]
        try:
            before, closes = self._template(said[:1]).split(PROBE)
            asking = self._template(said[:1], add_generation_prompt=True).split(PROBE)[1]
            _, answers, ends = self._template(said[:2]).split(PROBE)
            again = self._template(said).split(PROBE)[2].removeprefix(ends)
        except Exception:  # it renders no such dialogue
            return "", "", ""
        bos = self.tokenizer.bos_token or ""
        opens = os.path.commonprefix([before[::-1], again[::-1]])[::-1]
        return opens.removeprefix(bos), os.path.commonprefix([asking, answers]), closes

    def _template(self, messages: list[dict], **options) -> str:
        options = self.chat_template_kwargs | options
        return _squeezed(self.tokenizer.apply_chat_template(messages, tokenize=False, **options))


def _squeezed(text: str) -> str:
    return "".join(text.split())


class AnswerReader:
    """
    From sampled tokens to the text that a judge sees.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's.
        strips_thinking (`bool`): whether that begins behind the thinking.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, strips_thinking: bool):
        self._tokenizer = tokenizer
        self._strips_thinking = strips_thinking
        # With some tokenizers the tags are special tokens, which decoding would skip.
        added = tokenizer.added_tokens_decoder.items()
        self._tags = {id: token.content for id, token in added if token.content in ("<think>", "</think>")}

    def __call__(self, completion_ids: list[int], prompt_ids: Sequence[int] = ()) -> str:
        """The text of a completion of a prompt."""
        if not self._strips_thinking:
            return self._tokenizer.decode(completion_ids, skip_special_tokens=True)
        opened = opens_thinking(self._tokenizer.decode(prompt_ids[-LONGEST_TAG:]))
        parts = groupby(completion_ids, key=self._tags.get)
        text = "".join(tag or self._tokenizer.decode(list(ids), skip_special_tokens=True) for tag, ids in parts)
        return strip_thinking(text, opened)


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
