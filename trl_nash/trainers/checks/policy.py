# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A policy is verified when a trainer is built, not believed: what the algorithms take for granted is measured on a few
tokens, and no list of architectures or of option names decides it.

1. Forwards in training mode are equal to one another: the KL of round 1 is 0. (To evaluation mode too, or it is said.)
2. The fused head's log-probs are `log_softmax(logits / T)` of the model's own forward; else logits are used.
3. Where a prompt is read once for its completions, log-probs are the same, and the prompt's keys and values have
   gradients; else it is read for each.
4. With a fresh adapter off the policy is as it is with it, and stays so: then this is the initial policy.

What completions are sampled from is measured in `sampling.py`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ...kernels.fused_head import FusedHead, head_parts
from ...kernels.op import gathered
from .noise import drawing, silence, stay_in_evaluation
from .sample import Sample
from .sharing import fault_of_sharing


logger = get_logger("trl_nash")  # speaks on the main process only

_TURN_IT_OFF = "Turn it off in the model's config (`model_init_kwargs`): noise, jitter and dropout at 0."


@dataclass
class Findings:
    """What was measured of a policy."""

    in_evaluation: list[str] = field(default_factory=list)  # modules that are to stay in evaluation mode
    noisy: bool = False  # whether these changed log-probs
    refused: str | None = None  # why it cannot be trained
    differs: str | None = None  # how far it is another policy in evaluation mode
    plain: str | None = None  # why its head cannot be fused
    apart: str | None = "it was not verified"  # why a prompt is read for each of its completions
    fresh: bool = False  # whether it is the model without its adapters
    skipped: str | None = None  # why the rest was not measured


def verify_policy(
    model: nn.Module, head: FusedHead, accelerator: Accelerator, *, adapted: bool = False, gather: bool = True
) -> bool:
    """
    Verifies the policy of a trainer, before it is wrapped for training.

    Modules that are random in training mode stay in evaluation mode from now on; where the head cannot be fused,
    log-probs are taken from logits. Otherwise the model is left as it is, with its modes, flags and random numbers.

    Args:
        model (`torch.nn.Module`): the policy, with its adapter if it has one.
        head ([`FusedHead`]): how its log-probs are taken.
        accelerator ([`~accelerate.Accelerator`]): of the trainer. All processes call this together.
        adapted (`bool`, *optional*, defaults to `False`): whether the trainer has put a fresh adapter on the model.
        gather (`bool`, *optional*, defaults to `True`): whether the weights that ZeRO-3 has taken apart fit together.

    Returns:
        `bool`: whether the initial policy is the model with its adapters off.

    Raises:
        `ValueError`: if the policy in training mode is random, or another one than in evaluation mode.
    """
    sample = Sample(model, head, accelerator)
    sharded = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if sharded and not gather:
        found = _unmeasured(sample, "its weights are sharded and `ds3_gather_for_generation` is off")
    else:
        with _undisturbed(sample), gathered(*sharded):
            found = _attempt(sample, lambda: _examine(sample, adapted))
    found = _of_first_process(found)
    if found.refused is not None:
        raise ValueError(found.refused)
    if found.differs is not None:
        logger.warning(found.differs)
    modules = dict(sample.base.named_modules())
    for name in found.in_evaluation:
        stay_in_evaluation(modules[name])
    if found.in_evaluation:
        logger.log(
            logging.WARNING if found.noisy else logging.INFO,
            "In training mode the model draws random numbers. What does so stays in evaluation mode, so that the "
            "policy is one distribution: %s.",
            _kinds(modules[name] for name in found.in_evaluation),
        )
    _settle(head, found, "the policy")
    return found.fresh


def verify_reference(model: nn.Module, head: FusedHead, accelerator: Accelerator) -> None:
    """
    Verifies the head of an explicit reference as it will be called. All processes call this together.

    Args:
        model (`torch.nn.Module`): the reference, which may be wrapped.
        head ([`FusedHead`]): how its log-probs are taken.
        accelerator ([`~accelerate.Accelerator`]): of the trainer.
    """
    sample = Sample(model, head, accelerator)
    with _undisturbed(sample):
        found = _attempt(sample, lambda: _examine_head(sample, Findings(), sample.own()))
    _settle(head, _of_first_process(found), "`ref_model`")


def _attempt(sample: Sample, examine: Callable[[], Findings]) -> Findings:
    elsewhere = sample.device.type != sample.home.type  # FSDP2 and DeepSpeed take it to its device later
    try:
        with _attention_of_any_device(sample.base) if elsewhere else nullcontext():
            return examine()
    except Exception as error:  # a model that is not where it will run, or wants more than tokens
        return _unmeasured(sample, _said(error))


