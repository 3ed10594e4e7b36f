# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A pool of a run's own policies, against which evaluations play."""

from .callback import OpponentPoolCallback


__all__ = ["OpponentPoolCallback"]
