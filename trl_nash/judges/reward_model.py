# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Reward models as reward functions."""

import torch
from transformers import AutoModelForSequenceClassification

from .base import Abstained, Prompt
from .local import LocalModel
from .text import Message, Neutraliser, as_messages


class RewardModel:
    """
    A sequence classifier with its own tokenizer as a reward function. A text that is too long for it even without the
    prompt gets [`Abstained`] for a reward.

    Args:
        model (`str` or `nn.Module`):
            Path or hub id, or the model itself. The reward is its only logit.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer; loaded from where the model came from by default.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` if the model is given by path.
        kwargs:
            Further arguments of [`~judges.local.LocalModel`].
    """

    def __init__(self, model, tokenizer=None, *, model_kwargs=None, **kwargs):
        self.local = LocalModel(
            model,
            tokenizer,
            auto_class=AutoModelForSequenceClassification,
            kind="a reward model, a sequence classifier with one label",
            model_kwargs={"num_labels": 1, "ignore_mismatched_sizes": True, **(model_kwargs or {})},
            **kwargs,
        )
        self.model, self.tokenizer = self.local.model, self.local.tokenizer
        self.__name__ = self.model.config._name_or_path or type(self.model).__name__
        if self.model.config.num_labels != 1:
            raise ValueError(
                f"The reward model {self.__name__} ({type(self.model).__name__}) has {self.model.config.num_labels} "
                f"labels; a reward model is a sequence classifier with one (`num_labels=1`)."
            )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.get_text_config().pad_token_id = self.tokenizer.pad_token_id
        self.neutralise = Neutraliser(self.tokenizer)  # a completion cannot end its turn, or begin another

    def __call__(self, prompts: list[Prompt], completions: list[str | list[Message]]) -> list[float]:
        rows = list(zip(prompts, completions, strict=True))
        texts = [self._render(*row) for row in rows]
        unique = dict(zip(texts, rows, strict=True))
        sequences = {
            text: ids if self.local.fits(ids) else self._cut(*row)
            for (text, row), ids in zip(unique.items(), self._encode(list(unique)), strict=True)
        }
        short = [text for text, ids in sequences.items() if ids is not None]
        logits = self.local.run([sequences[text] for text in short], self._logits, padding_side="right")
        rewards = {text: logit.item() for text, logit in zip(short, logits, strict=True)}
        return [rewards.get(text, Abstained("too long")) for text in texts]

    def _render(self, prompt: Prompt, completion: str | list[Message]) -> str:
        if isinstance(prompt, str):
            return prompt + self.neutralise(completion)
        return self.local.render(prompt + self.neutralise.messages(completion))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    def _cut(self, prompt: Prompt, completion: str | list[Message]) -> list[int] | None:
        def encode(rest: list[Message]) -> list[int]:
            if isinstance(prompt, str):
                # Some tokenizers lose the blank at the end, which keeps prompt and completion apart.
                text, blank = rest[0]["content"].rstrip(), prompt[len(prompt.rstrip()) :]
                return self._encode([self._render(text and text + blank, completion)])[0]
            return self._encode([self._render(rest, completion)])[0]

        fitted = self.local.fit(as_messages(prompt), encode)
        return fitted and fitted[0]

    def _logits(self, rows: list[int], *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        # The classifier finds the last token of each row, whose logit is the reward, by the padding after it.
        input_ids = input_ids.masked_fill(attention_mask == 0, self.tokenizer.pad_token_id)
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits[:, 0]
