# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The accelerate profiles that `test_matrix.py` does not start its launches with."""

import importlib.resources
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cells import save_models
from distribute import BACKENDS, SCRIPTS, environment, launch, launcher
from test_matrix import alone


CELL = "lora/onpo-two"
HERE = {"multi_gpu", "multi_node", "single_gpu"}


def test_every_profile_is_started_by_a_test():
    shipped = importlib.resources.files("trl_nash").joinpath("accelerate_configs").iterdir()
    assert {Path(file.name).stem for file in shipped} == {*BACKENDS.values()} | HERE


def check(result: dict, processes: int, wrapped: str) -> None:
    """The cell ended with one process's losses, in as many processes and a model wrapped as expected."""
    ranks = result[CELL]
    assert len(ranks) == processes
    for rank in ranks:
        assert "error" not in rank, rank["traceback"]
        assert rank["facts"]["processes"] == processes and rank["facts"]["wrapped"] == wrapped
    losses = [sum(values) / processes for values in zip(*(rank["losses"] for rank in ranks), strict=True)]
    assert losses == pytest.approx(alone(CELL)["losses"], abs=1e-4, rel=1e-4)


@pytest.mark.slow
def test_multi_gpu(tmp_path):
    """Two processes; without GPUs gloo joins them, because `use_cpu` is among the training arguments."""
    save_models(f"{tmp_path}/model")
    result = launch(
        "multi_gpu", "matrix.py", f"{tmp_path}/model", str(tmp_path), CELL, result=tmp_path / "result.json"
    )
    check(result, 2, "DistributedDataParallel")


@pytest.mark.slow
def test_single_gpu(tmp_path):
    """One process and nothing around the model."""
    save_models(f"{tmp_path}/model")
    arguments = [str(SCRIPTS / "matrix.py"), f"{tmp_path}/model", str(tmp_path), CELL]
    run = subprocess.run([*launcher("single_gpu"), *arguments], env=environment(), capture_output=True, timeout=1800)
    assert run.returncode == 0, run.stderr[-4000:]
    check(json.loads((tmp_path / "result.json").read_text()), 1, "PeftModelForCausalLM")


@pytest.mark.slow
def test_multi_node(tmp_path):
    """Two launchers of one process each, which find each other as two machines would."""
    save_models(f"{tmp_path}/model")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    options = ["--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1"]
    machines = [
        subprocess.Popen(
            [
                *launcher("multi_node", *options, "--main_process_port", port, "--machine_rank", str(rank)),
                *(str(SCRIPTS / "matrix.py"), f"{tmp_path}/model", str(tmp_path), CELL),
            ],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=sys.stderr,
        )
        for rank in range(2)
    ]
    try:
        for machine in machines:
            machine.wait(timeout=1800)
    finally:
        for machine in machines:
            machine.terminate()
    check(json.loads((tmp_path / "result.json").read_text()), 2, "DistributedDataParallel")
