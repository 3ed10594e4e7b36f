# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How a pair is put to a judge in words, and how its answer is read. The questions themselves are in `prompts/`."""
