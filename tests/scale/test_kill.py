# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Runs that are killed with SIGKILL end where an undisturbed run does, and ask no judge twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


SCRIPT = Path(__file__).parent / "kill_run.py"
ALL = ["generate", "write", "judge", "fit", "score", "write", "evaluate"]


def kill(folder: Path, processes: int, phases: list[str]) -> list[Path]:
    """Trains undisturbed, and with a SIGKILL in each of `phases`. Returns the folders of the runs that were killed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(SCRIPT), str(folder), str(processes), *phases]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=3600)
    assert run.returncode == 0, run.stderr[-6000:]
    assert json.loads((folder / "killed.json").read_text()) == phases
    return sorted(folder.glob("run-*"))


def read_log(folder: Path) -> list[list[tuple]]:
    """What each rank's judge wrote."""
    files = sorted(folder.glob("asked-*.jsonl"))
    return [[tuple(json.loads(line)) for line in file.read_text().splitlines()] for file in files]


def questions_of(log: list[tuple]) -> list[tuple]:
    return [entry[1:] for entry in log if entry[0] == "asked"]


def assert_nothing_lost(folder: Path, runs: list[Path], tolerance: float) -> None:
    whole = load_file(folder / "whole" / "weights.safetensors")
    expected = read_log(folder / "whole")
    for run in runs:
        for name, tensor in load_file(run / "weights.safetensors").items():
            torch.testing.assert_close(tensor, whole[name], rtol=0, atol=tolerance)
        for log, undisturbed in zip(read_log(run), expected, strict=True):
            kept = set()
            for what, *question in log:
                assert what == "kept" or tuple(question) not in kept, "asked again"
                if what == "kept":
                    kept.add(tuple(question))
            if tolerance == 0:
                assert set(questions_of(log)) == set(questions_of(undisturbed))


def test_three_kills(tmp_path):
    """Killed while it samples, fits and writes a checkpoint, the run ends in the same bits."""
    runs = kill(tmp_path, 1, ["generate", "fit", "write"])
    assert_nothing_lost(tmp_path, runs, tolerance=0)
    assert len(questions_of(read_log(tmp_path / "whole")[0])) > 50


@pytest.mark.slow
@pytest.mark.parametrize("processes, kills", [(1, 20), (2, 7)])
def test_many_kills(processes, kills, tmp_path):
    """In every phase, several times: the same bits on one process, the same weights to 1e-6 on two."""
    phases = (ALL * 3)[:kills]
    runs = kill(tmp_path, processes, phases)
    assert_nothing_lost(tmp_path, runs, tolerance=0 if processes == 1 else 1e-6)
