# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The few tokens on which a policy is measured."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ...kernels.fused_head import IGNORED, FusedHead, logits_of
from ...policies import is_peft_model, without_checkpointing
from .noise import random_state


_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
FEW = 0.1  # of all parameters are trained at most, where a prompt is read once for its completions


class Sample:
    """Two completions of each of two prompts, and the log-probs that a model gives to their 16 tokens."""

    COMPLETIONS = 2

    def __init__(self, model: nn.Module, head: FusedHead, accelerator: Accelerator):
        self.model, self.head, self.home = model, head, accelerator.device
        base = accelerator.unwrap_model(model)
        self.base = base.get_base_model() if is_peft_model(base) else base
        self.device = next(self.base.parameters()).device
        self.autocast = _AUTOCAST.get(accelerator.mixed_precision)
        self.drew = False  # whether the last forward drew random numbers
        self.largest = 0.0  # of the last own logits / T, in absolute value
        vocabulary = self.base.config.get_text_config().vocab_size
        ids = torch.arange(1, 29).view(4, 7) * 7919 % vocabulary
        ids[1, :3], ids[3, :1] = ids[0, :3], ids[2, :1]  # prompts of 3 tokens and of 1
        mask = torch.ones_like(ids)
        mask[1, 5:] = mask[3, 6:] = 0
        labels = ids.masked_fill(mask == 0, IGNORED)
        labels[:2, :3] = labels[2:, :1] = IGNORED
        self.ids, self.mask, self.labels = (t.to(self.device) for t in (ids, mask, labels))

    def own(self) -> Tensor:
        """Log-probs by the model's own forward."""
        logits = logits_of(self._forward(use_cache=False))[:, :-1].float() / self.head.temperature
        self.largest = logits.masked_fill(~logits.isfinite(), 0.0).abs().max().item()
        targets = self.labels[:, 1:].to(logits.device)
        logps = logits.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        return logps[targets != IGNORED]

    def fused(self) -> Tensor:
        """Log-probs by the fused head."""
        logps = self._forward(labels=self.labels, fused_lm_head=True, num_completions=self.COMPLETIONS).log_probs
        return logps[(self.labels[:, 1:] != IGNORED).to(logps.device)]

    def shared(self) -> Tensor:
        """The same with each prompt read once."""
        before, self.head.shares_prompts = self.head.shares_prompts, True
        try:
            with without_checkpointing(self.base):
                return self.fused()
        finally:
            self.head.shares_prompts = before

    @property
    def single_forward(self) -> str | None:
        """
        Why a prompt and what follows it may not be two forwards before a backward: the gradient of a parameter waits
        for both of its parts, as much memory again as what is trained takes.
        """
        if self.base.num_parameters(only_trainable=True) > FEW * self.base.num_parameters():
            return f"more than {FEW:.0%} of its parameters are trained"
        return None

    def precision(self) -> torch.autocast:
        """Within it the model computes as it is trained."""
        return torch.autocast(self.device.type, dtype=self.autocast, enabled=self.autocast is not None)

    def _forward(self, **options) -> Any:
        before = random_state(self.home)
        with self.precision():
            output = self.model(input_ids=self.ids, attention_mask=self.mask, **options)
        self.drew = random_state(self.home) != before
        return output

    @property
    def tolerance(self) -> float:
        """
        What rounding does to a log-prob: the head's dtype rounds a product, a scale and a softcap of logits of this
        size, and fp32 adds products up.
        """
        weight = getattr(self.base.get_output_embeddings(), "weight", None)
        dtypes = [self.autocast, getattr(weight, "dtype", None)]
        rounding = max((torch.finfo(d).eps for d in dtypes if d is not None and d.is_floating_point), default=2**-8)
        if self.home.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
            rounding = max(rounding, 2**-10)
        return (4 * rounding + 64 * torch.finfo(torch.float32).eps) * (1 + self.largest)
