# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""transformers' continuous batching: a completion that has ended makes room for the next one at once."""

import math

import torch
from torch.distributed.fsdp import register_fsdp_forward_method
from transformers import GenerationConfig

from ..rounds.batch import chunks
from .plain import only, without_autocast


@torch.no_grad()
def generate_continuously(
    policy: torch.nn.Module,
    config: GenerationConfig,
    args,
    device: torch.device,
    prompt_ids: list[list[int]],
    count: int,
) -> list[list[list[int]]]:
    """
    `count` completions of each of B prompts.

    Args:
        policy (`torch.nn.Module`): unwrapped, with whole weights.
        config ([`~transformers.GenerationConfig`]): how tokens are drawn. The policy's own has no part in it.
        args ([`NashConfig`]): `max_new_tokens` and `transformers_continuous_batching_config`.
        device (`torch.device`): of the weights.
        prompt_ids (`list[list[int]]`): B prompts.
        count (`int`): completions of a prompt.

    Returns:
        `list[list[list[int]]]`: B x count completions.
    """
    from transformers.generation import ContinuousBatchingConfig

    rows = [ids for ids in prompt_ids for _ in range(count)]
    given = args.transformers_continuous_batching_config or {}
    options = _defaults(rows, args.max_new_tokens, given, device) | given
    with without_autocast(policy), only(config, policy):
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
    return [[outputs[name].generated_tokens for name in own] for own in chunks(names, count)]


def _defaults(rows: list[list[int]], max_new_tokens: int, given: dict, device: torch.device) -> dict:
    """Memory for the cache: half of what is free, as in TRL's GRPO, on a CPU what the rows can need in given pages."""
    from transformers.generation import ContinuousBatchingConfig

    if device.type != "cpu":
        return {"max_memory_percent": 0.5}
    # In transformers up to 5.17 pages are blocks.
    size = "page_size" if hasattr(ContinuousBatchingConfig, "page_size") else "block_size"
    page = given.get(size, 64)
    pages = sum(math.ceil((len(row) + max_new_tokens) / page) for row in rows)
    return {size: page, "num_blocks": pages, "max_batch_tokens": max(256, 2 * len(rows))}
