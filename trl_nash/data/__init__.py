# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Data as people have it: which files become datasets, what a row's prompt is, and whether every row can be rendered.

The training commands, `trl-nash judge` and the trainers ask here, so that a prompt is the same for all of them.
"""
