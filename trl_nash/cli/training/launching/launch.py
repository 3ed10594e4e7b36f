# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Starts a training command through `accelerate launch`.

The two parsers that know the options tell them apart. No configuration class is built here: that happens in the
launched processes, on the hardware that they train on.
"""

import logging
import os
import signal
import subprocess
from typing import Any

from ...command import COMMAND, shown_command
from ...errors import is_user_error, report
from ...options.reading import read_options
from ...options.typed import take_option


def run(algorithm: str, argv: list[str]) -> int:
    """
    Reads the options of `trl-nash <algorithm>` and trains in as many processes as they ask for.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.
        argv (`list[str]`):
            What was typed after it.

    Returns:
        `int`: The exit code.

    Raises:
        UsageError: If an option is unknown, misses its value or has one of the wrong kind.
    """
    if asked := {"-h", "--help", "--help-all", "--help_all"} & set(argv):
        from ...options.parser import NashParser

        print(NashParser(algorithm).format_help(everything=not asked <= {"-h", "--help"}), end="")
        return 0
    launch_args, script_args = plan_launch(algorithm, argv)
    os.environ[COMMAND] = shown_command(algorithm, argv)
    return launch(launch_args, [algorithm, *script_args])


def plan_launch(algorithm: str, argv: list[str]) -> tuple[list[str], list[str]]:
    """
    Divides the typed options into those of `accelerate launch`, completed for this machine, and the script's.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.
        argv (`list[str]`):
            What was typed after it.

    Returns:
        `tuple[list[str], list[str]]`: Options of `accelerate launch` and of `trl_nash.cli.training.train`.

    Raises:
        UsageError: If anything in them cannot be run.
    """
    options = read_options(algorithm, argv)
    from .processes import accelerate_config_file, complete_launch_options

    accelerate_config, launch_args = take_option(options.launch_args, "accelerate_config")
    if accelerate_config is not None:
        launch_args = ["--config_file", accelerate_config_file(accelerate_config), *launch_args]
    launch_args, implied = complete_launch_options(launch_args, use_cpu=options.arguments.use_cpu)
    config_args = [] if options.config_file is None else ["--config", options.config_file]
    return launch_args, [*config_args, *options.script_args, *implied]


def launch(launch_args: list[str], script_args: list[str]) -> int:
    """
    Runs `accelerate launch` in this process.

    Args:
        launch_args (`list[str]`):
            Its options.
        script_args (`list[str]`):
            The algorithm and the options of `trl_nash.cli.training.train`.

    Returns:
        `int`: The exit code of the first process that failed, 0 if none did.
    """
    from accelerate.commands.launch import launch_command
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from .processes import TRAINING_MODULE, launch_parser

    for name in ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api"):
        # Their account of a process that ended says less than the process itself, and buries it.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    arguments = launch_parser().parse_args([*launch_args, "--module", TRAINING_MODULE, *script_args])
    handlers = {number: signal.signal(number, _forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        launch_command(arguments)
    except subprocess.CalledProcessError as error:
        return _exit_code(error.returncode, "the training process")
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda item: item[1].timestamp)
        return _exit_code(failure.exitcode, f"training process {rank}")
    except SignalException as error:
        return 128 + error.sigval
    except Exception as error:
        if not is_user_error(error, starting=True):
            raise
        return report(error)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def _exit_code(code: int, process: str) -> int:
    """The exit code for the shell. A process that was killed could not say so itself, so this one does."""
    if code >= 0:
        return code
    if -code not in (signal.SIGINT, signal.SIGTERM):
        name = signal.Signals(-code).name
        print(f"trl-nash: {process} was ended by {name}{', as when memory runs out' * (name == 'SIGKILL')}.")
    return 128 - code


def _forward(number: int, frame: Any) -> None:
    """Hands a signal on to the training process, which stops in its own way, and goes on waiting for it."""
    import psutil

    for child in psutil.Process().children():
        child.send_signal(number)
