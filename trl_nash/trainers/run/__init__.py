# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the rounds of a trainer are made of: who samples and judges, scores, reports, stops and keeps them."""
