# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Frozen policies: handles, memory, exchange with the live weights, files."""

from .caches import (
    cache_name,
    checkpointed_layers,
    forward_cached,
    inputs_behind,
    repeated_cache,
    without_checkpointing,
)
from .files import load_frozen
from .frozen import BESIDE_SHARDS, FrozenPolicies
from .memory import fingerprint, is_sharded
from .merged import adapts_tied_embeddings, has_adapters_off, merged_weights
from .peft_model import is_peft_model


__all__ = [
    "BESIDE_SHARDS",
    "FrozenPolicies",
    "adapts_tied_embeddings",
    "cache_name",
    "checkpointed_layers",
    "fingerprint",
    "forward_cached",
    "has_adapters_off",
    "inputs_behind",
    "is_peft_model",
    "is_sharded",
    "load_frozen",
    "merged_weights",
    "repeated_cache",
    "without_checkpointing",
]
