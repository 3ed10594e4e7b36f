# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A run's policies against each other on held-out prompts, while it trains: what is known of them, and its report."""

from .game import WIN_RATE_WORST, PoolGame


__all__ = ["WIN_RATE_WORST", "PoolGame"]
