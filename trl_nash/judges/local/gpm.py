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

import torch
from safetensors import safe_open
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from ..base import Abstained, PairwiseJudge, Prompt, joined
from ..questions.text import Message, Neutraliser, as_messages
from ..store import as_store
from .model import LocalModel


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
        chat_template_kwargs (`dict`, *optional*):
            Arguments of the chat template, such as `{"enable_thinking": False}`.
        cache (`bool`, `str` or [`JudgementStore`], *optional*):
            Where answers are kept: `True` for the default store, or a path.
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
        chat_template_kwargs: dict[str, Any] | None = None,
        cache: Any = None,
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
            chat_template_kwargs=chat_template_kwargs,
        )
        self.cache = as_store(cache)
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
    def description(self) -> str:
        return f"gpm:{self.local.name}"

    @property
    def identity(self) -> str | None:
        return json.dumps(["gpm", self.local.identity, self.temperature])

    def judge(self, prompts, first, second):
        embeddings = self.embed([*prompts, *prompts], [*first, *second])
        pairs = zip(embeddings[: len(prompts)], embeddings[len(prompts) :], strict=True)
        return [preference(a, b, self.temperature) for a, b in pairs]

    def embed(self, prompts: list[Prompt], completions: list[str]) -> list[tuple[torch.Tensor, torch.Tensor] | None]:
        """
        Embeddings v of shape (2k,) and weights λ of shape (k,) of each completion; `None` for those that are too long.
        Rows that are alike are embedded once.
        """
        rows = list(zip(prompts, completions, strict=True))
        keys = [json.dumps(row, default=id) for row in rows]
        codes = {key: self.encode(*row) for key, row in dict(zip(keys, rows, strict=True)).items()}
        encoded = [codes[key] for key in keys]
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
        """
        Token ids of prompt and completion, and the index of the last token of the prompt's first turn, which may be
        the system's. A prompt that must be cut, or whose template knows no system, has it in the user's first turn.
        """
        answer = {"role": "assistant", "content": self.neutralise(completion)}
        if not isinstance(prompt, str) and self.local.takes_system:
            whole = self.neutralise.messages(joined(prompt))
            ids = self._tokens([*whole, answer])
            if self.local.fits(ids):
                return self._ended(ids, whole)
        messages = self.neutralise.messages(as_messages(prompt))
        if (fitted := self.local.fit(messages, lambda rest: self._tokens([*rest, answer]))) is None:
            return None
        return self._ended(*fitted)

    def _ended(self, ids: list[int], messages: list[Message]) -> tuple[list[int], int]:
        ids[-1] = self.tokenizer.eos_token_id
        return ids, len(self._tokens(messages[:1])) - 1

    def _tokens(self, messages: list[Message]) -> list[int]:
        return self.tokenizer(self.local.render(messages))["input_ids"]


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