def _unmeasured(sample: Sample, why: str) -> Findings:
    try:
        head_parts(sample.base.get_output_embeddings())
    except Exception as error:
        return Findings(skipped=why, plain=_said(error))
    return Findings(skipped=why)


def _said(error: Exception) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{kind}{error}".splitlines()[0].rstrip(".")[:300]


def _examine(sample: Sample, adapted: bool) -> Findings:
    found, model = Findings(), sample.model
    model.train()
    logps = sample.own()
    if sample.drew:
        noisy = logps
        found.in_evaluation = silence(sample.base, sample.own, sample.home)
        logps = sample.own()
        found.noisy = not torch.equal(noisy, logps)
    drew, again = sample.drew, sample.own()
    # Without random numbers it is the order of a sum, on a GPU.
    if (drew and not torch.equal(logps, again)) or _distance(logps, again) > sample.tolerance:
        who = _kinds(drawing(sample.own, sample.home)) or type(sample.base).__name__
        found.refused = (
            f"Two forwards in training mode differ, because {who} draws random numbers: the policy would differ from "
            f"the frozen policies it is compared with. {_TURN_IT_OFF}"
        )
        return found
    model.eval()
    distance = _distance(logps, sample.own())
    model.train()
    if distance > sample.tolerance:
        # Rounds are sampled and fitted in training mode; evaluation and later use are not.
        found.differs = (
            f"In training mode {type(sample.base).__name__} computes other log-probs than in evaluation mode (by "
            f"{distance:.2g}): what is trained is not quite what is evaluated, and sampled from later."
        )
    _examine_head(sample, found, logps, apart=sample.single_forward)
    found.fresh = adapted and _is_fresh(sample, logps)
    return found


def _examine_head(sample: Sample, found: Findings, logps: Tensor, apart: str | None = None) -> Findings:
    """How log-probs of a model, whose own are `logps`, can be taken; `apart`, if given, is why not from one prompt."""
    found.plain = _fault_of_head(sample, logps)
    found.apart = apart or found.plain or fault_of_sharing(sample)
    return found


def _distance(logps: Tensor, others: Tensor) -> float:
    return (logps - others).abs().max().item()


def _fault_of_head(sample: Sample, logps: Tensor) -> str | None:
    """Why the head of a model, whose own log-probs are `logps`, cannot be fused."""
    try:
        distance = _distance(logps, sample.fused())
    except Exception as error:
        return _said(error)
    if distance <= sample.tolerance:
        return None
    return f"fused it would be wrong by {distance:.2g}"


def _is_fresh(sample: Sample, logps: Tensor) -> bool:
    """Whether the model is this policy with its adapters off, and stays so: none of its trained weights is left on."""
    trained = [parameter for parameter in sample.model.parameters() if parameter.requires_grad]
    with sample.model.disable_adapter():
        if any(parameter.requires_grad for parameter in trained):
            return False
        return _distance(logps, sample.own()) <= sample.tolerance


def _kinds(modules) -> str:
    return ", ".join(sorted({type(module).__name__ for module in modules}))


def _of_first_process(found: Findings) -> Findings:
    """What process 0 found: under FSDP2 the others may not have the weights yet."""
    return broadcast_object_list([found])[0]


def _settle(head: FusedHead, found: Findings, whose: str) -> None:
    if found.skipped is not None:
        logger.warning("When the trainer was built, %s could not be verified: %s.", whose, found.skipped)
    head.plain, head.shares_prompts = found.plain is not None, found.apart is None
    if found.apart is not None:
        logger.info("Where it scores completions, %s reads their prompt for each of them: %s.", whose, found.apart)
    if head.plain:
        logger.warning(
            "Log-probs of %s are taken from its logits, which need memory, because its head cannot be fused: %s.",
            whose,
            found.plain,
        )


@contextmanager
def _undisturbed(sample: Sample) -> Iterator[None]:
    """Within it the model can be asked for log-probs; after it everything is as it was."""
    modes = [(module, module.training) for module in sample.model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in sample.model.parameters()]
    devices = [] if sample.home.type in ("cpu", "mps") else [sample.home]
    with torch.random.fork_rng(devices, device_type=sample.home.type), torch.no_grad():
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for parameter, flag in flags:
                if parameter.requires_grad != flag:
                    parameter.requires_grad_(flag)


@contextmanager
def _attention_of_any_device(model: nn.Module) -> Iterator[None]:
    """Within it attention needs no kernel of a GPU."""
    implementation = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(implementation)
