# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From a command line to processes that train: how many, on what, with how many threads, and how they are stopped."""
