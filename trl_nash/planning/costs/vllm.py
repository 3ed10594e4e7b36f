# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What vLLM takes of a device, and what it costs to give it the policy's weights."""

import math

from ..known import PLAYED
from ..model import ModelSizes
from ..run import Run
from .memory import engine_bytes, kv_bytes, loaded_bytes


def pushes(run: Run) -> int:
    """
    How often weights go to vLLM in a round: once for what is sampled from one policy; where completions are played
    against another one, both have their turn in each call.
    """
    if not run.use_vllm:
        return 0
    if run.algorithm in PLAYED and run.fits_of(run.past(1))[0].pairs_from:
        return 2 * math.ceil(run.prompts_per_round / run.num_processes / run.generation_chunk)
    return run.samplings


def push_seconds(model: ModelSizes, run: Run, bandwidth: float, link: float) -> float:
    """
    Seconds of a push: within a device, weights are read and written; to a server they travel.

    Args:
        model ([`ModelSizes`]): the policy.
        run ([`Run`]): the run.
        bandwidth (`float`): bytes a second of the device's memory, as it is used.
        link (`float`): bytes a second to a server.
    """
    size = loaded_bytes(run) * model.parameters  # an adapter is merged into them
    return size / link if run.vllm_mode == "server" else (size + engine_bytes(model, run)) / bandwidth


def least_share(model: ModelSizes, run: Run, limit: int) -> float:
    """The smallest `vllm_gpu_memory_utilization` with which a colocated engine starts: its weights, and one row."""
    row = run.max_length * kv_bytes(model, run)
    return (engine_bytes(model, run) + row) / run.vllm_tensor_parallel_size / limit
