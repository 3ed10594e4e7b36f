# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The same examples in every run: `FUZZ=slow pytest tests/fuzz` takes 20 times as many."""

import os

from hypothesis import HealthCheck, settings


settings.register_profile(
    "quick",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("slow", settings.get_profile("quick"), max_examples=1200)
settings.load_profile(os.environ.get("FUZZ", "quick"))
