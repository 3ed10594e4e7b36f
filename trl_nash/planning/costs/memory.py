# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Bytes of a run, for one device and for the process that drives it.

Weights, gradients, optimizer states, frozen policies, the KV cache and a round's buffer are counted tensor by tensor.
Activations are those of a Llama: what its layers save for the backward, at the longest rows.
"""

import math
from dataclasses import dataclass, field, replace

from ..known import DEEPSPEED, SHARDED, STRATEGIES
from ..model import Linear, ModelSizes
from ..run import Run
from .activations import activations, head, stash
from .bytes import (
    adapter_tensors,
    compute_bytes,
    loaded_bytes,
    quantised,
    shard,
    stream_bytes,
    trained_bytes,
    trained_size,
    trained_tensors,
)


BUCKET = 500_000_000  # elements: DeepSpeed's `reduce_bucket_size`
LIVE = 1_000_000_000  # elements: ZeRO-3's `stage3_max_live_parameters`
_SMALL = 4096  # below it the 8-bit optimizers keep 32 bits
_STEP = 4  # bytes of Adam's step counter of each tensor


@dataclass(frozen=True)
class Memory:
    """Bytes by what they are for."""

    sampling: dict[str, int] = field(default_factory=dict)  # on the device, while completions are sampled
    fit: dict[str, int] = field(default_factory=dict)  # on the device, in a training step
    host: dict[str, int] = field(default_factory=dict)  # of the CPU, for each process

    @property
    def peak(self) -> int:
        return max(sum(self.sampling.values()), sum(self.fit.values()))


def memory(model: ModelSizes, run: Run, limit: int | None = None) -> Memory:
    """
    What a run needs.

    Args:
        model ([`ModelSizes`]): the policy.
        run ([`Run`]): the run.
        limit (`int`, *optional*): bytes that a device may use; what is free of them bounds the head's stash.
    """
    return replace(device_memory(model, run, limit), host=host_memory(model, run))


def device_memory(model: ModelSizes, run: Run, limit: int | None = None) -> Memory:
    """What a run needs of a device."""
    always = {
        "weights": weights(model, run),
        "optimizer states": optimizer_states(model, run),
        "judge": 2 * run.judge_parameters,  # in 16 bits, a whole one on each device
    }
    vllm = int(run.vllm_gpu_memory_utilization * (limit or 0)) if run.colocates_vllm else 0
    sampling = always | {
        "vLLM engine": vllm,
        "frozen policy beside it": trained_bytes(model, run) if run.plays_mixture and not run.use_peft else 0,
        # vLLM is given one weight after the other, unless adapters are merged into them.
        "gathered weights": gathered(model, run, whole=not run.use_vllm or run.use_peft),
        "KV cache": 0 if run.use_vllm else kv_cache(model, run),
    }
    fit = always | {
        "vLLM engine": 0 if run.vllm_enable_sleep_mode else vllm,
        "gradients": gradients(model, run),
        "communication": communication(model, run),
        "gathered weights": gathered(model, run, whole=False),
        "16-bit copies of weights": autocast_copies(model, run),
        "activations": activations(model, run),
        "output head": head(model, run),
    }
    fit["output head's stash"] = stash(model, run, None if limit is None else limit - sum(fit.values()))
    return Memory(_needed(sampling), _needed(fit))


def host_memory(model: ModelSizes, run: Run) -> dict[str, int]:
    """What each process needs of the CPU's memory."""
    return _needed(
        {
            # A shard for each process, or its part of the copy that the processes of a machine share.
            "frozen policies": run.kept() * shard(run, trained_bytes(model, run), *(set(STRATEGIES) - set(SHARDED))),
            "round's buffer": round_buffer(run),
            "its scoring": scoring_buffer(run),
        }
    )


def _needed(sizes: dict[str, float]) -> dict[str, int]:
    return {name: int(size) for name, size in sizes.items() if size}


# ---- What lasts ----


def weights(model: ModelSizes, run: Run) -> int:
    size = loaded_bytes(run) * plain(model, run)
    if run.use_peft:
        size += trained_size(run) * sum(adapter_tensors(model, run))
    return shard(run, size, *SHARDED) + packed(model, run)


def plain(model: ModelSizes, run: Run) -> int:
    """How many weights are not quantised, without an adapter's."""
    return model.parameters - (model.trunk if quantised(run) else 0)


def packed(model: ModelSizes, run: Run) -> int:
    """Bytes of the quantised weights, which no strategy takes apart."""
    return sum(quantised_bytes(layer, run) for layer in model.linears) if quantised(run) else 0


def quantised_bytes(layer: Linear, run: Run) -> int:
    """Codes and scales of bitsandbytes."""
    elements = layer.inputs * layer.outputs
    if run.load_in_8bit:
        return layer.count * (elements + 4 * layer.outputs)  # a scale for each row
    blocks, code = math.ceil(elements / 64), 4 * 16
    scales = 4 * blocks + code
    if run.use_bnb_nested_quant:  # scales in 8 bits, of which each 256 share one, and a mean
        scales = blocks + 4 * math.ceil(blocks / 256) + 4 * 256 + 4 + code
    return layer.count * (math.ceil(elements / 2) + scales)


