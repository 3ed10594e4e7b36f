# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a micro-step keeps for its backward: activations of the layers, and of the output head."""

from ..model import ModelSizes
from ..run import Run
from .bytes import GIB, compute_bytes, shares_prompts, stream_bytes


STASH = 4 * GIB  # the most that the head keeps for its gradient, and a quarter of what is free
TILE = {"cuda": 2**25 + 2**24, "cpu": 2**23}  # of logits, on CUDA with their 16-bit copy


def activations(model: ModelSizes, run: Run) -> int:
    """
    What is saved for the backward of a micro-step. With checkpoints: the input of each layer, and one layer. Where a
    prompt is read once: its keys and values for each completion, and the rest once.
    """
    tokens = run.rows * run.max_length
    layer, last = layer_activations(model, run), last_activations(model, run)
    if run.gradient_checkpointing:
        return tokens * (model.layers * model.hidden_size * stream_bytes(run) + layer + last)
    if not shares_prompts(model, run):
        return tokens * (model.layers * layer + last)
    prompt = run.max_prompt if run.turns == 1 else 0  # what others say in a dialogue may be most of it
    read = tokens - run.rows * prompt + run.rows * prompt // run.num_generations
    # Behind a cache there is a mask, with which attention takes as many keys and values as it has queries.
    copies = tokens * model.attention - (tokens - run.rows * prompt) * model.key_value
    return read * (model.layers * layer + last) + model.layers * 2 * copies * compute_bytes(run)


def layer_activations(model: ModelSizes, run: Run) -> int:
    """Bytes that a decoder layer saves for a token: norms in fp32, attention without its matrix, a gated MLP."""
    hidden, inner, size = model.hidden_size, model.intermediate_size, compute_bytes(run)
    full = not run.use_peft
    adapted = {layer.name for layer in model.adapted(run.lora_target_modules)} if run.use_peft else set()

    def trains(*names: str) -> bool:
        return full or bool(adapted & set(names))

    saved = 2 * hidden * 4 + (2 * hidden * stream_bytes(run) if full else 0)
    saved += size * hidden * trains("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn")
    saved += size * 2 * (model.attention + model.key_value)
    saved += size * hidden * trains("gate_proj", "up_proj", "gate_up_proj")
    return saved + size * inner * (3 + trains("down_proj"))


def last_activations(model: ModelSizes, run: Run) -> int:
    """Bytes that the last norm saves for a token."""
    return model.hidden_size * (4 + (0 if run.use_peft else stream_bytes(run)))


def head(model: ModelSizes, run: Run) -> int:
    """The kernel's tile, its rows and their gradient, and the gradient of the head's weight before it is added."""
    rows, hidden, size = run.rows * run.longest_own, model.hidden_size, compute_bytes(run)
    weight = 0 if run.use_peft else size * model.vocabulary * hidden
    return TILE["cpu" if run.strategy == "cpu" else "cuda"] + rows * hidden * (4 + 2 * size) + weight


def stash(model: ModelSizes, run: Run, free: int | None = None) -> int:
    """What the head of a fully trained model keeps, so that its logits are made once."""
    if run.use_peft or run.strategy == "cpu":
        return 0
    most = STASH if free is None else min(STASH, max(0, free) // 4)
    return min(most, max(2, compute_bytes(run)) * run.rows * run.longest_own * model.vocabulary)
