# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash demo` runs: the real trainer on a small language model (`language.py`), or on a game (`game.py`)."""
