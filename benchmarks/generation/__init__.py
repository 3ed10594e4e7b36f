# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the ways of sampling are worth, and what Nash-MD's mixture costs (`benchmarks.generation.mixture`)."""
