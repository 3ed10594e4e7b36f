# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Learning rates of adapters, which need larger ones than all weights do."""

OF_ADAPTERS = 1e-4  # which the command line chooses where nobody has, and a warning names
LEAST_OF_ADAPTERS = 1e-5  # below which an adapter hardly moves
