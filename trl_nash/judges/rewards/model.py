# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Reward models as reward functions."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerBase,
)

from ..base import Abstained, Prompt, joined
from ..local.model import LocalModel, on_device, pad
from ..questions.template import as_text
from ..questions.text import PROBE, Message, Neutraliser, as_messages
from ..transcript import Transcript, plain_messages


# Language models whose reward was put into the logit of a token, by what is in their names.
REWARD_TOKENS = {r"nemotron.*reward(?!.*principle)": 0}


class Row(NamedTuple):
    """What the model reads: token ids, and which of them are the answer's, for models that are told."""

    ids: list[int]
    types: list[int] | None = None


class RewardModel:
    """
    A sequence classifier with its own tokenizer as a reward function. The reward is the output's `score` if there is
    one, and its logit otherwise. A text that is too long for it even without the prompt gets [`Abstained`].

    Models whose own code has a `get_score(tokenizer, messages)` are asked through it, one dialogue at a time, which it
    renders itself (internlm/internlm2-7b-reward, with `model_kwargs={"trust_remote_code": True}`): such a text is cut
    by nobody. Of language models whose reward is a logit of the token behind the dialogue
    (nvidia/Llama-3.1-Nemotron-70B-Reward-HF: that of token 0) this logit is read.

    Prompt and completion are rendered with the tokenizer's chat template. Without one, a tokenizer that puts a
    separator between two texts (`[CLS] question [SEP] answer [SEP]`) reads them as such a pair.

    Args:
        model (`str` or `nn.Module`):
            Path or hub id, or the model itself.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer; loaded from where the model came from by default.
        raw_prompts (`bool`, *optional*, defaults to `False`):
            Whether a prompt that is a string is read as it is, with the completion right behind it, as TRL's trainers
            do. By default it is one turn of the user.
        reward_token (`int`, *optional*):
            Of a language model, the token whose logit is the reward. Known of Nemotron's by their names.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` if the model is given by path.
        kwargs:
            Further arguments of [`~judges.local.model.LocalModel`].

    Raises:
        `ValueError`: If the model has more than one label, or the tokenizer can render no dialogue.
    """

    def __init__(self, model, tokenizer=None, *, raw_prompts=False, reward_token=None, model_kwargs=None, **kwargs):
        if reward_token is None and isinstance(model, str):
            reward_token = next((i for name, i in REWARD_TOKENS.items() if re.search(name, model.lower())), None)
        self.reward_token = reward_token
        if reward_token is not None:
            auto_class, kind, options = AutoModelForCausalLM, "a language model whose reward is a logit", {}
        else:
            auto_class = reward_class(model, model_kwargs or {})
            kind = "a reward model, a sequence classifier with one label"
            options = {"num_labels": 1, "ignore_mismatched_sizes": True}
        options |= model_kwargs or {}
        self.local = LocalModel(model, tokenizer, auto_class=auto_class, kind=kind, model_kwargs=options, **kwargs)
        self.model, self.tokenizer = self.local.model, self.local.tokenizer
        self.__name__ = self.model.config._name_or_path or type(self.model).__name__
        # What code from elsewhere does with labels is its own matter: its output must be one number for each text.
        classifies = reward_token is None and type(self.model).__module__.startswith("transformers.")
        if classifies and self.model.config.num_labels != 1:
            raise ValueError(
                f"The reward model {self.__name__} ({type(self.model).__name__}) has {self.model.config.num_labels} "
                f"labels; a reward model is a sequence classifier with one (`num_labels=1`)."
            )
        self.raw_prompts = raw_prompts
        self._scores_itself = callable(getattr(self.model, "get_score", None))
        self._reads_pairs = self.tokenizer.chat_template is None and separates_pairs(self.tokenizer)
        if self.tokenizer.chat_template is None and not (self._scores_itself or self._reads_pairs or raw_prompts):
            raise ValueError(
                f"The tokenizer of the reward model {self.__name__} has no chat template, and no separator between a "
                f"question and an answer; set `tokenizer.chat_template` to that of the model's training."
            )
        self.neutralise = Neutraliser(self.tokenizer)  # a completion cannot end its turn, or begin another

    def __call__(self, prompts: list[Prompt], completions: list[str | list[Message]]) -> list[float]:
        rows = list(zip(prompts, completions, strict=True))
        if self._scores_itself:
            return self._own_scores(rows)
        texts = [self._render(*row) for row in rows]
        encoded = {text: self._fitted(text, *row) for text, row in dict(zip(texts, rows, strict=True)).items()}
        short = {text: row for text, row in encoded.items() if row is not None}
        types = [row.types for row in short.values()]
        logits = self.local.run(
            [row.ids for row in short.values()],
            lambda rows, **inputs: self._logits([types[row] for row in rows], **inputs),
            padding_side="right",
        )
        rewards = {text: logit.item() for text, logit in zip(short, logits, strict=True)}
        return [rewards.get(text, Abstained("too long")) for text in texts]

    def _own_scores(self, rows: list[tuple[Prompt, str | list[Message]]]) -> list[float]:
        """What the model's own `get_score` says of dialogues."""
        dialogues = [[*turns(prompt), *self._turns(answer)] for prompt, answer in rows]
        with on_device(self.model, self.local.device, self.local.offload), torch.inference_mode():
            return [float(self.model.get_score(self.tokenizer, dialogue)) for dialogue in dialogues]

    def _answer(self, completion: str | list[Message]) -> str:
        """As one text: of a dialogue its transcript."""
        one = len(completion) == 1 and not isinstance(completion, str) and not completion[0].get("tool_calls")
        if isinstance(completion, str) or one:
            return self.neutralise(completion if isinstance(completion, str) else completion[0]["content"])
        return self.neutralise(Transcript(completion))

    def _turns(self, completion: str | list[Message]) -> list[Message]:
        """As messages: of a dialogue all those behind the prompt."""
        if isinstance(completion, str) or len(completion) == 1:
            return [{"role": "assistant", "content": self._answer(completion)}]
        return self.neutralise.messages(plain_messages(Transcript(completion)))

    def _render(self, prompt: Prompt, completion: str | list[Message]) -> tuple[str, ...]:
        """One text, or question and answer where the tokenizer puts them together."""
        if self.raw_prompts and isinstance(prompt, str):
            return (prompt + self._answer(completion),)
        if self._reads_pairs:
            return as_text(as_messages(prompt)), self._answer(completion)
        return (self.local.render([*turns(prompt), *self._turns(completion)]),)

    def _encode(self, texts: tuple[str, ...]) -> Row:
        encoded = self.tokenizer(*texts, add_special_tokens=len(texts) == 2)
        return Row(encoded["input_ids"], encoded.get("token_type_ids") if len(texts) == 2 else None)

    def _fitted(self, texts: tuple[str, ...], prompt: Prompt, completion: str | list[Message]) -> Row | None:
        """What is read of a row, whose prompt is cut until it fits; `None` if that is not enough."""
        row = self._encode(texts)
        if self.local.fits(row.ids):
            return row

        def encode(rest: list[Message]) -> Row:
            if not (self.raw_prompts and isinstance(prompt, str)):
                return self._encode(self._render(rest, completion))
            # Some tokenizers lose the blank at the end, which keeps prompt and completion apart.
            text, blank = rest[0]["content"].rstrip(), prompt[len(prompt.rstrip()) :]
            return self._encode(self._render(text and text + blank, completion))

        fitted = self.local.fit(as_messages(prompt), lambda rest: encode(rest).ids)
        return fitted and encode(fitted[1])

    def _logits(
        self, types: list[list[int] | None], *, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        inputs: dict[str, Any] = {"attention_mask": attention_mask}
        if types[0] is not None:
            inputs["token_type_ids"] = pad(types, "right")["input_ids"].to(input_ids)
        if self.reward_token is not None:
            # All logits would be a gigabyte for each 4,000 tokens: only those of some text's last token.
            ends, place = (attention_mask.sum(1) - 1).unique(return_inverse=True)
            logits = self.model(input_ids=input_ids, **inputs, logits_to_keep=ends, use_cache=False).logits
            return logits[torch.arange(len(place), device=logits.device), place, self.reward_token]
        with padded(self.model, input_ids, attention_mask) as input_ids:
            output = self.model(input_ids=input_ids, **inputs)
        scores = output.score if getattr(output, "score", None) is not None else output.logits
        if scores.numel() != len(input_ids):
            raise ValueError(
                f"The reward model {self.__name__} gives scores of shape {tuple(scores.shape)} for {len(input_ids)} "
                f"texts; a reward is one number for each."
            )
        return scores.reshape(-1)


def reward_class(model: str | nn.Module, model_kwargs: dict[str, Any]) -> Any:
    """What loads a reward model: a classifier's class, or the model's own where its code has no classifier."""
    own: dict[str, Any] = {}
    trusted = model_kwargs.get("trust_remote_code")
    if isinstance(model, str) and trusted:
        options = {name: model_kwargs[name] for name in ("revision", "token") if name in model_kwargs}
        with contextlib.suppress(OSError):  # which says what is wrong when the model is loaded
            own = getattr(AutoConfig.from_pretrained(model, trust_remote_code=trusted, **options), "auto_map", {})
    own_only = "AutoModel" in own and "AutoModelForSequenceClassification" not in own
    return AutoModel if own_only else AutoModelForSequenceClassification


def turns(prompt: Prompt) -> list[Message]:
    """A prompt as messages: a string is one turn of the user."""
    return as_messages(prompt) if isinstance(prompt, str) else joined(prompt)


def separates_pairs(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer writes two texts as encoders know them, `[CLS] question [SEP] answer [SEP]`."""
    return tokenizer.sep_token_id is not None and tokenizer.sep_token_id in tokenizer(PROBE, PROBE)["input_ids"]


@contextlib.contextmanager
def padded(model: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """
    `input_ids` padded such that the model reads in each row what it reads in the row alone: classifiers look for the
    last token that is not their config's padding, and for the last one if the config knows none. So padding is the
    config's, and if there is no such token, the one that rows use least, which is not at all, stands for it in here.
    """
    config, size = model.config.get_text_config(), model.get_input_embeddings().weight.shape[0]
    before = config.pad_token_id
    if bool(attention_mask.all()) and len(input_ids) == 1:
        yield input_ids
        return
    if before is None or not 0 <= before < size:
        config.pad_token_id = torch.bincount(input_ids[attention_mask == 1], minlength=size).argmin().item()
    try:
        yield input_ids.masked_fill(attention_mask == 0, config.pad_token_id)
    finally:
        config.pad_token_id = before
