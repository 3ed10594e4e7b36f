# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Where in a run we are, the rows, pairs and micro-batches of a round, and what is written down of it: no model."""
