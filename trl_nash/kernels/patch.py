# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The kernel behind TRL's own trainers."""

import inspect
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor
from torch.autograd.function import once_differentiable

from .logprob import BACKENDS, OUTPUTS, linear_logprob
from .op import gathered


PLACE = "_ChunkedLogProbFunction"  # in `trl.trainer.utils`, where `add_fused_lm_head` looks it up at every call
ARGUMENTS = "ctx hidden weight bias targets temperature chunk_size final_logit_softcapping logit_scale outputs".split()


def patch_trl(
    *, stash_bytes: int | None = None, workspace_bytes: int | None = None, backend: str = "auto"
) -> "LogProbPatch":
    """
    Puts the kernel behind TRL's DPO, KTO, GRPO, RLOO and SFT trainers, in this process, until it is undone:
    `undo = patch_trl()` ... `undo()`, or `with patch_trl(): trainer.train()`, which also undoes it after an error.

    Trainers that exist already get it too, and patches may be nested. Covered is whatever goes through TRL's
    `add_fused_lm_head`: log-probs and their gradients, entropy, mean logits and top-1 accuracy, with bias,
    temperature, softcap and logit scale, for full fine-tuning and LoRA. Left to the function that was there are
    `log_sum_sq_probs` (DPO's `use_weighting`), which costs another forward of the head, and the gradient of the
    entropy (GRPO's `entropy_coef` and `use_adaptive_entropy`), which costs another forward and backward.

    Args:
        stash_bytes, workspace_bytes, backend:
            As in [`linear_logprob`].

    Returns:
        [`LogProbPatch`]: call it, or leave its `with` block, to undo it.

    Raises:
        `ImportError`: for a version of TRL that was not tested, or one whose function takes other arguments.
            Nothing is patched then.
        `ValueError`: for an unknown `backend`.
    """
    from .. import compat  # here, because TRL takes seconds to import

    if backend not in BACKENDS:
        raise ValueError(f"`backend` is one of {', '.join(map(repr, BACKENDS))}, got {backend!r}.")
    first, end = compat.TESTED_TRL
    install = f'install one that is known to work: pip install "trl>={first},<{end}"'
    if not Version(first) <= compat.TRL_VERSION < Version(end):
        raise ImportError(
            f"`patch_trl` knows TRL {first} up to (not including) {end}, and this is TRL {compat.TRL_VERSION}: "
            f"nothing was patched, {install}"
        )
    found = getattr(compat.trainer_utils, PLACE, None)
    arguments = ARGUMENTS if isinstance(found, LogProbPatch) else _arguments(found)
    if arguments != ARGUMENTS:
        raise ImportError(
            f"`patch_trl` replaces `trl.trainer.utils.{PLACE}`, whose `forward` takes ({', '.join(ARGUMENTS)}); here "
            f"it is ({', '.join(arguments)}): nothing was patched, {install}"
        )
    options = {"stash_bytes": stash_bytes, "workspace_bytes": workspace_bytes, "backend": backend}
    patch = LogProbPatch(compat.trainer_utils, found, options)
    setattr(compat.trainer_utils, PLACE, patch)
    return patch


def _arguments(function: Any) -> list[str]:
    forward = getattr(function, "forward", None)
    return [] if forward is None else list(inspect.signature(forward).parameters)


class LogProbPatch:
    """What stands in the place of TRL's function, and the way back. Made by [`patch_trl`]."""

    def __init__(self, module: Any, replaced: Any, options: dict[str, Any]):
        self._module, self._replaced, self._options = module, replaced, options
        self._active = True

    def __call__(self) -> None:
        """Undoes the patch; a second call does nothing."""
        self._active = False
        # One that lies under another patch only passes calls on, until that one is undone too.
        while isinstance(top := getattr(self._module, PLACE), LogProbPatch) and not top._active:
            setattr(self._module, PLACE, top._replaced)

    def __enter__(self) -> "LogProbPatch":
        if not self._active:
            raise RuntimeError("This patch was undone: call `patch_trl()` again for another one.")
        return self

    def __exit__(self, *error: Any) -> None:
        self()

    def apply(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        chunk_size: int,
        final_logit_softcapping: float | None = None,
        logit_scale: float = 1.0,
        outputs: tuple[str, ...] = ("entropy", "log_sum_sq_probs", "mean_logits", "is_top1"),
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """
        TRL's `ChunkedLogProbFunction.apply`.

        Returns:
            `tuple`: log-probs, entropy, `log Σ p²`, mean logit and whether the target is the largest, of shape `(N,)`,
            fp32 and bool. What `outputs` does not name is `None`.
        """
        others = (temperature, chunk_size, final_logit_softcapping, logit_scale)
        if not self._active:
            return self._replaced.apply(hidden, weight, bias, targets, *others, outputs)
        log_sum_sq_probs = None
        if "log_sum_sq_probs" in outputs:
            # Not the log-probs with it: those of policy and reference would then be rounded in different ways.
            with torch.no_grad():
                theirs = self._replaced.apply(hidden, weight, bias, targets, *others, ("log_sum_sq_probs",))
            log_sum_sq_probs = theirs[2]
        names = [name for name in OUTPUTS if name == "log_probs" or name in outputs]
        found = linear_logprob(
            hidden,
            weight,
            targets,
            bias=bias,
            temperature=temperature,
            logit_scale=logit_scale,
            softcap=final_logit_softcapping,
            outputs=names,
            **self._options,
        )
        results = dict(zip(names, found if len(names) > 1 else [found], strict=True))
        log_probs, entropy, mean_logits = (
            None if name not in results else results[name].float() for name in ("log_probs", "entropy", "mean_logits")
        )
        if entropy is not None:
            entropy = _WithGradient.apply(entropy, self._replaced, hidden, weight, bias, targets, others)
        return log_probs, entropy, log_sum_sq_probs, mean_logits, results.get("is_top1")


class _WithGradient(torch.autograd.Function):
    """Our entropy, which has no gradient, with that of the function that we replace. Only its backward costs much."""

    @staticmethod
    def forward(ctx, entropy, function, hidden, weight, bias, targets, others):
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.function, ctx.others = function, others
        device = hidden.device.type
        ctx.autocast = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return entropy.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        *factors, targets = ctx.saved_tensors
        enabled, dtype = ctx.autocast
        wanted = [index for index, is_wanted in enumerate(ctx.needs_input_grad[2:5]) if is_wanted]
        # The weight goes in as the parameter that it is: TRL asks ZeRO-3 whether it is whole, and a copy cannot tell.
        with (
            torch.enable_grad(),
            torch.autocast(upstream.device.type, dtype=dtype, enabled=enabled),
            gathered(*factors[1:]),
        ):
            entropy = ctx.function.apply(*factors, targets, *ctx.others, ("entropy",))[1]
            found = torch.autograd.grad(entropy, [factors[index] for index in wanted], upstream)
        gradients = [None] * 3
        for index, gradient in zip(wanted, found, strict=True):
            gradients[index] = gradient
        return None, None, *gradients, None, None
