# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a fake of vLLM was given, beside what it should have been given."""

import copy

import fake_vllm
import torch
from accelerate.utils import is_peft_model
from helpers import equal


def engine_of(trainer) -> fake_vllm.Engine:
    return fake_vllm.LLM.made[-1].engine if trainer.vllm_mode == "colocate" else fake_vllm.Server.running.engine


def merged(trainer) -> dict[str, torch.Tensor]:
    """The live policy as one model, by PEFT's own account of it."""
    model = copy.deepcopy(trainer.model)
    model = model.merge_and_unload() if is_peft_model(model) else model
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def has(engine: fake_vllm.Engine, expected: dict[str, torch.Tensor]) -> bool:
    """Whether the engine has these weights, bitwise."""
    return equal({name: p.detach() for name, p in engine.model.named_parameters()}, expected)


def watch(trainer) -> list[int]:
    """Before each call the engine has the live policy's weights. Returns the steps of the calls, as they come."""
    seen, generate = [], trainer.sampler._vllm.generate

    def compare(prompt_ids, count):
        assert has(engine_of(trainer), merged(trainer))
        seen.append(trainer.state.global_step)
        return generate(prompt_ids, count)

    trainer.sampler._vllm.generate = compare
    return seen
