# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Frozen policies: handles, memory, exchange with the live weights, files."""

from .frozen import BESIDE_SHARDS, FrozenPolicies
from .memory import is_sharded


__all__ = ["BESIDE_SHARDS", "FrozenPolicies", "is_sharded"]
