# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Runs that are not stopped, which those of the tests are compared with."""

import pytest
from checkpointed import build


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory):
    """Runs without a stop, which keep a checkpoint of every step; each of them is made once in a process."""
    runs = {}

    def run(algorithm, kind="full", **options):
        name = f"{algorithm} {kind} {options}"
        if name not in runs:
            folder = tmp_path_factory.mktemp("run")
            trainer = build(algorithm, folder, kind, **options)
            trainer.train()
            runs[name] = trainer, folder
        return runs[name]

    return run
