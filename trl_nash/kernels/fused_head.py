# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The kernel as the head of a causal language model, with the protocol of TRL's `add_fused_lm_head`.

What the kernel is to compute is measured and not believed: the model's own forward runs with a stand-in for its output
layer, which keeps the hidden states that this would be given, and answers with a few numbers. What the model makes of
them is what it does to logits. So there is no list of architectures, or of the names that their configs have for it.

(TRL's own head would score prompts and padding on devices without Triton, and ignore an adapter on `lm_head`.)
"""

import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from ..policies import checkpointed_layers, inputs_behind, repeated_cache
from .logprob import LoRA, linear_logprob
from .op import gathered
from .shared_prompts import SharedPrompts


IGNORED = -100  # the label of positions that are not scored
_PROBES = (0.0, 1.0, -3.0, 10.0, 100.0, 1e30)  # logits of the stand-in; the last one is infinite for any softcap


@dataclass
class FusedHeadOutput(ModelOutput):
    """What `model(..., labels=labels, fused_lm_head=True)` returns."""

    log_probs: Tensor | None = None  # (R, T - 1) of the labels behind the first, 0 where they are -100


@dataclass
class FusedHead:
    """
    How `model(..., labels=labels, fused_lm_head=True)` takes its log-probs.

    Args:
        forward (`Callable`): the model's own forward, a function of the model.
        temperature (`float`): temperature of the log-probs.
        options (`dict`): of [`linear_logprob`].
        plain (`bool`, *optional*, defaults to `False`):
            Whether log-probs are taken from ordinary logits: the model's own, and more memory.
        shares_prompts (`bool`, *optional*, defaults to `False`):
            Whether the prompt of several completions is read once. It needs a cache, of which layers know nothing
            whose activations are computed again in the backward (gradient checkpointing).
    """

    forward: Callable
    temperature: float
    options: dict[str, Any]
    plain: bool = False
    shares_prompts: bool = False
    scaling: dict[str, Any] = field(default_factory=dict)  # of the logits, known from the first call on

    def log_probs(self, model: nn.Module, labels: Tensor, *args, num_completions: int = 1, **kwargs) -> Tensor:
        """
        Log-probs of the labels behind the first, 0 where they are -100, of shape `(R, T - 1)`; each `num_completions`
        rows are completions of one prompt, one behind the other, and padded on the right.
        """
        targets = labels[:, 1:]
        if self.plain:
            return self._from_logits(model, targets, *args, **kwargs)
        given = {name: value for name, value in kwargs.items() if value is not None}
        # Not where PEFT has put something in front of the tokens, or in the place of their embeddings.
        tokens_alone = not args and set(given) == {"input_ids", "attention_mask"}
        if num_completions > 1 and targets.size(1) and self.can_share_prompts(model) and tokens_alone:
            return self._from_shared_prompts(model, targets, num_completions, **given)
        return self._from_hidden(model, targets, *args, **kwargs, use_cache=False)

    def can_share_prompts(self, model: nn.Module) -> bool:
        """Whether a prompt is read once in the state in which the model is."""
        return self.shares_prompts and not (model.training and any(checkpointed_layers(model)))

    def _from_shared_prompts(
        self, model: nn.Module, targets: Tensor, count: int, input_ids: Tensor, attention_mask: Tensor
    ) -> Tensor:
        shared = SharedPrompts.of(input_ids, attention_mask, targets.to(input_ids.device), count, IGNORED)
        # With the signature that accelerate's forward of a `device_map` hides.
        call = functools.update_wrapper(functools.partial(self.forward, model), type(model).forward)
        with _headless(model) as hidden:
            logits, cache = repeated_cache(call, shared.prefix_ids, shared.prefix_mask, count)
            if cache is None:
                raise ValueError(f"The cache of {type(model).__name__} cannot be repeated.")
            call(**inputs_behind(call, shared.input_ids, shared.attention_mask, cache))
        ends, rest = hidden
        # FSDP2 fetches weights for the backward of a forward whose output is needed, as the prompt's last one is here.
        rows = torch.cat([ends[:, -1:].repeat_interleave(count, 0), rest], 1)
        return shared.spread(self._scored(model, logits, rows, shared.targets), targets.size(1))

    def _from_logits(self, model: nn.Module, targets: Tensor, *args, **kwargs) -> Tensor:
        wanted = targets != IGNORED
        if "logits_to_keep" in inspect.signature(self.forward).parameters and wanted.any():
            # The prompt's columns; the last one has no label.
            kwargs["logits_to_keep"] = targets.size(1) + 1 - int(wanted.any(0).nonzero()[0])
        logits = logits_of(self.forward(model, *args, **kwargs, use_cache=False))[:, :-1]
        log_probs = torch.zeros(targets.shape, dtype=torch.float32, device=logits.device)
        wanted, targets = wanted.to(logits.device), targets.to(logits.device)
        rows = (logits[wanted[:, -logits.size(1) :]].float() / self.temperature).log_softmax(-1)
        log_probs[wanted] = rows.gather(-1, targets[wanted][:, None])[:, 0]
        return log_probs

    def _from_hidden(self, model: nn.Module, targets: Tensor, *args, **kwargs) -> Tensor:
        with _headless(model) as hidden:
            logits = logits_of(self.forward(model, *args, **kwargs))
        if len(hidden) != 1:
            raise ValueError(f"The model calls its output layer {len(hidden)} times.")
        return self._scored(model, logits, hidden[0], targets)

    def _scored(self, model: nn.Module, logits: Tensor, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log-probs of targets from hidden states, of a model without whose head `logits` are what they are."""
        self.scaling = self.scaling or _scaling(logits.flatten(0, -2)[0].tolist())
        # Looked up at every call: PEFT puts other modules there, and FSDP other tensors, after the layers have run.
        weight, bias, lora = head_parts(model.get_output_embeddings())
        with gathered(weight, bias, *(lora or ())[:2]):
            weight, bias = whole(weight), whole(bias)
            assert weight is not None
            targets = targets.to(weight.device)
            return linear_logprob(
                hidden[:, : targets.size(1)].to(weight.device),
                weight,
                targets,
                bias=bias,
                lora=lora and LoRA(whole(lora.a), whole(lora.b), lora.scale),
                mask=targets != IGNORED,
                temperature=self.temperature,
                **self.scaling,
                **self.options,
            )


def add_fused_head(model: PreTrainedModel, temperature: float = 1.0, **options: Any) -> FusedHead:
    """
    Lets `model(..., labels=labels, fused_lm_head=True)` return log-probs of the labels instead of logits.

    Only positions whose next label is not -100 reach the head. Without `fused_lm_head=True` the model is as it was.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            A causal language model, without PEFT's wrapper.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of the log-probs.
        options:
            Of [`linear_logprob`]: `stash_bytes`, `workspace_bytes`, `backend`.

    Returns:
        [`FusedHead`]: how the log-probs are taken.
    """
    head = FusedHead(_unbound_forward(model), temperature, options)

    @functools.wraps(type(model).forward)  # `generate` reads the signature
    def forward(self, *args, fused_lm_head=False, labels=None, **kwargs):
        if fused_lm_head:  # and `num_completions`
            return FusedHeadOutput(log_probs=head.log_probs(self, labels, *args, **kwargs))
        return (
            head.forward(self, *args, **kwargs)
            if labels is None
            else head.forward(self, *args, labels=labels, **kwargs)
        )

    model.forward = types.MethodType(forward, model)
    return head


def _unbound_forward(model: nn.Module) -> Callable:
    """The forward that a model has at present, as a function of a model: a copy of the model is then its own."""
    forward = model.forward
    if inspect.ismethod(forward):
        return forward.__func__
    if isinstance(forward, functools.partial) and forward.args == (model,):  # accelerate's, of a `device_map`
        return forward.func
    return lambda _, *args, **kwargs: forward(*args, **kwargs)


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returns, which may be a tuple."""
    return output[0] if isinstance(output, tuple) else output.logits


class _StandIn(nn.Module):
    """Takes the place of an output layer: keeps what it is given, and its logits are [`_PROBES`]."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.__dict__["head"] = head  # which is no part of this module
        self.given: list[Tensor] = []

    @property
    def weight(self) -> Tensor:
        return self.head.weight  # some models ask for its dtype

    def forward(self, hidden: Tensor) -> Tensor:
        self.given.append(hidden)
        return torch.tensor(_PROBES, device=hidden.device).repeat(*hidden.shape[:-1], 1)


@contextmanager
def _headless(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within it a stand-in is in the place of the output layer: the hidden states that it is given, call by call."""
    head = model.get_output_embeddings()
    parent, name = next((p, name) for p in model.modules() for name, child in p.named_children() if child is head)
    stand_in = _StandIn(head)
    setattr(parent, name, stand_in)
    try:
        yield stand_in.given
    finally:
        setattr(parent, name, head)


def _scaling(answer: list[float]) -> dict[str, float | None]:
    """
    `logit_scale` and `softcap`, from what a model makes of [`_PROBES`].

    Raises:
        `ValueError`: if it is another function.
    """
    softcap = abs(answer[-1]) if abs(answer[-1]) < 1e20 else None
    scale = answer[1] if softcap is None else softcap * math.atanh(answer[1] / softcap)
    for probe, found in zip(_PROBES, answer, strict=True):
        expected = scale * probe if softcap is None else softcap * math.tanh(scale * probe / softcap)
        if not math.isclose(found, expected, rel_tol=1e-5, abs_tol=1e-6):
            raise ValueError(
                f"The model does more to its logits than to scale and to cap them: of {probe} it makes {found}."
            )
    return {"logit_scale": scale, "softcap": softcap}


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
