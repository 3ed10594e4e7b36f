# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Bradley-Terry judges: `P(a ≻ b) = σ((r(a) - r(b)) / temperature)`, with r a reward function, a reward model, or TRL's
weighted sum of several. Such a judge is transitive: its Nash equilibrium is the ordinary optimum of r.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from .base import PairwiseJudge, Prompt, accepted, as_floats
from .local import check_offload, load_model, load_tokenizer, on_device
from .text import Neutraliser


RewardFunc = str | nn.Module | Callable[..., list[float | None]]


class RewardJudge(PairwiseJudge):
    r"""
    A judge made of rewards, which mean what they mean in [`~trl.experimental.online_dpo.OnlineDPOTrainer`].

    Args:
        reward_funcs (`str`, [`~transformers.PreTrainedModel`], `Callable` or a `list` of these):
            Path or hub id of a sequence classifier, the model itself, or a function
            `f(prompts, completions, completion_ids, trainer_state, **columns) -> list[float | None]`, called with
            those of these keywords that it takes. For conversational prompts its completions are
            `[{"role": "assistant", "content": text}]`. Several are summed; `None` adds nothing to the sum, and a
            completion for which all return `None` has no reward: its pairs are `nan`.
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
        batch_size (`int`, *optional*, defaults to `16`):
            Completions in one forward of a reward model.
        device (`str` or `torch.device`, *optional*):
            Where to move the reward models. By default they stay where they are.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` for models given by path, such as `dtype`, `revision`,
            `trust_remote_code` or `load_in_4bit`.
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
        batch_size: int = 16,
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
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
                func, tokenizer, batch_size=batch_size, device=device, model_kwargs=model_kwargs, offload=offload
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
        self.missing_eos_penalty = missing_eos_penalty
        self.eos_token_ids = frozenset(eos_token_ids or ())

    def judge(self, prompts, first, second, **columns):
        return self.compare(prompts, list(zip(first, second, strict=True)), [(0, 1)], columns=columns)[:, 0]

    def compare(self, prompts, completions, pairs, *, columns=None, completion_ids=None, trainer_state=None):
        """As [`PairwiseJudge.compare`], but every completion is scored once, whatever the number of pairs."""

        def per_completion(values):
            return [value for value, group in zip(values, completions, strict=True) for _ in group]

        rewards = self.rewards(
            per_completion(prompts),
            [text for group in completions for text in group],
            columns={name: per_completion(values) for name, values in (columns or {}).items()},
            completion_ids=None if completion_ids is None else [ids for group in completion_ids for ids in group],
            trainer_state=trainer_state,
        ).reshape(len(prompts), -1)
        first, second = np.array(pairs, dtype=int).reshape(-1, 2).T
        return sigmoid((rewards[:, first] - rewards[:, second]) / self.temperature)

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
            `np.ndarray`: float64 of shape (R,), in units of the reward; `nan` where every reward function abstained.

        Raises:
            `ValueError`: If a reward function does not return R numbers (or `None`), or `completion_ids` is missing
            though there is a `missing_eos_penalty`.
        """
        keywords = {
            **(columns or {}),
            "prompts": prompts,
            "completions": [
                text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
                for prompt, text in zip(prompts, completions, strict=True)
            ],
            "completion_ids": completion_ids,
            "trainer_state": trainer_state,
        }
        scores = np.array(
            [
                as_floats(
                    func(**accepted(func, keywords, positional=0)),
                    count=len(prompts),
                    source=f"The reward function {getattr(func, '__name__', type(func).__name__)}",
                )
                for func in self.reward_funcs
            ]
        )  # (number of reward functions, R)
        totals = np.nansum(scores * self.reward_weights[:, None], axis=0)
        totals[np.isnan(scores).all(axis=0)] = np.nan
        if self.missing_eos_penalty is not None:
            if completion_ids is None:
                raise ValueError("`missing_eos_penalty` needs the `completion_ids` of what is judged.")
            unfinished = np.array([self.eos_token_ids.isdisjoint(ids) for ids in completion_ids])
            totals[unfinished] -= self.missing_eos_penalty
        return totals


class RewardModel:
    """
    A sequence classifier with its own tokenizer as a reward function.

    Args:
        model (`str` or `nn.Module`):
            Path or hub id, or the model itself. The reward is its only logit.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            The model's tokenizer; loaded from where the model came from by default.
        batch_size (`int`, *optional*, defaults to `16`):
            Completions in one forward.
        device (`str` or `torch.device`, *optional*):
            Where to move the model.
        model_kwargs (`dict`, *optional*):
            Arguments of `from_pretrained` if the model is given by path.
        offload (`bool`, *optional*, defaults to `False`):
            Whether the model is on the CPU while it does not judge.
    """

    def __init__(self, model, tokenizer=None, *, batch_size=16, device=None, model_kwargs=None, offload=False):
        check_offload(offload, device)
        model_kwargs = model_kwargs or {}
        if isinstance(model, str):
            model = load_model(
                AutoModelForSequenceClassification,
                model,
                kind="a reward model, a sequence classifier with one label",
                device="cpu" if offload else device,
                **{"num_labels": 1, "ignore_mismatched_sizes": True, **model_kwargs},
            )
        elif device is not None and not offload:
            model = model.to(device)
        self.__name__ = model.config._name_or_path or type(model).__name__
        if model.config.num_labels != 1:
            raise ValueError(
                f"The reward model {self.__name__} ({type(model).__name__}) has {model.config.num_labels} labels; a "
                f"reward model is a sequence classifier with one (`num_labels=1`)."
            )
        if tokenizer is None:
            if not model.config._name_or_path:
                raise ValueError(
                    f"The reward model {self.__name__} was not loaded from a path, so its tokenizer is unknown; pass "
                    f"it as `reward_processing_classes`."
                )
            tokenizer = load_tokenizer(model.config._name_or_path, model_kwargs)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        # The classifier finds the last token of each row, whose logit is the reward, by the padding after it.
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        self.model = model.eval()
        self.device, self.offload = device, offload
        self.tokenizer = tokenizer
        self.neutralise = Neutraliser(tokenizer)  # a completion cannot end its turn, or begin another
        self.batch_size = batch_size

    def __call__(self, prompts: list[Prompt], completions: list[str | list[dict[str, str]]]) -> list[float]:
        texts = [
            prompt + self.neutralise(completion)
            if isinstance(prompt, str)
            else self.tokenizer.apply_chat_template(prompt + self.neutralise.messages(completion), tokenize=False)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        rewards: dict[str, float] = {}
        unique = sorted(dict.fromkeys(texts), key=len)  # texts of one length together need little padding
        with on_device(self.model, self.device, self.offload), torch.inference_mode():
            device = next(self.model.parameters()).device
            for start in range(0, len(unique), self.batch_size):
                batch = unique[start : start + self.batch_size]
                inputs = self.tokenizer(
                    batch, padding=True, padding_side="right", add_special_tokens=False, return_tensors="pt"
                ).to(device)
                logits = self.model(**inputs).logits[:, 0].tolist()
                rewards.update(zip(batch, logits, strict=True))
        return [rewards[text] for text in texts]


def sigmoid(x: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # nan is an abstention, no accident
        smaller = np.exp(-np.logaddexp(0.0, np.abs(x)))  # exact in the tail, no overflow
    return np.where(x < 0, smaller, 1.0 - smaller)  # that of x and of -x add up to 1 to the last bit
