# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Completions from a policy: transformers, its continuous batching, vLLM, and the mixture of two policies."""

ROOM = 64  # tokens that a cache for K completions of a prompt grows by
