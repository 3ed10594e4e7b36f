# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What cannot work is refused when a trainer is built; what the algorithms take for granted is measured."""
