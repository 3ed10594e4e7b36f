# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The run: rounds, rows, judge, evaluations, lengths."""

from .description import Run


__all__ = ["Run"]
