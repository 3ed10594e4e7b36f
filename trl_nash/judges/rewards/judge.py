# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Bradley-Terry judges: `P(a ≻ b) = σ((r(a) - r(b)) / temperature)`, with r a reward function, a reward model, or TRL's
weighted sum of several. Such a judge is transitive: its Nash equilibrium is the ordinary optimum of r.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..base import Abstained, PairwiseJudge, Prompt, accepted, as_floats, joined
from ..calls import pairs_of_each, required
from ..store import as_store
from ..transcript import messages_of
from .model import RewardModel


RewardFunc = str | nn.Module | Callable[..., list[float | None]]


class RewardJudge(PairwiseJudge):
    r"""
    A judge made of rewards, which mean what they mean in [`~trl.experimental.online_dpo.OnlineDPOTrainer`].

    Args:
        reward_funcs (`str`, [`~transformers.PreTrainedModel`], `Callable` or a `list` of these):
            Path or hub id of a sequence classifier, the model itself, or a function
            `f(prompts, completions, completion_ids, trainer_state, **columns) -> list[float | None]`, called with
            those of these keywords that it takes. For conversational prompts its completions are
            `[{"role": "assistant", "content": text}]`, and those of dialogues all messages behind the prompt. Several
            are summed; `None` adds nothing to the sum, and a completion for which all return `None` has no reward: its
            pairs are `nan`.
        reward_processing_classes ([`~transformers.PreTrainedTokenizerBase`] or a `list`, *optional*):
            Tokenizers of the reward models, in the order of `reward_funcs` (`None` for functions). By default each is
            loaded from where its model came from.
        reward_weights (`list[float]`, *optional*):
            Weight of each reward in the sum. All 1 by default.
        temperature (`float`, *optional*, defaults to `1.0`):
            What reward differences are divided by, in units of the reward.
        missing_eos_penalty (`float`, *optional*):
            Positive number subtracted from the reward of completions that never say end of sequence.
        eos_token_ids (`list[int]`, *optional*):
            The policy's end-of-sequence tokens. Required with `missing_eos_penalty`.
        max_length (`int`, *optional*):
            Most tokens of prompt and completion that a reward model reads, by default the model's limit. Longer
            prompts are cut from the left and counted in `local.contexts_cut` of the [`RewardModel`]; where that is not
            enough the judge abstains, whatever the other rewards. Completions are never cut.
        tokens_per_batch (`int`, *optional*, defaults to `16384`):
            Most tokens of a forward of a reward model, padding included.
        device (`str` or `torch.device`, *optional*):
            Where to move the reward models. By default they stay where they are.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` for models given by path, such as `dtype`, `revision`,
            `trust_remote_code` or `load_in_4bit`.
        chat_template_kwargs (`dict`, *optional*):
            Arguments of the models' chat templates, such as `{"enable_thinking": False}`.
        reward_token (`int`, *optional*):
            For language models whose reward is a logit of the token behind the dialogue: which token's. Known of
            Nemotron's reward models by their names.
        raw_prompts (`bool`, *optional*, defaults to `False`):
            Whether models read a prompt that is a string as it is, with the completion right behind it, as TRL's
            trainers do. By default it is one turn of the user.
        cache (`bool`, `str` or [`JudgementStore`], *optional*):
            Where preferences are kept: `True` for the default store, or a path. Only if all rewards are models given
            by path and there is no `missing_eos_penalty`, which looks at tokens.
        offload (`bool`, *optional*, defaults to `False`):
            Whether the models are on the CPU while they do not judge.

    Raises:
        `ValueError`: If lengths do not match, a number is out of its range, a model has more than one label, or the
        tokenizer of a model cannot be found.
    """

    symmetric = True

    def __init__(
        self,
        reward_funcs: RewardFunc | list[RewardFunc],
        *,
        reward_processing_classes: PreTrainedTokenizerBase | list[PreTrainedTokenizerBase | None] | None = None,
        reward_weights: list[float] | None = None,
        temperature: float = 1.0,
        missing_eos_penalty: float | None = None,
        eos_token_ids: list[int] | None = None,
        max_length: int | None = None,
        tokens_per_batch: int = 16384,
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
        chat_template_kwargs: dict[str, Any] | None = None,
        reward_token: int | None = None,
        raw_prompts: bool = False,
        cache: Any = None,
        offload: bool = False,
    ):
        reward_funcs = reward_funcs if isinstance(reward_funcs, list) else [reward_funcs]
        tokenizers = reward_processing_classes
        if not isinstance(tokenizers, list):
            tokenizers = [tokenizers] if tokenizers is not None else [None] * len(reward_funcs)
        weights = [1.0] * len(reward_funcs) if reward_weights is None else reward_weights
        if not reward_funcs:
            raise ValueError("`reward_funcs` is an empty list; pass at least one reward function or model.")
        for argument, values in {"reward_processing_classes": tokenizers, "reward_weights": weights}.items():
            if len(values) != len(reward_funcs):
                raise ValueError(f"`{argument}` has {len(values)} entries for {len(reward_funcs)} `reward_funcs`.")
        if temperature <= 0:
            raise ValueError(f"`temperature` must be positive, got {temperature}.")
        if missing_eos_penalty is not None and missing_eos_penalty <= 0:
            raise ValueError(f"`missing_eos_penalty` is subtracted and must be positive, got {missing_eos_penalty}.")
        if missing_eos_penalty is not None and not eos_token_ids:
            raise ValueError("`missing_eos_penalty` needs `eos_token_ids`, the policy's end-of-sequence tokens.")

        self.reward_funcs = [
            RewardModel(
                func,
                tokenizer,
                max_length=max_length,
                tokens_per_batch=tokens_per_batch,
                device=device,
                model_kwargs=model_kwargs,
                chat_template_kwargs=chat_template_kwargs,
                reward_token=reward_token,
                raw_prompts=raw_prompts,
                offload=offload,
            )
            if isinstance(func, str | nn.Module)
            else func
            for func, tokenizer in zip(reward_funcs, tokenizers, strict=True)
        ]
        for func in self.reward_funcs:
            if not callable(func):
                raise TypeError(f"`reward_funcs` takes functions, models and paths of models; got {func!r}.")
        self.reward_weights = np.array(weights, dtype=np.float64)
        self.temperature = temperature
        self.raw_prompts = raw_prompts
        self.reward_token = reward_token
        self.cache = as_store(cache)
        self.missing_eos_penalty = missing_eos_penalty
        self.eos_token_ids = frozenset(eos_token_ids or ())

    @property
    def description(self) -> str:
        return f"{self.name} of {', '.join(getattr(f, '__name__', type(f).__name__) for f in self.reward_funcs)}"

    @property
    def identity(self) -> str | None:
        models = [func.local.identity if isinstance(func, RewardModel) else None for func in self.reward_funcs]
        if None in models or self.missing_eos_penalty is not None:
            return None
        return json.dumps(
            ["reward", models, self.reward_weights.tolist(), self.temperature, self.raw_prompts, self.reward_token]
        )

    @property
    def needs(self) -> frozenset[str]:
        named = frozenset().union(*(required(func, positional=0) for func in self.reward_funcs))
        return named - {"prompts", "completions", "completion_ids", "trainer_state"}

    def __call__(self, prompts, first, second, **columns):
        # Columns that no reward function takes must not make two questions different.
        taken = {name for func in self.reward_funcs for name in accepted(func, columns, positional=0)}
        return super().__call__(prompts, first, second, **{name: columns[name] for name in taken})

    def judge(self, prompts, first, second, **columns):
        pairs = list(zip(first, second, strict=True))
        return [row[0] for row in self._preferences(prompts, pairs, [(0, 1)], columns=columns)]

    def compare(self, prompts, completions, pairs, *, columns=None, completion_ids=None, trainer_state=None):
        """As [`PairwiseJudge.compare`], but every completion is scored once, whatever the number of pairs."""
        if self.cache is not None:  # pair by pair; what is left to models is each text once, too
            return super().compare(prompts, completions, pairs, columns=columns)
        preferences = self._preferences(
            prompts, completions, pairs, columns=columns, completion_ids=completion_ids, trainer_state=trainer_state
        )
        asked = pairs_of_each(pairs, len(prompts))
        for texts, row, own in zip(completions, preferences, asked.tolist(), strict=True):
            self.tally.add_verdicts(p for p, (i, j) in zip(row, own, strict=True) if texts[i] != texts[j])
        return np.array(preferences, dtype=np.float64).reshape(asked.shape[:2])

    def _preferences(
        self, prompts, completions, pairs, *, columns=None, completion_ids=None, trainer_state=None
    ) -> list[list[float]]:
        """One row for each prompt, one number for each pair."""

        def per_completion(values):
            return [value for value, group in zip(values, completions, strict=True) for _ in group]

        totals = self._totals(
            per_completion(prompts),
            [text for group in completions for text in group],
            columns={name: per_completion(values) for name, values in (columns or {}).items()},
            completion_ids=None if completion_ids is None else [ids for group in completion_ids for ids in group],
            trainer_state=trainer_state,
        )
        rewards = np.array(totals, dtype=np.float64).reshape(len(prompts), -1)
        asked = pairs_of_each(pairs, len(prompts))
        first, second = (np.take_along_axis(rewards, asked[..., side], axis=1) for side in (0, 1))
        preferences = sigmoid((first - second) / self.temperature).tolist()
        if not np.isnan(rewards).any():
            return preferences
        groups = np.array(totals, dtype=object).reshape(rewards.shape)
        return [
            [
                next((reward for reward in (group[i], group[j]) if isinstance(reward, Abstained)), p)
                for p, (i, j) in zip(row, own, strict=True)
            ]
            for row, group, own in zip(preferences, groups, asked.tolist(), strict=True)
        ]

    def rewards(
        self,
        prompts: list[Prompt],
        completions: list[str],
        *,
        columns: dict[str, list] | None = None,
        completion_ids: list[list[int]] | None = None,
        trainer_state: Any = None,
    ) -> np.ndarray:
        """
        Total reward of each completion.

        Args:
            prompts (`list[str]` or `list[list[dict]]`): R prompts, one for each completion.
            completions (`list[str]`): R completions.
            columns (`dict[str, list]`, *optional*): The dataset's other columns, R values each.
            completion_ids (`list[list[int]]`, *optional*): Token ids of the completions, without padding.
            trainer_state ([`~transformers.TrainerState`], *optional*): Passed on to reward functions.

        Returns:
            `np.ndarray`: float64 of shape (R,), in units of the reward; `nan` where every reward function abstained,
            or the text was too long for a model.

        Raises:
            `ValueError`: If a reward function does not return R numbers (or `None`), or `completion_ids` is missing
            though there is a `missing_eos_penalty`.
        """
        totals = self._totals(
            prompts, completions, columns=columns, completion_ids=completion_ids, trainer_state=trainer_state
        )
        return np.array(totals, dtype=np.float64)

    def _totals(self, prompts, completions, *, columns, completion_ids, trainer_state) -> list[float]:
        """As [`~RewardJudge.rewards`], with the reasons of abstentions."""
        prompts = [joined(prompt) for prompt in prompts]
        keywords = {
            **(columns or {}),
            "prompts": prompts,
            "completions": [
                text if type(text) is str and isinstance(prompt, str) else messages_of(text)
                for prompt, text in zip(prompts, completions, strict=True)
            ],
            "completion_ids": completion_ids,
            "trainer_state": trainer_state,
        }
        answers = [
            as_floats(
                func(**accepted(func, keywords, positional=0)),
                count=len(prompts),
                source=f"The reward function {getattr(func, '__name__', type(func).__name__)}",
            )
            for func in self.reward_funcs
        ]
        scores = np.array(answers, dtype=np.float64)  # (number of reward functions, R)
        totals = np.nansum(scores * self.reward_weights[:, None], axis=0)
        totals[np.isnan(scores).all(axis=0)] = np.nan
        if self.missing_eos_penalty is not None:
            if completion_ids is None:
                raise ValueError("`missing_eos_penalty` needs the `completion_ids` of what is judged.")
            unfinished = np.array([self.eos_token_ids.isdisjoint(ids) for ids in completion_ids])
            totals[unfinished] -= self.missing_eos_penalty
        return [
            next((answer for answer in row if isinstance(answer, Abstained)), total)
            for row, total in zip(zip(*answers, strict=True), totals.tolist(), strict=True)
        ]


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # nan is an abstention, no accident
        smaller = np.exp(-np.logaddexp(0.0, np.abs(x)))  # exact in the tail, no overflow
    return np.where(x < 0, smaller, 1.0 - smaller)  # that of x and of -x add up to 1 to the last bit
