# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the policy-gradient methods share: completions of vLLM are weighted, because its policy is not quite ours."""

from dataclasses import dataclass, field

import torch

from ..objectives import IMPORTANCE_MODES, importance_weights
from ..rounds.batch import PairBatch
from .checks.values import check_choice
from .config import NashConfig


@dataclass
class PolicyGradientConfig(NashConfig):
    r"""
    Options of the methods whose gradient is an expectation under the policy, [`NashMDTrainer`] and
    [`NashProxTrainer`].

    Parameters:
        vllm_importance_sampling_correction (`bool`, *optional*, defaults to `True`):
            Whether completions that vLLM has sampled are weighted with `π(y)/q(y)`, q being what vLLM says it has
            sampled from: with other kernels and types it is not quite the policy. Without `use_vllm` there is nothing
            to correct.
        vllm_importance_sampling_mode (`str`, *optional*, defaults to `"sequence_truncate"`):
            `"sequence_truncate"` has one weight a completion, cut to the bounds; `"sequence_mask"`, GRPO's default,
            one that is 0 outside the bounds; `"token_truncate"` and `"token_mask"` have one for each token.
        vllm_importance_sampling_clip_max (`float`, *optional*, defaults to `3.0`):
            Upper bound of the weights.
        vllm_importance_sampling_clip_min (`float`, *optional*):
            Lower bound of the weights.

    The other parameters are those of [`NashConfig`]. The gradient is on-policy: a round is one optimizer step.
    """

    vllm_importance_sampling_correction: bool = field(
        default=True, metadata={"help": "Weight vLLM's completions with how likely the policy makes them."}
    )
    vllm_importance_sampling_mode: str = field(
        default="sequence_truncate",
        metadata={"help": "How these weights are bounded.", "choices": list(IMPORTANCE_MODES)},
    )
    vllm_importance_sampling_clip_max: float | None = field(
        default=3.0, metadata={"help": "Upper bound of these weights."}
    )
    vllm_importance_sampling_clip_min: float | None = field(
        default=None, metadata={"help": "Lower bound of these weights."}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.fit_held_out:
            raise ValueError(
                f"`fit_held_out={self.fit_held_out:g}` has no meaning in {type(self).__name__}: a policy gradient "
                "fits no margins, so there is nothing to hold prompts out of. Leave it out."
            )
        check_choice("vllm_importance_sampling_mode", self.vllm_importance_sampling_mode, IMPORTANCE_MODES)
        least, most = self.vllm_importance_sampling_clip_min, self.vllm_importance_sampling_clip_max
        if least is not None and most is not None and least >= most:
            raise ValueError(
                f"`vllm_importance_sampling_clip_min` ({least:g}) must be less than "
                f"`vllm_importance_sampling_clip_max` ({most:g})."
            )

    def importance(self, logps: torch.Tensor, batch: PairBatch) -> torch.Tensor | float:
        """The weights of completions of vLLM, given the log-probs of their tokens, of shape (B * K, T - 1)."""
        if not self.vllm_importance_sampling_correction:
            return 1.0
        return importance_weights(
            logps.detach() - batch.sampled_logps,
            self.vllm_importance_sampling_mode,
            self.vllm_importance_sampling_clip_min,
            self.vllm_importance_sampling_clip_max,
        )
