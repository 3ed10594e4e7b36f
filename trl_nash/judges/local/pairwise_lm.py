# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Local language models as judges: one forward, in which the model is about to say which completion is better, and
`P(first ≻ second) = softmax` over the two tokens that it can say. Nothing is sampled.
"""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import torch
from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from ..base import Abstained, PairwiseJudge, Prompt
from ..questions.text import PROBE, Message, Neutraliser, as_messages
from ..store import as_store
from .model import LocalModel


TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE_OF = {"pair-preference-model": "rlhflow", "offsetbias": "offsetbias"}  # what is in a model's name


class PairwiseLMJudge(PairwiseJudge):
    r"""
    A language model that was trained to compare two completions, such as RLHFlow/pair-preference-model-LLaMA3-8B
    ([INPO](https://huggingface.co/papers/2407.00617)'s judge) or NCSOFT/Llama-3-OffsetBias-8B
    ([COMAL](https://huggingface.co/papers/2410.23223)'s), or any instruct model.

    How much of the probability of its answer the two labels have is in `tally.label_mass`: near 1 for a model that
    understood the question.

    Args:
        model (`str` or [`~transformers.PreTrainedModel`]):
            Path or hub id of a causal language model with a chat template, or the model itself.
        template (`str`, *optional*):
            How the question is written: `"rlhflow"`, `"offsetbias"`, `"plain"`, or the path of a Jinja file of your
            own. By default it is that of the model's training for the two models above, which are known by their
            names, and `"plain"` for others. A file gets `messages` (the prompt, which begins with a user's turn),
            `first` and `second`, and writes the user's turn to the judge. In it may be set: `labels`, the answers that
            mean that the first and that the second is better; `delimiters`, texts that must not occur in completions;
            `prefill`, the beginning of the answer; and `bos = false`, to leave the beginning-of-sequence token away.
        labels (`tuple[str, str]`, *optional*):
            The two answers, a token each; by default those of the template.
        tokenizer (`str` or [`~transformers.PreTrainedTokenizerBase`], *optional*):
            By default it is loaded from where the model came from.
        order (`str`, *optional*, defaults to `"both"`):
            `"both"`, `"random"` or `"fixed"`, see [`PairwiseJudge`].
        temperature (`float`, *optional*, defaults to `1.0`):
            What the logits are divided by.
        max_length (`int`, *optional*):
            Most tokens of a question, the model's limit by default. Longer prompts are cut from the left and counted
            in `local.contexts_cut`; where that is not enough the judge abstains. Completions are never cut.
        tokens_per_batch (`int`, *optional*, defaults to `16384`):
            Most tokens of a forward, padding included.
        device (`str` or `torch.device`, *optional*):
            Where the model judges. By default it stays where it is.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` if the model is given by path, such as `dtype` or `load_in_4bit`.
        chat_template_kwargs (`dict`, *optional*):
            Arguments of the chat template, such as `{"enable_thinking": False}` for a model that would think first.
        cache (`bool`, `str` or [`JudgementStore`], *optional*):
            Where answers are kept: `True` for the default store, or a path. Only for models given by path.
        offload (`bool`, *optional*, defaults to `False`):
            Whether the model is on the CPU while it does not judge.

    Raises:
        `ValueError`: If there is no such template, the tokenizer has no chat template, or one that does not end with
        the assistant's header, or a label is not a single token.

    Example:

    ```python
    >>> judge = PairwiseLMJudge("RLHFlow/pair-preference-model-LLaMA3-8B", device="cuda")
    ```
    """

    def __init__(
        self,
        model: str | nn.Module,
        *,
        template: str | None = None,
        labels: tuple[str, str] | list[str] | None = None,
        tokenizer: str | PreTrainedTokenizerBase | None = None,
        order: str = "both",
        temperature: float = 1.0,
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
        question = template and Template(template)  # which may be wrong, and costs less to find out than a model
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
        self.template = question or Template(template_for(self.local.name))
        self.tokenizer = self.local.tokenizer
        check_chat_template(self.local)
        self._bos = "" if self.template.bos else text_begins_with(self.local)
        self.order = order
        self.cache = as_store(cache)
        self.temperature = temperature
        self.neutralise = Neutraliser(self.tokenizer, self.template.delimiters)
        self.labels = labels or self.template.labels
        if not isinstance(self.labels, list | tuple) or len(self.labels) != 2:
            raise ValueError(
                f"`labels` are the two answers of the template {self.template.name!r}, got {self.labels!r}; pass "
                f'them, or `{{% set labels = ["A", "B"] %}}` in the template.'
            )
        self.label_ids = self._label_ids()

    @property
    def description(self) -> str:
        return f"pairwise-lm:{self.local.name}"

    @property
    def identity(self) -> str | None:
        if self.local.identity is None:
            return None
        return json.dumps(["pairwise-lm", self.local.identity, self.template.source, self.labels, self.temperature])

    def render(self, prompt: Prompt, first: str, second: str) -> str:
        """All that the model reads for a question, up to where its answer begins."""
        messages = self.neutralise.messages(as_messages(prompt))
        return self._render(messages, self.neutralise(first), self.neutralise(second))

    def _render(self, messages: list[Message], first: str, second: str) -> str:
        question = [{"role": "user", "content": self.template.render(messages, first, second)}]
        text = self.local.render(question, add_generation_prompt=True)
        return text.removeprefix(self._bos) + self.template.prefill

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def _label_ids(self) -> list[int]:
        """The tokens of the labels, as the model would write them behind a question."""
        question = self.render("", "", "")
        (before,) = self._encode([question])
        ids = []
        for label in self.labels:
            (after,) = self._encode([question + label])
            if len(after) != len(before) + 1 or after[:-1] != before or after[-1] == self.tokenizer.unk_token_id:
                raise ValueError(
                    f"The answer {label!r} is no single token of the judge's tokenizer; pass two `labels` that are."
                )
            ids.append(after[-1])
        if ids[0] == ids[1]:
            raise ValueError(f"The `labels` {list(self.labels)} must be different.")
        return ids

    def judge(self, prompts, first, second):
        questions = list(zip(prompts, first, second, strict=True))
        sequences = [
            ids if self.local.fits(ids) else self._cut(*question)
            for ids, question in zip(self._encode([self.render(*row) for row in questions]), questions, strict=True)
        ]
        rows = [row for row, ids in enumerate(sequences) if ids is not None]
        logits = self.local.run([sequences[row] for row in rows], self._label_logits)
        answers: list[float] = [Abstained("too long")] * len(questions)
        for row, (a, b, every) in zip(rows, logits, strict=True):
            self.tally.add_label_mass((torch.exp(a - every) + torch.exp(b - every)).item())
            answers[row] = torch.sigmoid((a - b).double() / self.temperature).item()
        return answers

    def _cut(self, prompt: Prompt, first: str, second: str) -> list[int] | None:
        """Token ids of a question whose prompt is cut until it fits, `None` if that is not enough."""
        messages = self.neutralise.messages(as_messages(prompt))
        first, second = self.neutralise(first), self.neutralise(second)
        fitted = self.local.fit(messages, lambda rest: self._encode([self._render(rest, first, second)])[0])
        return fitted and fitted[0]

    def _label_logits(self, rows: list[int], **inputs) -> torch.Tensor:
        # Left padding: the last position is that of the answer in every row, and needs the only logits.
        logits = self.local.model(**inputs, logits_to_keep=1, use_cache=False).logits[:, -1].float()
        return torch.cat([logits[:, self.label_ids], logits.logsumexp(-1, keepdim=True)], dim=-1)


def template_for(name: str) -> str:
    """The template of a model by its name."""
    return next((template for part, template in TEMPLATE_OF.items() if part in name.lower()), "plain")


def text_begins_with(local: LocalModel) -> str:
    """The token that begins a text, if it begins texts alone: in some models it begins every turn."""
    bos = local.tokenizer.bos_token or ""
    turns = local.render([{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}])
    return bos if bos and turns.count(bos) == 1 else ""


def check_chat_template(local: LocalModel) -> None:
    """Raises unless a rendered conversation can end where the assistant begins to speak."""
    tokenizer = local.tokenizer
    name = tokenizer.name_or_path or "that was given"
    if tokenizer.chat_template is None:
        raise ValueError(
            f"The judge's tokenizer {name} has no chat template, which its question is written with; set "
            f"`tokenizer.chat_template`, or pass the `tokenizer` of a chat model."
        )
    asked = [{"role": "user", "content": "?"}]
    answered = [*asked, {"role": "assistant", "content": PROBE}]
    ends = [local.render(asked, add_generation_prompt=flag) for flag in (True, False)]
    before_answer = local.render(answered).partition(PROBE)[0]
    if ends[0] == ends[1] and ends[0] != before_answer:
        raise ValueError(
            f"The chat template of the judge's tokenizer {name} ignores `add_generation_prompt`: its questions would "
            f"not end with the assistant's header. Pass a `tokenizer` whose template does."
        )


class Template:
    """A question to a judge as a Jinja template, and what it sets beside it; see [`PairwiseLMJudge`]."""

    def __init__(self, name: str):
        path = TEMPLATES / f"{name}.jinja"
        if not path.is_file():
            path = Path(name)
        if not path.is_file():
            known = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(
                f"Unknown template {name!r}{f', did you mean {near[0]!r}?' if near else '.'} There are "
                f"{', '.join(known)}; anything else is the path of a Jinja file."
            )
        self.name, self.source = name, path.read_text(encoding="utf-8")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
        example = {"messages": [{"role": "user", "content": ""}], "first": f"{PROBE}1", "second": f"{PROBE}2"}
        try:
            self._template = environment.from_string(self.source)
            settings = self._template.make_module(example)
        except TemplateError as error:
            raise ValueError(f"The template {path} is no question to a judge: {error}.") from error
        if missing := [name for name in ("first", "second") if example[name] not in str(settings)]:
            raise ValueError(f"The template {path} does not use `{missing[0]}`, one of the two completions.")
        self.labels = getattr(settings, "labels", None)
        self.delimiters = getattr(settings, "delimiters", [])
        if words := [text for text in self.delimiters if not re.search(r"[^\w\s]", text)]:
            raise ValueError(
                f"The `delimiters` {words} of the template {path} have no punctuation, which is what they lose in "
                f"completions; use marks such as '[RESPONSE A]'."
            )
        self.prefill = getattr(settings, "prefill", "")
        self.bos = getattr(settings, "bos", True)

    def render(self, messages: list[Message], first: str, second: str) -> str:
        return self._template.render(messages=messages, first=first, second=second)
