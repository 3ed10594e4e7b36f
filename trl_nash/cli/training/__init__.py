# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The training commands: `launching` starts `train.py` in as many processes as there are devices; it reads the data,
chooses the sizes, says the plan, trains, and says how it went.
"""
