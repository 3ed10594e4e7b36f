# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
PairRM ([LLM-Blender](https://huggingface.co/papers/2306.02561)), a DeBERTa of .4 B parameters that reads both
completions at once, on nothing but transformers.
"""

import json
from typing import Any

import torch
from torch import nn
from transformers import DebertaV2Config, DebertaV2Model, DebertaV2PreTrainedModel, PreTrainedTokenizerBase

from ..base import PairwiseJudge, Prompt
from ..questions.text import Message, Neutraliser, as_messages
from ..store import as_store
from .model import LocalModel


PREFIXES = ("<|source|>", "<|candidate1|>", "<|candidate2|>")

# What the model was trained to read where there is more than one turn, its misspelling included.
INSTRUCTION = "Finish the following coversation in each i-th turn by filling in <Response i> with your response."


class PairRM(DebertaV2PreTrainedModel):
    """
    The model of llm-blender/PairRM-hf: a score of each candidate is read off the source's and the candidate's prefix
    tokens.
    """

    base_model_prefix = "pretrained_model"

    def __init__(self, config: DebertaV2Config):
        super().__init__(config)
        self.pretrained_model = DebertaV2Model(config)
        size, dropout = config.hidden_size, getattr(config, "drop_out", 0.0)
        self.head_layer = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(2 * size, size),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(size, getattr(config, "n_tasks", 1)),
        )
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, prefix_ids: tuple[int, int, int]
    ) -> torch.Tensor:
        """
        Logit that the first candidate is better.

        Args:
            input_ids (`torch.Tensor` of shape `(B, L)`): Source, first and second candidate.
            attention_mask (`torch.Tensor` of shape `(B, L)`): 0 at padding.
            prefix_ids (`tuple[int, int, int]`): The tokens that begin source, first and second candidate.

        Returns:
            `torch.Tensor` of shape `(B,)`.
        """
        hidden = self.pretrained_model(input_ids, attention_mask).last_hidden_state
        rows = torch.arange(len(input_ids), device=input_ids.device)
        source, first, second = (hidden[rows, (input_ids == prefix).int().argmax(1)] for prefix in prefix_ids)
        left, right = (self.head_layer(torch.cat([source, candidate], dim=1)) for candidate in (first, second))
        return (left - right).mean(1)


class PairRMJudge(PairwiseJudge):
    """
    `P(first ≻ second) = σ(PairRM(prompt, first, second))`. The model is not antisymmetric, so both orders are asked.

    It was trained on truncated texts and truncates the same way, on the right: a prompt to `source_max_length` tokens,
    and each completion to half of what the prompt leaves of `max_length`.

    Args:
        model (`str` or [`PairRM`], *optional*, defaults to `"llm-blender/PairRM-hf"`):
            Path or hub id of weights in the format of PairRM-hf, or the model itself.
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            By default it is loaded from where the model came from.
        order (`str`, *optional*, defaults to `"both"`):
            `"both"`, `"random"` or `"fixed"`, see [`PairwiseJudge`].
        temperature (`float`, *optional*, defaults to `1.0`):
            What the logit is divided by.
        aggregate (`str`, *optional*, defaults to `"probabilities"`):
            How the two orders make one verdict. `"probabilities"`: the mean of `P(first ≻ second)` and
            `1 - P(second ≻ first)`. `"logits"`: `σ(l(first, second) - l(second, first))`, as TRL's judge with
            llm-blender, further from one half; it asks both orders.
        source_max_length (`int`, *optional*, defaults to `1224`):
            Most tokens of a prompt, its prefix and special tokens included.
        max_length (`int`, *optional*, defaults to `2048`):
            Most tokens of a question.
        tokens_per_batch (`int`, *optional*, defaults to `16384`):
            Most tokens of a forward, padding included.
        device (`str` or `torch.device`, *optional*):
            Where the model judges. By default it stays where it is.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` if the model is given by path.
        cache (`bool`, `str` or [`JudgementStore`], *optional*):
            Where answers are kept: `True` for the default store, or a path. Only for models given by path.
        offload (`bool`, *optional*, defaults to `False`):
            Whether the model is on the CPU while it does not judge.

    Raises:
        `ValueError`: If weights or prefix tokens are missing, or a length leaves no room.
    """

    def __init__(
        self,
        model: str | nn.Module = "llm-blender/PairRM-hf",
        *,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        order: str = "both",
        temperature: float = 1.0,
        aggregate: str = "probabilities",
        source_max_length: int = 1224,
        max_length: int = 2048,
        tokens_per_batch: int = 16384,
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
        cache: Any = None,
        offload: bool = False,
    ):
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        if aggregate not in ("probabilities", "logits"):
            raise ValueError(f"`aggregate` is 'probabilities' or 'logits', got {aggregate!r}.")
        if aggregate == "logits" and order != "both":
            raise ValueError(f"`aggregate='logits'` needs both orders; leave `order` ({order!r}) out.")
        # A segment is at least [CLS], its prefix and [SEP].
        if source_max_length < 3 or max_length < source_max_length + 6:
            raise ValueError(
                f"`max_length` ({max_length}) must leave room for two completions behind `source_max_length` "
                f"({source_max_length}) tokens, which are at least 3."
            )
        self.local = LocalModel(
            model,
            tokenizer,
            auto_class=PairRM,
            kind="a PairRM in the format of llm-blender/PairRM-hf",
            device=device,
            offload=offload,
            tokens_per_batch=tokens_per_batch,
            max_length=max_length,
            model_kwargs=model_kwargs,
        )
        self.tokenizer = self.local.tokenizer
        self.order, self.aggregate = order, aggregate
        self.symmetric = aggregate == "logits"  # the two orders are put together here
        self.cache = as_store(cache)
        self.temperature = temperature
        self.source_max_length = source_max_length
        vocabulary = self.tokenizer.get_vocab()
        if missing := [prefix for prefix in PREFIXES if prefix not in vocabulary]:
            raise ValueError(
                f"The judge's tokenizer {self.tokenizer.name_or_path} lacks PairRM's tokens {', '.join(missing)}; use "
                f"that of llm-blender/PairRM-hf."
            )
        self.prefix_ids = tuple(vocabulary[prefix] for prefix in PREFIXES)
        self.neutralise = Neutraliser(self.tokenizer, [*PREFIXES, "<Response"])

    @property
    def description(self) -> str:
        return f"pairrm:{self.local.name}"

    @property
    def identity(self) -> str | None:
        if self.local.identity is None:
            return None
        return json.dumps(["pairrm", self.local.identity, self.source_max_length, self.temperature, self.aggregate])

    def judge(self, prompts, first, second):
        if self.aggregate == "logits":
            logits = self._of([*prompts, *prompts], [*first, *second], [*second, *first])
            for there, back in zip(logits[: len(prompts)], logits[len(prompts) :], strict=True):
                self.tally.add_orders(*(torch.sigmoid(logit / self.temperature).item() for logit in (there, back)))
            logits = [a - b for a, b in zip(logits[: len(prompts)], logits[len(prompts) :], strict=True)]
        else:
            logits = self._of(prompts, first, second)
        return [torch.sigmoid(logit.double() / self.temperature).item() for logit in logits]

    def _of(self, prompts: list[Prompt], first: list[str], second: list[str]) -> list[torch.Tensor]:
        sequences = [self.encode(*row) for row in zip(prompts, first, second, strict=True)]
        return self.local.run(sequences, self._logits, padding_side="right")

    def _logits(self, rows: list[int], *, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.local.model(input_ids, attention_mask, self.prefix_ids)

    def encode(self, prompt: Prompt, first: str, second: str) -> list[int]:
        """Token ids of a question: three segments, each with the tokenizer's special tokens and its prefix."""
        messages = self.neutralise.messages(as_messages(prompt))
        texts = as_source(messages, self.neutralise(first), self.neutralise(second))
        source = self._segment(PREFIXES[0] + texts[0], self.source_max_length)
        room = (self.local.max_length - len(source)) // 2
        return source + self._segment(PREFIXES[1] + texts[1], room) + self._segment(PREFIXES[2] + texts[2], room)

    def _segment(self, text: str, length: int) -> list[int]:
        return self.tokenizer(text, truncation=True, max_length=length)["input_ids"]


def as_source(messages: list[Message], first: str, second: str) -> tuple[str, str, str]:
    """Source and candidates as PairRM knows them: of a conversation, the answers are taken out of the source."""
    if len(messages) == 1:
        return messages[0]["content"], first, second
    questions, answers = messages[::2], messages[1::2]
    if len(questions) != len(answers) + 1 or {m["role"] for m in answers} != {"assistant"}:
        roles = ", ".join(message["role"] for message in messages)
        raise ValueError(f"PairRM reads conversations in which user and assistant take turns; got {roles}.")
    source = "\n".join(
        f"USER: {message['content']}\nAssistant: <Response {turn}>" for turn, message in enumerate(questions, start=1)
    )
    return INSTRUCTION + source, _responses(answers, first), _responses(answers, second)


def _responses(answers: list[Message], last: str) -> str:
    texts = [*(message["content"] for message in answers), last]
    return "\n".join(f"<Response {turn}>: {text}" for turn, text in enumerate(texts, start=1))
