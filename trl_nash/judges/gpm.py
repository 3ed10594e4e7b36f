# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
General Preference embedding models ([paper](https://huggingface.co/papers/2410.02197)): a completion y of a prompt x
is a unit vector v(y) of 2k numbers, and

$$ P(a \succ b) = \sigma\left(\frac{1}{\tau} \sum_{i=1}^k \lambda_i(x) \,
   \big(v_{2i-1}(a) v_{2i}(b) - v_{2i}(a) v_{2i-1}(b)\big)\right). $$

The sum is ⟨R v(a), v(b)⟩ with a block-skew R, so that P is antisymmetric but, unlike that of a reward model, can be
cyclic. Every completion costs one forward, whatever the number of pairs.
"""

import json
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from .base import Abstained, PairwiseJudge, Prompt
from .local import LocalModel
from .text import Message, Neutraliser, as_messages, cut_left


class GPMJudge(PairwiseJudge):
    """
    A General Preference model such as general-preference/GPM-Llama-3.1-8B.

    Its weights are those of a language model and of one or two linear layers without bias: `value_head.weight` of
    shape (2k, hidden size) maps the last token's state to v, and `prompt_head.weight` of shape (k, hidden size), if
    there, the state at the end of the prompt's first turn to λ (its softmax; 1 otherwise).

    Texts are the chat template's render, tokenised with the special tokens that the tokenizer adds (with Llama 3 a
    second beginning of sequence) and with the last token replaced by end of sequence: so the models were trained.

    Args:
        model (`str`):
            Path or hub id.
        temperature (`float`, *optional*, defaults to `0.1`):
            τ, as in training.
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            By default it is loaded from where the model came from.
        max_length (`int`, *optional*):
            Most tokens of prompt and completion, the model's limit by default. Longer prompts are cut from the left
            and counted in `local.contexts_cut`; where that is not enough the judge abstains. Completions are never
            cut.
        tokens_per_batch (`int`, *optional*, defaults to `16384`):
            Most tokens of a forward, padding included.
        device (`str` or `torch.device`, *optional*):
            Where the model judges.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained`, such as `dtype` or `load_in_4bit`. The two heads are never quantised.
        offload (`bool`, *optional*, defaults to `False`):
            Whether the model is on the CPU while it does not judge.

    Raises:
        `ValueError`: If weights are missing or have other shapes, or the tokenizer has no chat template.
    """

    symmetric = True

    def __init__(
        self,
        model: str,
        *,
        temperature: float = 0.1,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        tokens_per_batch: int = 16384,
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
        offload: bool = False,
    ):
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        self.local = LocalModel(
            model,
            tokenizer,
            auto_class=AutoModel,
            kind="a General Preference model",
            device=device,
            offload=offload,
            tokens_per_batch=tokens_per_batch,
            max_length=max_length,
            model_kwargs=model_kwargs,
        )
        self.tokenizer = self.local.tokenizer
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"The judge's tokenizer {self.tokenizer.name_or_path} has no chat template; set "
                f"`tokenizer.chat_template` to that of the model's training."
            )
        self.temperature = temperature
        self.neutralise = Neutraliser(self.tokenizer)
        heads = load_tensors(model, ["value_head.weight", "prompt_head.weight"], (model_kwargs or {}).get("revision"))
        self.value_head, self.prompt_head = heads
        if self.value_head is None or len(self.value_head) % 2:
            shape = "missing" if self.value_head is None else f"of shape {tuple(self.value_head.shape)}"
            raise ValueError(
                f"{model} is not a General Preference model: `value_head.weight` is {shape}, it has an even number of "
                f"rows. A reward model with one number per completion is a `reward` judge."
            )

    @property
    def identity(self) -> str | None:
        return json.dumps(["gpm", self.local.identity, self.temperature])

    def judge(self, prompts, first, second):
        return [row[0] for row in self._preferences(prompts, list(zip(first, second, strict=True)), [(0, 1)])]

    def compare(self, prompts, completions, pairs, *, columns=None, completion_ids=None, trainer_state=None):
        """As [`PairwiseJudge.compare`], but every completion is embedded once, whatever the number of pairs."""
        preferences = self._preferences(prompts, completions, pairs)
        self.tally.asked += sum(map(len, preferences))
        for texts, row in zip(completions, preferences, strict=True):
            self.tally.add_verdicts(p for p, (i, j) in zip(row, pairs, strict=True) if texts[i] != texts[j])
        return np.array(preferences, dtype=np.float64).reshape(len(prompts), len(pairs))

    def _preferences(self, prompts, completions, pairs) -> list[list[float]]:
        """One row for each prompt, one number for each pair."""
        rows = [(prompt, text) for prompt, texts in zip(prompts, completions, strict=True) for text in texts]
        embeddings = iter(self.embed([prompt for prompt, _ in rows], [text for _, text in rows]))
        preferences = []
        for texts in completions:
            group = [next(embeddings) for _ in texts]
            preferences.append([preference(group[i], group[j], self.temperature) for i, j in pairs])
        return preferences

    def embed(self, prompts: list[Prompt], completions: list[str]) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """
        Embeddings v of shape (2k,) and weights λ of shape (k,) of each completion; `None` for those that are too long.
        """
        encoded = [self.encode(*row) for row in zip(prompts, completions, strict=True)]
        unique = list(dict.fromkeys((tuple(ids), end) for ids, end in filter(None, encoded)))
        outputs = self.local.run(
            [list(ids) for ids, _ in unique],
            lambda rows, **inputs: self._forward(
                torch.tensor([len(unique[r][0]) - unique[r][1] for r in rows]), inputs
            ),
        )
        size = len(self.value_head)
        found = {text: (output[:size], output[size:]) for text, output in zip(unique, outputs, strict=True)}
        return [found[tuple(text[0]), text[1]] if text is not None else None for text in encoded]

    def _forward(self, from_end: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """v and λ side by side, (rows, 3k); `from_end` counts the tokens from the end of a prompt to the last one."""
        hidden = self.local.model(**inputs, use_cache=False).last_hidden_state
        last = hidden[:, -1].float()  # left padding
        values = F.normalize(last @ self.value_head.to(last).T, dim=-1)
        if self.prompt_head is None:
            return torch.cat([values, torch.ones_like(values[:, ::2])], dim=-1)
        rows = torch.arange(len(hidden), device=hidden.device)
        prompts = hidden[rows, hidden.shape[1] - from_end.to(hidden.device)].float()
        return torch.cat([values, torch.softmax(prompts @ self.prompt_head.to(prompts).T, dim=-1)], dim=-1)

    def encode(self, prompt: Prompt, completion: str) -> tuple[list[int], int] | None:
        """Token ids of prompt and completion, and the index of the last token of the prompt's first turn."""
        messages, completion = self.neutralise.messages(as_messages(prompt)), self.neutralise(completion)
        cut = False
        while messages is not None:
            ids = self._tokens([*messages, {"role": "assistant", "content": completion}])
            if self.local.max_length is None or len(ids) <= self.local.max_length:
                if cut:
                    self.local.count_cut()
                ids[-1] = self.tokenizer.eos_token_id
                return ids, len(self._tokens(messages[:1])) - 1
            messages, cut = cut_left(messages, len(ids) - self.local.max_length, self.tokenizer), True
        return None

    def _tokens(self, messages: list[Message]) -> list[int]:
        return self.tokenizer(self.tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"]


def preference(a: tuple | None, b: tuple | None, temperature: float) -> float:
    """P(a ≻ b) of two completions of one prompt, given as (v, λ); see the equation above."""
    if a is None or b is None:
        return Abstained("too long")
    (v, weights), (w, _) = ((x.double(), y.double()) for x, y in (a, b))
    score = (weights * (v[0::2] * w[1::2] - v[1::2] * w[0::2])).sum()
    return torch.sigmoid(score / temperature).item()


def load_tensors(path: str, names: list[str], revision: str | None = None) -> list[torch.Tensor | None]:
    """Tensors out of a model's safetensors files, `None` for those that it does not have."""
    options = {"revision": revision or "main", "_raise_exceptions_for_missing_entries": False}
    index = cached_file(path, "model.safetensors.index.json", **options)
    if index is not None:
        with open(index, encoding="utf-8") as file:
            files = json.load(file)["weight_map"]
    else:
        files = dict.fromkeys(names, "model.safetensors")
    tensors = []
    for name in names:
        tensor = None
        if name in files:
            with safe_open(cached_file(path, files[name], **options), framework="pt") as file:
                tensor = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118, it is no dict
        tensors.append(tensor)
    return tensors
