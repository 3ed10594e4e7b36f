# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""transformers' continuous batching: a completion that has ended makes room for the next one at once."""

import math
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import GenerationConfig


@torch.no_grad()
def generate_continuously(
    policy: torch.nn.Module, rows: list[list[int]], config: GenerationConfig, args, device: torch.device
) -> list[list[int]]:
    """
    A completion of each row of tokens.

    Args:
        policy (`torch.nn.Module`): unwrapped, with whole weights.
        rows (`list[list[int]]`): prompts.
        config ([`~transformers.GenerationConfig`]): how tokens are drawn.
        args ([`NashConfig`]): `max_new_tokens` and `transformers_continuous_batching_config`.
        device (`torch.device`): of the weights.
    """
    from transformers.generation import ContinuousBatchingConfig

    given = args.transformers_continuous_batching_config or {}
    options = _defaults(rows, args.max_new_tokens, given.get("page_size", 64), device) | given
    with _without_autocast(policy):
        training = policy.training
        if "init_continuous_batching" not in vars(policy):
            # FSDP2 is set up by a call of the model as a whole; transformers has done so for `generate`.
            register_fsdp_forward_method(policy, "init_continuous_batching")
        engine = policy.init_continuous_batching(config, ContinuousBatchingConfig(**options))
        try:
            # Asked for before it starts: from the same random numbers it draws the same tokens.
            names = engine.add_requests(rows, max_new_tokens=args.max_new_tokens)
            engine.start()
            outputs = {}
            while len(outputs) < len(rows):
                output = engine.get_result(timeout=1)
                if output is not None and output.is_finished():
                    outputs[output.request_id] = output
                elif output is None and not engine.is_running():
                    break
        finally:
            engine.stop(hard_stop=True)
            engine.destroy()
            policy.train(training)  # which it turns off
    errors = [output.error for output in outputs.values() if output.error is not None]
    if errors or len(outputs) < len(rows):
        raise RuntimeError(
            f"transformers' continuous batching has failed ({errors[0] if errors else 'its thread has ended'}): "
            "leave `use_transformers_continuous_batching` out."
        )
    return [outputs[name].generated_tokens for name in names]


def _defaults(rows: list[list[int]], max_new_tokens: int, page: int, device: torch.device) -> dict:
    """Memory for the cache: half of what is free, as in TRL's GRPO, on a CPU what the rows can need."""
    if device.type != "cpu":
        return {"max_memory_percent": 0.5}
    pages = sum(math.ceil((len(row) + max_new_tokens) / page) for row in rows)
    return {"page_size": page, "num_blocks": pages, "max_batch_tokens": max(256, 2 * len(rows))}


@contextmanager
def _without_autocast(model: torch.nn.Module):
    """
    Within it a model computes in the dtype of its weights, which is that of the engine's cache. (accelerate's autocast
    also takes the cache for a tensor to convert.)
    """
    wrapped, original = vars(model).get("forward"), vars(model).get("_original_forward")
    if original is not None:
        model.forward = original
    try:
        yield
    finally:
        if original is not None:
            model.forward = wrapped
