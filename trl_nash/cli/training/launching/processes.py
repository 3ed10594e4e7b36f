# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How many processes train, and how `accelerate launch` is told to start them."""

import argparse
import importlib.resources
import importlib.util
import os
from pathlib import Path

from ....extras import pip_install
from ....usage import UsageError
from ...options.typed import read_config
from .hardware import visible_devices
from .threads import share_cores


TRAINING_MODULE = "trl_nash.cli.training.train"
_SHIPPED = importlib.resources.files("trl_nash").joinpath("accelerate_configs")
_STRATEGY_FLAGS = ("use_deepspeed", "use_fsdp", "use_megatron_lm", "tpu")
_STRATEGY_TYPES = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "XLA")


def launch_parser() -> argparse.ArgumentParser:
    """The parser of `accelerate launch`, raising [`UsageError`] where it would print its usage and exit."""
    from accelerate.commands.launch import launch_command_parser

    def error(message: str):
        raise UsageError(f"accelerate launch: {message}.")

    parser = launch_command_parser()
    parser.error = error
    return parser


def accelerate_config_file(name: str) -> str:
    """
    The file behind `--accelerate_config`: the file of that name, or the configuration of that name that we ship.

    Args:
        name (`str`):
            A file, or a name such as `"zero2"`.

    Returns:
        `str`

    Raises:
        UsageError: If there is neither.
    """
    if Path(name).is_file():
        return name
    shipped = sorted(Path(file.name).stem for file in _SHIPPED.iterdir() if file.name.endswith(".yaml"))
    if name in shipped:
        return str(_SHIPPED / f"{name}.yaml")
    raise UsageError(f"--accelerate_config {name} is neither a file nor one of {', '.join(shipped)}.")


def complete_launch_options(launch_args: list[str], *, use_cpu: bool = False) -> tuple[list[str], list[str]]:
    """
    Adds what `accelerate launch` would ask for or get wrong: the number of processes, and how they are distributed.

    Args:
        launch_args (`list[str]`):
            Options of `accelerate launch` that the user gave.
        use_cpu (`bool`, *optional*, defaults to `False`):
            Whether the script was told to train on the CPU.

    Returns:
        `tuple[list[str], list[str]]`: Options of `accelerate launch`, and those that they mean for the script.

    Raises:
        UsageError: If they cannot run on this machine.
    """
    from accelerate.commands.config import default_config_file

    given = launch_parser().parse_args([*launch_args, TRAINING_MODULE])
    config_file = given.config_file or (default_config_file if os.path.isfile(default_config_file) else None)
    config = {} if config_file is None else read_config(config_file)
    strategy = str(config.get("distributed_type", "NO"))
    machines = given.num_machines or config.get("num_machines") or 1
    use_cpu = use_cpu or given.cpu or bool(config.get("use_cpu"))
    devices = 0 if use_cpu else _devices(given.gpu_ids)
    configured = config.get("num_processes")  # "gpu" in the files that we ship
    configured = configured if isinstance(configured, int) and configured > 0 else None
    processes = given.num_processes or configured or max(devices, 1) * machines

    if given.mixed_precision == "fp8":
        raise UsageError("--mixed_precision fp8 is not supported: use bf16 or fp16.")
    if machines == 1 and 0 < devices < processes:
        raise UsageError(
            f"{processes} processes need as many accelerators, and {devices} can be seen here: use --num_processes "
            f"{devices}, or --use_cpu to train on the CPU."
        )
    if devices == 0 and (given.use_fsdp or strategy == "FSDP"):
        raise UsageError(
            "FSDP needs accelerators: on the CPU accelerate would train with DDP without saying so. Use "
            "--accelerate_config zero3 to shard there, or leave it out."
        )
    if (given.use_deepspeed or strategy == "DEEPSPEED") and importlib.util.find_spec("deepspeed") is None:
        raise UsageError(f"DeepSpeed is not installed: {pip_install('deepspeed')}")

    # The script decides the precision. What accelerate would add (from its file, say) must not differ from it.
    added = ["--num_processes", str(processes), "--mixed_precision", "no"]
    if config_file is None:
        added += ["--num_machines", str(machines), "--dynamo_backend", given.dynamo_backend or "no"]
    if machines == 1 and given.main_process_port is None and not config.get("main_process_port"):
        added += ["--main_process_port", "0"]  # any free one, so that two runs can share a machine
    distributed = any(getattr(given, flag) for flag in _STRATEGY_FLAGS) or strategy in _STRATEGY_TYPES
    if processes > 1 and not distributed and not given.multi_gpu:
        added.append("--multi_gpu")  # despite its name gloo on the CPU, where --cpu would start a single process
    if processes == 1 and devices > 1:
        added += ["--gpu_ids", os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]]  # or Trainer takes them all
    if devices == 0:
        share_cores(max(processes // machines, 1))

    script_args = ["--use_cpu=True"] if use_cpu else []
    if given.mixed_precision is not None:
        script_args += [f"--{kind}={given.mixed_precision == kind}" for kind in ("bf16", "fp16")]
    return [argument for argument in launch_args if argument != "--cpu"] + added, script_args


def _devices(gpu_ids: str | None) -> int:
    visible = visible_devices()
    return min(visible, len(gpu_ids.split(","))) if gpu_ids not in (None, "all") else visible
