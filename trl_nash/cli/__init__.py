# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The command line. Nothing here imports torch, transformers or TRL before a command needs them."""
