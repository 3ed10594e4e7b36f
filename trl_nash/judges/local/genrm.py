# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Generative judges: models that reason in words and end with a verdict, on this machine or behind a server."""

import hashlib
import json
import re
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from ..base import Abstained, PairwiseJudge, Prompt
from ..questions.families import FAMILIES, family_of
from ..questions.template import QuestionTemplate
from ..questions.text import PROBE, Message, Neutraliser, as_messages
from ..questions.verdicts import mean_verdict
from ..servers.openai_api import OpenAIJudge
from ..store import as_store
from .model import LocalModel, batches, on_device, pad


class GenRMJudge(PairwiseJudge):
    r"""
    A generative reward model: it is asked in its family's own form, samples `votes` answers, and the mean of their
    verdicts is the probability. With `model@http://host:port/v1` the same is asked of a server, by the
    [`OpenAIJudge`] that [`genrm_judge`] returns.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Path or hub id of a causal language model with a chat template, or the model itself.
        family (`str`, *optional*):
            A key of `judges.questions.families.FAMILIES`; by default the one that the model's name tells.
        prompt (`str`, *optional*):
            The question, if not the family's: as of [`OpenAIJudge`].
        verdict_pattern (`str` or `dict`, *optional*):
            How a verdict is found, if not as the question says.
        votes (`int`, *optional*, defaults to 1):
            Answers to each question. One is the most likely answer, several are sampled. Where fewer than half of them
            have a verdict, the question abstains; an answer that is cut has none.
        temperature (`float`, *optional*), top_p (`float`, *optional*), max_tokens (`int`, *optional*):
            How answers are sampled, and their most tokens, thinking included. By default as the family says.
        tokenizer, order, max_length, tokens_per_batch, device, model_kwargs, chat_template_kwargs, cache, offload:
            As of [`PairwiseLMJudge`]. `max_length` is that of question and answer together; `tokens_per_batch`
            counts all votes of a question.

    Raises:
        `ValueError`: If the name tells no family, an argument is out of its range, or the tokenizer has no chat
        template, or one that drops the roles of the question.

    Example:

    ```python
    >>> judge = GenRMJudge("gaotang/RM-R1-Qwen2.5-Instruct-7B", votes=8, device="cuda")
    ```
    """

    def __init__(
        self,
        model: str | nn.Module,
        *,
        family: str | None = None,
        prompt: str | None = None,
        verdict_pattern: Any = None,
        votes: int = 1,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        order: str = "both",
        max_length: int | None = None,
        tokens_per_batch: int = 16384,
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        cache: Any = None,
        offload: bool = False,
    ):
        name = model if isinstance(model, str) else model.config._name_or_path
        self.prompt, self.sampling = settings(
            name, family, prompt, verdict_pattern, votes, temperature, top_p, max_tokens
        )
        if self.prompt.columns:
            raise ValueError(
                f"The prompt {prompt!r} uses the column {self.prompt.columns[0]!r}; `openai:` takes those."
            )
        self.votes, self.order, self.cache = votes, order, as_store(cache)
        self.local = LocalModel(
            model,
            tokenizer,
            auto_class=AutoModelForCausalLM,
            kind="a causal language model",
            device=device,
            offload=offload,
            tokens_per_batch=tokens_per_batch,
            max_length=max_length,
            model_kwargs=model_kwargs,
            chat_template_kwargs=chat_template_kwargs,
        )
        self.tokenizer = self.local.tokenizer
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"The tokenizer of the judge {self.local.name} has no chat template, which its question is written "
                f"with; set `tokenizer.chat_template`, or pass the `tokenizer` of a chat model."
            )
        if self.local.max_length is not None:
            self.local.max_length -= self.sampling["max_tokens"]  # the answer has to fit behind the question
            if self.local.max_length < 1:
                raise ValueError(
                    f"`max_tokens` of the judge {self.local.name} is {self.sampling['max_tokens']}, which leaves no "
                    f"room for a question before the answer; lower it, or raise `max_length`."
                )
        self.neutralise = Neutraliser(self.tokenizer)
        question = self.render("", f"{PROBE}1", f"{PROBE}2")
        if f"{PROBE}1" not in question or f"{PROBE}2" not in question:
            raise ValueError(
                f"The chat template of the judge {self.local.name} does not write messages of the roles "
                f"{', '.join(self.prompt.roles)}; pass the `tokenizer` of the family, or another `family`."
            )
        ends = self.local.model.generation_config.eos_token_id
        self._ends = [ends] if isinstance(ends, int) else list(ends or [])

    @property
    def description(self) -> str:
        return f"genrm:{self.local.name}"

    @property
    def identity(self) -> str | None:
        if self.local.identity is None:
            return None
        source = [self.prompt.source, repr(self.prompt.pattern and self.prompt.pattern.regex)]
        return json.dumps(["genrm", self.local.identity, source, self.votes, self.sampling])

    def render(self, prompt: Prompt, first: str, second: str) -> str:
        """All that the model reads for a question, up to where its answer begins."""
        return self._render(self.neutralise.messages(as_messages(prompt)), first, second)

    def _render(self, messages: list[Message], first: str, second: str) -> str:
        question = self.prompt.render(messages, self.neutralise(first), self.neutralise(second), mode="text")
        return self.local.render(question, add_generation_prompt=True)

    def judge(self, prompts, first, second):
        sequences = [self._fitted(*question) for question in zip(prompts, first, second, strict=True)]
        rows = [row for row, ids in enumerate(sequences) if ids is not None]
        answers: list[float] = [Abstained("too long")] * len(sequences)
        for row, texts in zip(rows, self.sample([sequences[row] for row in rows]), strict=True):
            verdict = mean_verdict([self._read(text) for text in texts])
            answers[row] = Abstained("unparsable") if verdict is None else verdict
        return answers

    def _fitted(self, prompt: Prompt, first: str, second: str) -> list[int] | None:
        messages = self.neutralise.messages(as_messages(prompt))
        fitted = self.local.fit(messages, lambda rest: self._encode(self._render(rest, first, second)))
        return fitted and fitted[0]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _read(self, text: str | None) -> float | None:
        if text is None:
            return Abstained("cut")
        return self.prompt.read({"message": {"content": text}}, "text")

    def sample(self, sequences: list[list[int]]) -> list[list[str | None]]:
        """
        Answers to questions, which are the same in every run.

        Args:
            sequences (`list[list[int]]`): Token ids of each question.

        Returns:
            `list[list[str | None]]`: `votes` answers to each; `None` for one that did not end.
        """
        model, texts = self.local.model, [[] for _ in sequences]
        lengths = [(len(ids) + self.sampling["max_tokens"]) * self.votes for ids in sequences]
        with on_device(model, self.local.device, self.local.offload), torch.inference_mode():
            device = next(model.parameters()).device
            devices = [device] if device.type == "cuda" else []
            for rows in batches(lengths, self.local.tokens_per_batch):
                inputs = pad([sequences[row] for row in rows], "left")
                inputs = {name: inputs[name].to(device) for name in ("input_ids", "attention_mask")}
                with torch.random.fork_rng(devices):  # the training run's own goes on as if nobody judged
                    torch.manual_seed(seed_of([sequences[row] for row in rows]))
                    ids = model.generate(**inputs, **self._generation()).cpu()
                answers = ids[:, inputs["input_ids"].shape[1] :].tolist()
                for place, answer in enumerate(answers):
                    texts[rows[place // self.votes]].append(self._decode(answer))
        return texts

    def _generation(self) -> dict[str, Any]:
        """Arguments of `generate`: what the model's own file says of sampling is set back."""
        common = {"max_new_tokens": self.sampling["max_tokens"], "pad_token_id": self._ends[0] if self._ends else 0}
        if self.votes == 1 and not self.sampling["temperature"]:
            return {**common, "do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        options = {"temperature": self.sampling["temperature"], "top_p": self.sampling["top_p"], "top_k": 0}
        return {**common, **options, "do_sample": True, "num_return_sequences": self.votes}

    def _decode(self, ids: list[int]) -> str | None:
        end = next((place for place, token in enumerate(ids) if token in self._ends), None)
        return None if end is None else self.tokenizer.decode(ids[:end], skip_special_tokens=True)


def settings(
    model: str, family, prompt, verdict_pattern, votes, temperature, top_p, max_tokens
) -> tuple[QuestionTemplate, dict[str, Any]]:
    """The question of a generative judge, and how its answers are sampled."""
    if prompt is not None and family is not None:
        raise ValueError(f"Pass `family` ({family!r}) or `prompt` ({prompt!r}) of the generative judge, not both.")
    key = None if prompt is not None else family_of(model, family)
    preset = FAMILIES[key] if key else FAMILIES["rm-r1-instruct"]
    if votes < 1:
        raise ValueError(f"`votes` is a number of answers, 1 or more; got {votes}.")
    temperature = (preset.temperature if votes > 1 else 0.0) if temperature is None else temperature
    top_p = preset.top_p if top_p is None else top_p
    max_tokens = preset.max_tokens if max_tokens is None else max_tokens
    if temperature < 0 or (votes > 1 and not temperature):
        raise ValueError(
            f"`temperature` must be positive for several votes, and 0 or more for one; got {temperature}."
        )
    if not 0 < top_p <= 1 or max_tokens < 1:
        raise ValueError(f"`top_p` is in (0, 1] and `max_tokens` is 1 or more; got {top_p} and {max_tokens}.")
    question = QuestionTemplate(prompt or key, verdict_pattern)
    return question, {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}


def genrm_judge(
    model: str | nn.Module,
    *,
    base_url: str | None = None,
    family: str | None = None,
    prompt: str | None = None,
    verdict_pattern: Any = None,
    votes: int = 1,
    temperature: float | None = None,
    top_p: float | None = None,
    max_tokens: int | None = None,
    device: Any = None,
    **kwargs,
) -> PairwiseJudge:
    """
    A generative judge by name: here ([`GenRMJudge`]), or with `model@http://host:port/v1` or `base_url` behind a
    server ([`OpenAIJudge`]). The other arguments are theirs.
    """
    if base_url is None and not (isinstance(model, str) and re.search("@https?://", model)):
        options = dict(votes=votes, temperature=temperature, top_p=top_p, max_tokens=max_tokens, device=device)
        return GenRMJudge(model, family=family, prompt=prompt, verdict_pattern=verdict_pattern, **options, **kwargs)
    name = model.partition("@")[0]
    _, sampling = settings(name, family, prompt, verdict_pattern, votes, temperature, top_p, max_tokens)
    return OpenAIJudge(
        model,
        base_url=base_url,
        prompt=prompt or family_of(name, family),
        verdict_pattern=verdict_pattern,
        mode="text",
        votes=votes,
        request={**sampling, **kwargs.pop("request", {})},
        **kwargs,
    )


def seed_of(sequences: list[list[int]]) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(sequences).encode()).digest()[:7])
