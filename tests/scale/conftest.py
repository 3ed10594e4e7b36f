# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Offers the tests of this folder the modules that they share."""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parent))
