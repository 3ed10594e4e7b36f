# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The model: its sizes, from a configuration, by name or by hand."""

from .shapes import BY_HAND, COUNTS, Linear, ModelSizes, load_sizes, sizes_by_hand, sizes_from_config


__all__ = ["BY_HAND", "COUNTS", "Linear", "ModelSizes", "load_sizes", "sizes_by_hand", "sizes_from_config"]
