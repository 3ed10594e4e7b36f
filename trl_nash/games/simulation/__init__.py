# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash simulate` plays, and how it is shown."""

from .simulation import Simulation


__all__ = ["Simulation"]
