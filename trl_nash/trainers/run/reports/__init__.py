# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run says of itself: metrics and advice while it trains, its opening, its result, and its model card."""
