# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Why a prompt may not be read once for the completions that are scored."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...policies import repeated_cache, without_checkpointing
from .sample import Sample


def fault_of_sharing(sample: Sample) -> str | None:
    """
    Why a model gives other log-probs where it reads a prompt once, or no gradient to what it read; `None` if it is up
    to it.

    What it hands out of a prompt must be the keys and values of its tokens and nothing else: a mask leaves those of
    padding out, as no mask does with a recurrent state that has been through them. And they must know what they were
    computed from: a layer that keeps copies would cut the prompt off from the backward. Rotations must be those of the
    tokens' positions: some are of the longest position of a call, on which prompt and completion do not agree.
    """
    rotations = (str(getattr(module, "rope_type", "")) for module in sample.base.modules())
    if any("dynamic" in kind or "longrope" in kind for kind in rotations):  # as transformers itself asks
        return "its rotations depend on how long a text is"
    try:
        with torch.enable_grad(), sample.precision(), without_checkpointing(sample.base), _embedded(sample.base):
            rows = slice(None, None, sample.COMPLETIONS)
            _, cache = repeated_cache(sample.base, sample.ids[rows, :2], sample.mask[rows, :2], sample.COMPLETIONS)
        if cache is None:
            return "it has no cache that can be repeated"
        if not all(held.requires_grad for layer in cache.layers for held in (layer.keys, layer.values)):
            return "its cache keeps copies, through which no gradient goes"
        distance = (sample.fused() - sample.shared()).abs().max()
    except Exception as error:  # whatever a cache does that is not meant for this
        return f"its cache is not one of keys and values ({type(error).__name__})"
    return None if distance <= sample.tolerance else f"its log-probs would be wrong by {distance:.2g}"  # or by nan


@contextmanager
def _embedded(model: nn.Module) -> Iterator[None]:
    """Within it embeddings have gradients, also frozen ones."""

    def require(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        return output if output.requires_grad else output.detach().requires_grad_()

    hook = model.get_input_embeddings().register_forward_hook(require)
    try:
        yield
    finally:
        hook.remove()
