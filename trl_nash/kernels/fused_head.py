# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The kernel as the head of a causal language model, with the protocol of TRL's `add_fused_lm_head`.

TRL's own head would score prompts and padding on devices without Triton, and ignore an adapter on `lm_head`.
"""

import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .logprob import LoRA, linear_logprob
from .op import gathered


IGNORED = -100  # the label of positions that are not scored


@dataclass
class FusedHeadOutput(ModelOutput):
    """What `model(..., labels=labels, fused_lm_head=True)` returns."""

    log_probs: Tensor | None = None  # (R, T - 1) of the labels behind the first, 0 where they are -100


def add_fused_head(model: PreTrainedModel, temperature: float = 1.0, **options: Any) -> None:
    """
    Lets `model(..., labels=labels, fused_lm_head=True)` return log-probs of the labels instead of logits.

    Only positions whose next label is not -100 reach the head. Without `fused_lm_head=True` the model is as it was.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A causal language model, before PEFT wraps it.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of the log-probs.
        options:
            Of [`linear_logprob`]: `stash_bytes`, `workspace_bytes`, `backend`.
    """
    original = model.forward
    config = model.config.get_text_config()
    scaling = {"logit_scale": logit_scale(config), "softcap": getattr(config, "final_logit_softcapping", None)}

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self, *args, fused_lm_head=False, labels=None, **kwargs):
        if not fused_lm_head:
            return original(*args, **kwargs) if labels is None else original(*args, labels=labels, **kwargs)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state[:, :-1]
        # Looked up at every call: PEFT and FSDP put other modules and tensors there.
        weight, bias, lora = head_parts(self.get_output_embeddings())
        with gathered(weight, bias, *(lora or ())[:2]):
            weight, bias = whole(weight), whole(bias)
            targets = labels[:, 1:].to(weight.device)
            log_probs = linear_logprob(
                hidden.to(weight.device),
                weight,
                targets,
                bias=bias,
                lora=lora and LoRA(whole(lora.a), whole(lora.b), lora.scale),
                mask=targets != IGNORED,
                temperature=temperature,
                **scaling,
                **options,
            )
        return FusedHeadOutput(log_probs=log_probs)

    model.forward = types.MethodType(forward, model)


def logit_scale(config: PreTrainedConfig) -> float:
    """What a model multiplies its logits by, which its config calls by one of several names."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere, Muse Glimmer, Falcon-H1
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    if getattr(config, "logits_scaling", None) is not None:
        # Granite and MiniCPM3 divide, HyperCLOVA X multiplies.
        return config.logits_scaling if config.model_type == "hyperclovax" else 1 / config.logits_scaling
    return 1.0


def head_parts(head: nn.Module) -> tuple[Tensor, Tensor | None, LoRA | None]:
    """
    Weight, bias and adapter of an output head, as they count at this moment.

    Raises:
        `ValueError`: if the head is more than a linear layer with LoRA.
    """
    if hasattr(head, "modules_to_save"):  # PEFT's copy of the whole head
        head = head.original_module if head.disable_adapters else head.modules_to_save[head.active_adapter]
    lora = None
    if hasattr(head, "lora_A"):
        if any(head.lora_variant.get(name) or head.lora_bias.get(name) for name in head.active_adapters):
            raise ValueError("DoRA, biases and other variants of LoRA on the output head are not supported: use LoRA.")
        if not (head.disable_adapters or head.merged):
            names = [name for name in head.active_adapters if name in head.lora_A]
            a = [head.lora_A[name].weight for name in names]
            b = [head.lora_B[name].weight for name in names]
            if len(names) == 1:
                lora = LoRA(a[0], b[0], head.scaling[names[0]])
            elif names:
                scaled = [factor * head.scaling[name] for factor, name in zip(b, names, strict=True)]
                lora = LoRA(torch.cat(a), torch.cat(scaled, dim=1))
        head = head.get_base_layer()
    if type(head).__module__.startswith("peft.") or not getattr(head, "weight", torch.empty(0)).is_floating_point():
        raise ValueError(
            f"The output head is a {type(head).__name__}, of which log-probs cannot be taken without logits: leave "
            "`lm_head` out of quantisation, and of adapters other than LoRA."
        )
    return head.weight, getattr(head, "bias", None), lora


def whole(parameter: Tensor | None) -> Tensor | None:
    """A parameter that FSDP2 has not taken apart."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
