# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a chat template writes between two turns of the policy, and whether it leaves earlier turns alone."""

from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ...compat import chat_template_utils
from ...data.messages import Message
from ...judges.questions.text import PROBE


_ASKS: Message = {"role": "user", "content": "trlnashasks"}
_AGAIN: Message = {"role": "user", "content": "trlnashagain"}
_THOUGHT = "trlnashthought"


class Turns:
    """
    Renders what others say as the tokens that follow a turn of the policy. The policy's own tokens are never rendered
    again: they stay those that were sampled.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's.
        eos_token_ids (`list[int]`): tokens that end a turn.
        chat_template_kwargs (`dict`, *optional*): passed to the chat template.
        tools (`list`, *optional*): that the policy may call.

    Attributes:
        chat_template (`str`, *optional*):
            TRL's template for training, where the tokenizer's own does not leave earlier turns alone and TRL has one
            that does.

    Raises:
        `ValueError`: if there is no template that a dialogue can be trained with, or none that knows tools.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        eos_token_ids: list[int],
        chat_template_kwargs: dict[str, Any] | None = None,
        tools: list | None = None,
    ):
        if not tokenizer.chat_template:
            raise ValueError(
                "The policy's tokenizer has no chat template, so there is no way to write what others say in a "
                "dialogue: set `tokenizer.chat_template`."
            )
        self._tokenizer = tokenizer
        self._eos = set(eos_token_ids)
        self._options = dict(chat_template_kwargs or {})
        self.chat_template: str | None = None
        if tools and not chat_template_utils().supports_tool_calling(tokenizer):
            raise ValueError(
                "`tools` and `environment_factory` need a chat template that shows the model tools, its calls and "
                "their results, and that of the policy's tokenizer does not: take a model that was trained to call "
                "tools, or set its `tokenizer.chat_template`."
            )
        if (fault := self._fault(bool(tools))) is not None:
            self.chat_template = self._training_template(fault)
            self._options["chat_template"] = self.chat_template
            if (still := self._fault(bool(tools))) is not None:
                raise ValueError(_refusal(still))
        self._closes = self._render([_ASKS, _said(PROBE)]).partition(PROBE)[2]  # what ends a turn of the policy

    def between(self, heard: list[Message], last: int | None) -> list[int]:
        """
        The tokens from the end of a turn of the policy to the beginning of the next one.

        Args:
            heard (`list[dict]`): messages of the user, or results of tools, one or more.
            last (`int`, *optional*): the token that the policy has ended its turn with.
        """
        if heard[0]["role"] == "tool":
            calls = [_call(message["name"]) for message in heard]
            before = self._render([_ASKS, {"role": "assistant", "content": "", "tool_calls": calls}])
            whole = self._render(
                [_ASKS, {"role": "assistant", "content": "", "tool_calls": calls}, *heard], add_generation_prompt=True
            )
            text = whole[len(before.removesuffix(self._closes)) :]
        else:
            text = self._render([_ASKS, _said(PROBE), *heard], add_generation_prompt=True).partition(PROBE)[2]
        ids = self._tokens(text)
        return ids[1:] if ids and ids[0] == last and last in self._eos else ids

    def heard(self, ids: list[int]) -> str:
        """What others say in the tokens between two turns of the policy, as far as the template shows it."""
        text = self._render([_ASKS, _said(PROBE), _AGAIN], add_generation_prompt=True).partition(PROBE)[2]
        opens, _, ends = (self._tokens(part) for part in text.partition(_AGAIN["content"]))
        # The end of the policy's turn may be among its own tokens.
        own = next((n for n in range(min(2, len(opens))) if ids[: len(opens) - n] == opens[n:]), None)
        if own is not None and ids[len(ids) - len(ends) :] == ends:
            ids = ids[len(opens) - own : len(ids) - len(ends)]
        return self._tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _tokens(self, text: str) -> list[int]:
        return self._tokenizer(text, add_special_tokens=False)["input_ids"]

    def _fault(self, tools: bool) -> str | None:
        """What the template does that a dialogue cannot be trained with, `None` if nothing."""
        try:
            asked = self._render([_ASKS], add_generation_prompt=True)
            answered = self._render([_ASKS, _said(PROBE), _AGAIN], add_generation_prompt=True)
            later = self._render(
                [_ASKS, _said(PROBE), _AGAIN, _said("trlnashlater"), _AGAIN], add_generation_prompt=True
            )
            thinking = f"<think>\n{_THOUGHT}\n</think>\n\n{PROBE}"
            thought = self._render([_ASKS, _said(thinking), _AGAIN], add_generation_prompt=True)
        except (TemplateError, ValueError, TypeError) as error:
            return f"it renders no dialogue of several turns ({str(error) or type(error).__name__})"
        if not answered.startswith(asked) or PROBE not in answered:
            return "it writes something else in front of an earlier answer than in front of the one that is sampled"
        if not later.startswith(answered):
            return "it writes earlier turns otherwise once others follow them"
        if _THOUGHT not in thought:
            return "it drops the thinking of earlier turns"
        if tools and not chat_template_utils().is_chat_template_prefix_preserving(self._with_template()):
            return "it writes a call of a tool otherwise once its result follows"
        return None

    def _with_template(self) -> PreTrainedTokenizerBase:
        if self.chat_template is None:
            return self._tokenizer
        import copy

        tokenizer = copy.copy(self._tokenizer)
        tokenizer.chat_template = self.chat_template
        return tokenizer

    def _training_template(self, fault: str) -> str:
        try:
            template = chat_template_utils().get_training_chat_template(self._tokenizer)
        except (ValueError, TemplateError, TypeError):
            template = None
        if template is None:
            raise ValueError(_refusal(fault))
        return template

    def _render(self, messages: list[Message], **options) -> str:
        return self._tokenizer.apply_chat_template(messages, tokenize=False, **(self._options | options))


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _call(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": {}}}


def _refusal(fault: str) -> str:
    return (
        f"Dialogues cannot be trained with the chat template of the policy's tokenizer: {fault}, so that the policy "
        "would be trained in another context than the one it has later. Set a `tokenizer.chat_template` in which what "
        "was said stays as it was, with all of its thinking."
    )