def gradients(model: ModelSizes, run: Run) -> int:
    return shard(run, trained_size(run) * sum(trained_tensors(model, run)), "zero2", *SHARDED)


def optimizer_states(model: ModelSizes, run: Run) -> int:
    """Adam's two moments; under DeepSpeed also the fp32 weights, and their gradients while it steps."""
    tensors = trained_tensors(model, run)
    if run.strategy in DEEPSPEED:
        states = 2 if "8bit" in run.optim else 8
        return shard(run, (4 + 4 + states) * sum(tensors), *DEEPSPEED)
    if "8bit" in run.optim:
        wide = [] if run.use_peft else list(model.embeddings)  # transformers keeps these in 32 bits
        narrow = list(tensors)
        for size in wide:
            narrow.remove(size)
        wide += [size for size in narrow if size < _SMALL]
        narrow = [size for size in narrow if size >= _SMALL]
        tables = 2 * 4 * 256 if narrow else 0
        return shard(run, 8 * sum(wide) + sum(2 * (n + 4 * math.ceil(n / 256)) for n in narrow) + tables, *SHARDED)
    if "bnb" in run.optim or "paged" in run.optim:
        return shard(run, 8 * sum(tensors), *SHARDED)
    return shard(run, 2 * trained_size(run) * sum(tensors), *SHARDED) + _STEP * len(tensors)


# ---- What a training step adds ----


def communication(model: ModelSizes, run: Run) -> int:
    """Buffers in which gradients travel."""
    trained = sum(trained_tensors(model, run))
    if run.strategy in DEEPSPEED:
        return loaded_bytes(run) * min(BUCKET, trained)
    return trained_size(run) * trained if run.strategy in ("ddp", "cpu") and run.num_processes > 1 else 0


def gathered(model: ModelSizes, run: Run, whole: bool) -> int:
    """Weights that are together beside their shards: to sample a round all of them, else some layers."""
    if run.strategy not in SHARDED or run.num_processes == 1:
        return 0
    size = 2 if run.precision != "fp32" else loaded_bytes(run)
    if whole:
        return size * (plain(model, run) + (sum(adapter_tensors(model, run)) if run.use_peft else 0))
    if run.strategy == "zero3":
        return size * min(LIVE, model.parameters)
    layer = (model.trunk + sum(model.experts)) / model.layers
    return int(size * (2 * layer + sum(model.embeddings) + model.head))


def autocast_copies(model: ModelSizes, run: Run) -> int:
    """fp32 weights are multiplied in 16 bits: autocast keeps the copies of trained ones through the forward."""
    if run.precision == "fp32" or loaded_bytes(run) == 2 or run.strategy == "fsdp2" or quantised(run):
        return 0
    copies = 2 * (model.trunk + sum(model.experts))
    return copies // model.layers if run.use_peft and run.gradient_checkpointing else copies


# ---- What sampling adds ----


def kv_bytes(model: ModelSizes, run: Run) -> int:
    """
    Bytes of a token in the KV cache. Under autocast values are 16-bit, as linear layers return them, unless they have
    an adapter; keys are rotated in fp32. (Before transformers 5.24 values were kept in the dtype of keys.)
    """
    if run.use_vllm:
        return model.layers * model.key_value * (2 + 2)
    keys = stream_bytes(run)
    values = keys if run.use_peft else compute_bytes(run)
    return model.layers * model.key_value * (keys + values)


def kv_cache(model: ModelSizes, run: Run) -> int:
    """
    The KV cache of a call of the generator: all but the prompt's last token, which is read once for all completions,
    and then room for some tokens at a time.
    """
    from ...generation import ROOM

    prompt = run.max_length - run.max_new_tokens - 1
    tokens = prompt + (ROOM + 1) * math.ceil(run.max_new_tokens / (ROOM + 1))  # the last one is never fed
    prompts = run.generation_chunk
    if run.evaluation_prompts:
        a_device = math.ceil(run.evaluation_prompts / run.num_processes)
        prompts = max(prompts, min(run.per_device_eval_batch_size, a_device))
    policies = 2 if run.plays_mixture else 1  # a cache for each
    return policies * prompts * run.num_generations * tokens * kv_bytes(model, run)


def engine_bytes(model: ModelSizes, run: Run) -> int:
    """Bytes of the weights that vLLM computes with: 16 bits of each, and of 4-bit models their codes and scales."""
    return weights(model, run) if quantised(run) else 2 * model.parameters


# ---- On the CPU ----


def round_buffer(run: Run) -> int:
    """A round's micro-batches: three int64 tensors and one fp32 of log-probs for each token, pairs and preferences."""
    batches, prompts = run.steps_per_generation, run.per_device_train_batch_size
    tokens = run.rows * (3 * 8 * run.max_length + 4 * (run.max_length - 1))
    pair = 2 * 8 + 4 + 4 * (run.pair_selection == "active")  # its indices and preference, and a weight
    return batches * (tokens + prompts * run.trained_pairs * pair)


def scoring_buffer(run: Run) -> int:
    """While a round is scored: the anchor in fp64, before and after a policy is added, and that policy's log-probs."""
    return run.steps_per_generation * run.rows * (run.max_length - 1) * (8 + 8 + 4)
