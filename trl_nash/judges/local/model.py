# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Models that judge on this machine, run on many texts of different lengths."""

import contextlib
import functools
import inspect
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..questions.text import PROBE, Message, cut_left
from .loading import load_model, load_tokenizer


logger = logging.getLogger(__name__)


@contextlib.contextmanager
def on_device(model: nn.Module, device: Any, offload: bool) -> Iterator[None]:
    """With `offload`, the model is on `device` in here and on the CPU outside."""
    if not offload:
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to("cpu")
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()  # room for the policy


def batches(lengths: list[int], tokens: int) -> list[list[int]]:
    """Rows of similar length together, of at most `tokens` tokens with their padding; a longer row is alone."""
    groups: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):  # a group begins with its longest row
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pad(sequences: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    """
    Token ids as `input_ids` and `attention_mask` of shape (rows, longest), and `position_ids` for padding on the left,
    which models would count. Padding is token 0, masked.
    """
    longest = max(map(len, sequences))
    ids, mask = torch.zeros(2, len(sequences), longest, dtype=torch.long)
    for row, sequence in enumerate(sequences):
        place = slice(longest - len(sequence), None) if side == "left" else slice(len(sequence))
        ids[row, place] = torch.tensor(sequence)
        mask[row, place] = 1
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs | {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if side == "left" else inputs


class LocalModel:
    """
    A model that judges, and its tokenizer.

    Args:
        model (`str` or `nn.Module`):
            Path or hub id, or the model itself.
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            By default it is loaded from where the model came from.
        auto_class, kind, model_kwargs:
            See [`load_model`]; for models given by path.
        device (`str` or `torch.device`, *optional*):
            Where the model judges. By default it stays where it is.
        offload (`bool`, *optional*, defaults to `False`):
            Whether it is on the CPU while it does not judge.
        tokens_per_batch (`int`, *optional*, defaults to `16384`):
            Most tokens of a forward, padding included. A longer text is alone in its forward.
        max_length (`int`, *optional*):
            Most tokens of a text. By default what the model's configuration says, if it does.
        chat_template_kwargs (`dict`, *optional*):
            Arguments of the chat template, such as `{"enable_thinking": False}`.

    Attributes:
        contexts_cut (`int`): prompts that were cut to fit.
    """

    def __init__(
        self,
        model: str | nn.Module,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        *,
        auto_class: Any,
        kind: str,
        device: Any = None,
        offload: bool = False,
        tokens_per_batch: int = 16384,
        max_length: int | None = None,
        model_kwargs: dict[str, Any] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
    ):
        if offload and device is None:
            raise ValueError("`offload=True` needs a `device`, where the judge is put while it judges.")
        for name, value in {"tokens_per_batch": tokens_per_batch, "max_length": max_length}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be positive, got {value}.")
        self.path = model if isinstance(model, str) else None
        self.model_kwargs = model_kwargs or {}
        self.chat_template_kwargs = chat_template_kwargs or {}
        self.device, self.offload = device, offload
        self.tokens_per_batch = tokens_per_batch
        self.contexts_cut = 0
        if isinstance(model, str):
            start = "cpu" if offload else device
            model = load_model(auto_class, model, kind=kind, device=start, **self.model_kwargs)
        elif device is not None and not offload:
            model = model.to(device)
        self.model = model.eval()
        name = model.config._name_or_path
        self.name = self.path or name or type(model).__name__
        if tokenizer is None and not name:
            raise ValueError(
                f"The judge model {type(model).__name__} was not loaded from a path, so its tokenizer is unknown; "
                f"pass it as `tokenizer` (of a reward model, as `reward_processing_classes`)."
            )
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = load_tokenizer(tokenizer or self.path or name, self.model_kwargs)
        self.tokenizer = tokenizer
        self.max_length = max_length or getattr(model.config.get_text_config(), "max_position_embeddings", None)
        forward = (model.get_base_model() if hasattr(model, "get_base_model") else model).forward
        self._takes_positions = "position_ids" in inspect.signature(forward).parameters

    @property
    def identity(self) -> str | None:
        """
        What the outputs depend on, as JSON; `None` for a model that was given as an object. Weights in a folder are
        known by their files' sizes and times, those from the hub by their commit.
        """
        if self.path is None:
            return None
        files = sorted(file for kind in ("*.safetensors", "*.bin") for file in Path(self.path).glob(kind))
        return json.dumps(
            [
                os.path.abspath(self.path) if files else self.path,
                getattr(self.model.config, "_commit_hash", None),
                [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files],
                {key: value for key, value in self.model_kwargs.items() if key != "token"},
                [self.tokenizer.name_or_path, self.tokenizer.chat_template, self.chat_template_kwargs],
                self.max_length,
            ],
            sort_keys=True,
            default=repr,
        )

    def render(self, messages: list[Message], **options) -> str:
        """The chat template's text of a conversation."""
        return self.tokenizer.apply_chat_template(messages, tokenize=False, **self.chat_template_kwargs, **options)

    @functools.cached_property
    def takes_system(self) -> bool:
        """Whether the chat template writes a system message, alone and before others; some refuse or drop it."""
        turns = [{"role": role, "content": f"{PROBE}{role}"} for role in ("system", "user", "assistant")]
        try:
            return all(turns[0]["content"] in self.render(turns[:count]) for count in (1, 3))
        except (TemplateError, ValueError, KeyError, IndexError):
            return False

    def fits(self, ids: list[int]) -> bool:
        return self.max_length is None or len(ids) <= self.max_length

    def fit(
        self, messages: list[Message], encode: Callable[[list[Message]], list[int]]
    ) -> tuple[list[int], list[Message]] | None:
        """
        Token ids that fit and the messages that they are of, which are cut from the left as far as needed.

        Args:
            messages (`list[dict]`): The prompt, which begins with a user's turn.
            encode (`Callable`): Token ids of the whole question, given the messages that are left.

        Returns:
            `tuple[list[int], list[dict]]`, or `None` if nothing is left to cut.
        """
        rest: list[Message] | None = messages
        while rest is not None:
            ids = encode(rest)
            if self.fits(ids):
                if rest is not messages:
                    self._count_cut()
                return ids, rest
            rest = cut_left(rest, len(ids) - self.max_length, self.tokenizer)
        return None

    def _count_cut(self) -> None:
        if not self.contexts_cut:
            logger.warning(
                "Judge prompts are cut from the left where a question has more than %d tokens.", self.max_length
            )
        self.contexts_cut += 1

    def run(
        self, sequences: list[list[int]], forward: Callable[..., torch.Tensor], padding_side: str = "left"
    ) -> list[torch.Tensor]:
        """
        Outputs of the model, in batches of rows of similar length.

        Args:
            sequences (`list[list[int]]`):
                Token ids of each row.
            forward (`Callable`):
                `forward(rows, **inputs)` runs `self.model` on a batch: `rows` are the indices of its sequences,
                `inputs` what [`pad`] returns. Its result has a row for each.
            padding_side (`str`, *optional*, defaults to `"left"`):
                With `"left"` the last position of a batch is the last token of every row.

        Returns:
            `list[torch.Tensor]`: one for each sequence, float32 on the CPU.
        """
        outputs: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
        with on_device(self.model, self.device, self.offload), torch.inference_mode():
            device = next(self.model.parameters()).device
            for rows in batches([len(sequence) for sequence in sequences], self.tokens_per_batch):
                inputs = pad([sequences[row] for row in rows], padding_side)
                if not self._takes_positions:
                    inputs.pop("position_ids", None)
                inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
                for row, output in zip(rows, forward(rows, **inputs).float().cpu(), strict=True):
                    outputs[row] = output
        return outputs
