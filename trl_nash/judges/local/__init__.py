# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Models that judge on this machine: how they are loaded and run, and one file for each kind."""
