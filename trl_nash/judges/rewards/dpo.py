# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Implicit rewards: the preference that a policy holds, against the policy that it was trained from."""

import json
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from ...kernels.fused_head import IGNORED, FusedHead
from ..base import Abstained, Prompt
from ..local.model import LocalModel, pad
from ..questions.text import Message, Neutraliser
from ..store import as_store
from .judge import RewardJudge
from .model import turns


class ImplicitReward:
    r"""
    `beta * (log π(y | x) - log π_ref(y | x))` of a completion with the end of its turn, as a reward function: eq. 5 of
    [DPO](https://huggingface.co/papers/2305.18290) without its constant, which no preference depends on.

    Args:
        policy, reference ([`~judges.local.model.LocalModel`]): Causal language models with one tokenizer's vocabulary.
        beta (`float`): Units of the reward.

    Raises:
        `ValueError`: If they have different vocabularies, or no chat template.
    """

    def __init__(self, policy: LocalModel, reference: LocalModel, beta: float):
        self.policy, self.reference, self.beta = policy, reference, beta
        self.tokenizer = policy.tokenizer
        self.__name__ = f"dpo:{policy.name},{reference.name}"
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"The tokenizer of the policy {policy.name} has no chat template; set `tokenizer.chat_template` to "
                f"that of its training."
            )
        if self.tokenizer.get_vocab() != reference.tokenizer.get_vocab():
            raise ValueError(
                f"The policy {policy.name} and its reference {reference.name} have different vocabularies; log-ratios "
                f"need the same tokens."
            )
        self.neutralise = Neutraliser(self.tokenizer)  # a completion cannot end its turn, or begin another

    def __call__(self, prompts: list[Prompt], completions: list[str | list[Message]]) -> list[float]:
        rows = [self._encode(*row) for row in zip(prompts, completions, strict=True)]
        fits = [row for row, (ids, _) in enumerate(rows) if self.policy.fits(ids) and self.reference.fits(ids)]
        rewards: list[float] = [Abstained("too long")] * len(rows)
        some = [rows[row] for row in fits]
        for row, p, q in zip(fits, self._logps(self.policy, some), self._logps(self.reference, some), strict=True):
            rewards[row] = self.beta * (p - q)
        return rewards

    def _encode(self, prompt: Prompt, completion: str | list[Message]) -> tuple[list[int], int]:
        """Token ids of a dialogue, and how many of them are the prompt's."""
        answer = self.neutralise(completion if isinstance(completion, str) else completion[0]["content"])
        before = self.policy.render(turns(prompt), add_generation_prompt=True)
        whole = self.policy.render([*turns(prompt), {"role": "assistant", "content": answer}])
        if not whole.startswith(before):  # a template that writes more where an answer begins, such as empty thinking
            whole = before + answer + (self.tokenizer.eos_token or "")
        prompt_ids, ids = self.tokenizer([before, whole], add_special_tokens=False)["input_ids"]
        same = next((i for i, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), len(prompt_ids))
        return ids, min(same, len(ids))

    def _logps(self, local: LocalModel, rows: list[tuple[list[int], int]]) -> list[float]:
        """log π(y | x) of each row, by the kernel that policies are trained with."""
        head = FusedHead(type(local.model).forward, temperature=1.0, options={})
        labels = [[IGNORED] * start + ids[start:] for ids, start in rows]

        def forward(batch: list[int], *, input_ids: torch.Tensor, **inputs) -> torch.Tensor:
            padded = pad([labels[row] for row in batch], "right")
            wanted = padded["input_ids"].masked_fill(padded["attention_mask"] == 0, IGNORED).to(input_ids.device)
            return head.log_probs(local.model, wanted, input_ids=input_ids, **inputs).double().sum(-1)

        outputs = local.run([ids for ids, _ in rows], forward, padding_side="right")
        return [output.item() for output in outputs]


class DPOJudge(RewardJudge):
    r"""
    The preference that a policy holds implicitly: `P(a ≻ b) = σ(r(a) - r(b))` with the reward
    `r = beta * (log π(y | x) - log π_ref(y | x))`, as [DPO](https://huggingface.co/papers/2305.18290) fits it.

    Args:
        policy (`str` or [`~transformers.PreTrainedModel`]):
            The policy, or `policy,reference` in one string.
        reference (`str` or [`~transformers.PreTrainedModel`], *optional*):
            What it was trained from.
        beta (`float`, *optional*, defaults to 0.1):
            That of its training.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Of both; loaded from where each came from by default.
        temperature, max_length, tokens_per_batch, device, model_kwargs, chat_template_kwargs, cache, offload:
            As of [`RewardJudge`]. What does not fit into `max_length` abstains.

    Raises:
        `ValueError`: If there is no reference, `beta` is not positive, or the two have different vocabularies.

    Example:

    ```python
    >>> judge = load_judge("dpo:HuggingFaceH4/zephyr-7b-beta,HuggingFaceH4/mistral-7b-sft-beta", beta=0.1)
    ```
    """

    def __init__(
        self,
        policy: str | nn.Module,
        reference: str | nn.Module | None = None,
        *,
        beta: float = 0.1,
        tokenizer: PreTrainedTokenizerBase | None = None,
        temperature: float = 1.0,
        max_length: int | None = None,
        tokens_per_batch: int = 16384,
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        cache: Any = None,
        offload: bool = False,
    ):
        if reference is None and isinstance(policy, str):
            policy, _, reference = policy.partition(",")
        if reference is None or reference == "" or policy == "":
            raise ValueError(
                "The judge `dpo` needs a policy and its reference, as `dpo:POLICY,REFERENCE` or the argument "
                "`reference`."
            )
        if beta <= 0:
            raise ValueError(f"`beta` must be positive, got {beta}.")
        models = [
            LocalModel(
                model,
                tokenizer,
                auto_class=AutoModelForCausalLM,
                kind=kind,
                device=device,
                offload=offload,
                tokens_per_batch=tokens_per_batch,
                max_length=max_length,
                model_kwargs=model_kwargs,
                chat_template_kwargs=chat_template_kwargs,
            )
            for model, kind in ((policy, "the policy of `dpo`"), (reference, "the reference of `dpo`"))
        ]
        self.beta = beta
        self._implicit = ImplicitReward(models[0], models[1], beta)
        super().__init__(self._implicit, temperature=temperature)
        self.cache = as_store(cache)

    @property
    def identity(self) -> str | None:
        models = [self._implicit.policy.identity, self._implicit.reference.identity]
        return None if None in models else json.dumps(["dpo", models, self.beta, self.temperature])
