# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What was typed after a training command, and its YAML file, read and checked. No torch is imported."""

import argparse
from typing import NamedTuple

from .checks import check
from .parser import NashParser
from .table import LAUNCHER, options_of
from .typed import apply_config, read_config, split_options, take_option


class Options(NamedTuple):
    """The options of a training command, as the launcher and every launched process read them."""

    arguments: argparse.Namespace  # all of the script's
    given: frozenset[str]  # those of them that the user gave
    script_args: list[str]  # as they were typed
    launch_args: list[str]  # those of `accelerate launch`, of the file and then as they were typed
    config_file: str | None
    parser: NashParser


def read_options(algorithm: str, argv: list[str]) -> Options:
    """
    Reads and checks the options of a training command.

    Args:
        algorithm (`str`): a key of `ALGORITHMS`.
        argv (`list[str]`): what was typed after it.

    Returns:
        [`Options`]

    Raises:
        UsageError: If an option is unknown, misses its value, has one of the wrong kind, or would do nothing.
    """
    config_file, argv = take_option(argv, "config")
    config = {} if config_file is None else read_config(config_file)  # sets its `env` before anything is imported
    accelerate_config, argv = take_option(argv, "accelerate_config")
    parser, launcher = NashParser(algorithm), argparse.ArgumentParser(add_help=False)
    for option in options_of(LAUNCHER):
        option.add_to(launcher)
    script_args, typed = split_options(argv, parser, launcher)
    launch_args = apply_config(config_file, config, parser, launcher)
    if accelerate_config is not None:
        launch_args.append(f"--accelerate_config={accelerate_config}")
    arguments = parser.parse_args(script_args)
    known = {name: action.dest for name, action in parser._option_string_actions.items()}
    given = {known[name] for name in (argument.partition("=")[0] for argument in script_args) if name in known}
    replaced = {"num_train_epochs"} if "max_steps" in given else set()  # in the file, by what is typed
    given |= {name for name, value in config.items() if value is not None and f"--{name}" in known} - replaced
    check(arguments, given)
    # What is typed comes after what the file says, so that it counts.
    return Options(arguments, frozenset(given), script_args, [*launch_args, *typed], config_file, parser)
