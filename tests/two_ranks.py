# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Scripts that run as two gloo processes."""

import json
import os
import subprocess
import sys
from pathlib import Path


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def result_of_two(script: Path, folder: Path) -> dict:
    """What a script, given a folder, wrote to `result.json` in it."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for _ in range(2):  # gloo may abort when it leaves, after the result was written or not
        run = subprocess.run(
            [*LAUNCHER, str(script), str(folder)], env=environment, capture_output=True, text=True, timeout=600
        )
        if (folder / "result.json").is_file():
            return json.loads((folder / "result.json").read_text())
    raise AssertionError(run.stderr[-4000:])
