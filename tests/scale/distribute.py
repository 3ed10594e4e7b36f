# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Starts scripts as two processes of a backend on the CPU, through `accelerate launch` and the profiles we ship."""

import fcntl
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trl_nash.cli.training.launching.processes import accelerate_config_file


# backend -> the profile that it is launched with
BACKENDS = {"ddp": "cpu", "zero1": "zero1", "zero2": "zero2", "zero3": "zero3", "fsdp2": "fsdp2"}
SCRIPTS = Path(__file__).parent
# Built by DeepSpeed for its first process group on the CPU, in a folder of our own: a killed build elsewhere leaves a
# lock that everybody waits for.
EXTENSIONS = Path(sys.prefix) / "torch_extensions"


def environment() -> dict[str, str]:
    """Of the launched processes."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "TORCH_EXTENSIONS_DIR": str(EXTENSIONS),
        "PYTHONPATH": os.pathsep.join([str(SCRIPTS), *sys.path]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # of ninja
    }


def missing_for_deepspeed() -> list[str]:
    """What has to be installed before DeepSpeed runs on the CPU."""
    path = environment()["PATH"]
    missing = [] if importlib.util.find_spec("deepspeed") else ['deepspeed (pip install "trl-nash[deepspeed]")']
    missing += [] if shutil.which("c++", path=path) else ["a C++ compiler (g++)"]
    return missing + ([] if shutil.which("ninja", path=path) else ["ninja (pip install ninja)"])


def needs_deepspeed() -> None:
    """Skips where DeepSpeed cannot run: it compiles on the CPU, which takes a compiler that pip does not install."""
    if missing := missing_for_deepspeed():
        pytest.skip(f"DeepSpeed on the CPU needs {', '.join(missing)}")
    build_deepspeed()


def build_deepspeed() -> None:
    """Has DeepSpeed's shared-memory operation compiled, which takes a minute once, unless it is there."""
    EXTENSIONS.mkdir(exist_ok=True)
    with (EXTENSIONS / "building").open("w") as ours:
        fcntl.flock(ours, fcntl.LOCK_EX)  # let go by a process that is killed, unlike torch's own lock
        for lock in EXTENSIONS.rglob("lock"):  # one level down or two, as torch is asked
            lock.unlink()
        code = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load(verbose=False)"
        run_group([sys.executable, "-c", code], timeout=1800)


def run_group(command: list[str], timeout: int) -> subprocess.CompletedProcess:
    """Runs a command; when its time is up, all that it has started ends with it."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env=environment(), **options) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, output)


def launcher(profile: str, *options: str) -> list[str]:
    """The command that starts a script on this machine with one of our profiles."""
    config_file = ("--config_file", accelerate_config_file(profile), "--mixed_precision", "no")
    return [sys.executable, "-m", "accelerate.commands.launch", *config_file, *options]


def launch(profile: str, script: str, *arguments: str, result: Path, timeout: int = 3600) -> dict:
    """
    Runs `script` as two processes and returns what it wrote to `result`.

    Raises:
        `AssertionError`: if it wrote nothing, with the end of what it said.
    """
    command = launcher(profile, "--num_processes", "2", "--main_process_port", "0")
    for _ in range(2):
        run = run_group([*command, str(SCRIPTS / script), *arguments], timeout)
        if result.is_file():
            return json.loads(result.read_text())
        if "SIGABRT" not in run.stdout:  # as gloo may do when it leaves
            break
    raise AssertionError(run.stdout[-8000:])


def shard_on_cpu() -> None:
    """
    Where the launcher asked for FSDP: lets accelerate have it. It turns GPU process groups into FSDP and leaves those
    on the CPU with DDP, without saying so.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    initialise = AcceleratorState.__init__

    def initialise_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            for state in (AcceleratorState._shared_state, PartialState._shared_state):
                state["distributed_type"] = DistributedType.FSDP
            AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin

    AcceleratorState.__init__ = initialise_with_fsdp
