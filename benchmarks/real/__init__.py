# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Nash trainers, and what people would use instead, on a real instruct model: see __main__.py."""
