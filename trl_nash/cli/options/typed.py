# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Options as they are typed: reading them, and answering the ones that nobody knows with the nearest that exists."""

import argparse
import os
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ...usage import UsageError, did_you_mean


ALIASES = {"torch_dtype": "dtype"}  # what an option was called before

_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+")


class Algorithm(NamedTuple):
    config: str  # a name that `trl_nash` exports
    trainer: str
    name: str
    what: str

    @property
    def summary(self) -> str:
        return f"train with {self.name}: {self.what}"


ALGORITHMS = {
    "onpo": Algorithm("ONPOConfig", "ONPOTrainer", "ONPO", "optimistic mirror descent in self-play"),
    "comal": Algorithm("COMALConfig", "COMALTrainer", "COMAL", "its last iterate converges to the equilibrium"),
    "nash-md": Algorithm("NashMDConfig", "NashMDTrainer", "Nash-MD", "play against a mixture with the start"),
    "inpo": Algorithm("INPOConfig", "INPOTrainer", "INPO", "mirror descent around a reference that stays"),
    "egpo": Algorithm("EGPOConfig", "EGPOTrainer", "EGPO", "a half step, and the same against its policy"),
    "mnpo": Algorithm("MNPOConfig", "MNPOTrainer", "MNPO", "mirror descent around several past policies"),
    "mpo": Algorithm("MPOConfig", "MPOTrainer", "MPO", "mirror descent drawn to a magnet, which moves"),
    "nash-mp": Algorithm(
        "NashMirrorProxConfig", "NashMirrorProxTrainer", "Nash mirror prox", "EGPO with proximal steps"
    ),
    "nash-prox": Algorithm("NashProxConfig", "NashProxTrainer", "Nash Prox", "policy gradient towards a slow target"),
    "online-ipo": Algorithm(
        "OnlineIPOConfig", "OnlineIPOTrainer", "online IPO or IPO-MD", "gradient steps around the start"
    ),
    "iterative-ipo": Algorithm(
        "PairConfig", "NashTrainer", "iterative IPO", "plain mirror descent, the baseline; spirals out on cycles"
    ),
    "sppo": Algorithm("SPPOConfig", "SPPOTrainer", "SPPO", "regress win rates; spirals out on cycles"),
}


class StrictParser(argparse.ArgumentParser):
    """
    A parser of a command's options, written with dashes or underscores and never cut short, that answers what it does
    not know with a [`UsageError`].
    """

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str):
        raise UsageError(f"{message}; `{self.prog} --help` lists the options.")

    def parse_args(self, argv: list[str]) -> argparse.Namespace:
        options, unknown = self.parse_known_args([_with_underscores(argument) for argument in argv])
        for argument in unknown:
            if argument.startswith("--"):
                name = argument.partition("=")[0].lstrip("-")
                known = [option.lstrip("-") for option in self._option_string_actions]
                hint = did_you_mean(name, known, "--") or f"; `{self.prog} --help` lists the options."
                raise UsageError(f"unknown option --{name}{hint}")
        if unknown:
            raise UsageError(f"unexpected argument {unknown[0]!r}: options are written --name value.")
        return options


def _with_underscores(argument: str) -> str:
    name, equals, value = argument.partition("=")
    return name[:2] + name[2:].replace("-", "_") + equals + value if name.startswith("--") else argument


def take_option(argv: list[str], name: str) -> tuple[str | None, list[str]]:
    """
    Takes `--name VALUE` or `--name=VALUE` out of `argv`, with dashes or underscores; the last one counts.

    Returns:
        `tuple[str | None, list[str]]`: The value, `None` if the option is absent, and the other arguments.

    Raises:
        UsageError: If the value is missing.
    """
    spellings = (f"--{name}", f"--{name.replace('_', '-')}")
    value, others, arguments = None, [], iter(argv)
    for argument in arguments:
        option, equals, attached = argument.partition("=")
        if option not in spellings:
            others.append(argument)
            continue
        value = attached if equals else next(arguments, None)
        if not value or (not equals and value.startswith("--")):
            raise UsageError(f"{option} needs a value after it.")
    return value, others


def read_config(path: str) -> dict[str, Any]:
    """
    Reads a YAML file of options and sets the environment variables of its `env:` mapping.

    Args:
        path (`str`):
            The file.

    Returns:
        `dict[str, Any]`: The options, without `env`.

    Raises:
        UsageError: If the file is missing, is not YAML, names an option twice, or holds anything else than a mapping.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            loader = yaml.SafeLoader(file)
            node = loader.get_single_node()
            # Before merge keys (`<<`) are filled in: what they bring may be overridden.
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            names = [key.value for key, _ in pairs if isinstance(key.value, str)]
            _read_floats(node, inside=False)
            values = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}.") from None
    except yaml.YAMLError as error:  # it says where, and shows nothing of the file, which may hold secrets
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not valid YAML: {error}.") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply to be read.") from None
    except (ValueError, LookupError, AttributeError):  # what the constructors of dates, numbers and tags let through
        raise UsageError(f"{path} is not valid YAML: a date or number in it cannot be.") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold options as `name: value` lines, not a {type(values).__name__}.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{path} has {twice[0]} twice: remove one of them.")
    for old, name in ALIASES.items():
        if old in values and name in values:
            raise UsageError(f"{path} has {name}, and {old}, which is its old name: remove one of them.")
    values = {ALIASES.get(name, name): value for name, value in values.items()}
    environment = values.pop("env", None)
    _set_environment(path, {} if environment is None else environment)
    return values


def _read_floats(node: Any, *, inside: bool) -> None:
    """
    Has `1e-7` read as a number within dictionaries and lists, as JSON and YAML 1.2 do, and PyYAML does not. What is
    outside is read as its option is.
    """
    import yaml

    if isinstance(node, yaml.MappingNode):
        for _, value in node.value:
            _read_floats(value, inside=inside or isinstance(value, yaml.CollectionNode))
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _read_floats(value, inside=inside)
    elif inside and isinstance(node, yaml.ScalarNode) and node.style is None and _FLOAT.fullmatch(node.value):
        node.tag = "tag:yaml.org,2002:float"


def _set_environment(path: str, environment: Any) -> None:
    if not isinstance(environment, dict):
        raise UsageError(f"{path}: `env` must be a mapping of variable names to values.")
    for name, value in environment.items():
        try:
            if value is None or isinstance(value, dict | list):
                raise ValueError
            os.environ[str(name)] = str(value)
        except (ValueError, OSError):  # the value may be secret
            raise UsageError(f"{path}: `env` cannot set {name!r:.80}: it needs a name and a text or number.") from None


def apply_config(
    path: str | None, config: dict[str, Any], parser: argparse.ArgumentParser, launch_parser: argparse.ArgumentParser
) -> list[str]:
    """
    Makes the options of a YAML file the defaults of the script's parser.

    Args:
        path (`str`, *optional*):
            The file, for messages.
        config (`dict[str, Any]`):
            What [`read_config`] found in it.
        parser ([`~trl_nash.cli.options.parser.NashParser`]):
            The script's parser.
        launch_parser (`argparse.ArgumentParser`):
            The parser of `accelerate launch`.

    Returns:
        `list[str]`: The options in it that are the launcher's, as they would be typed.

    Raises:
        UsageError: If a name is unknown or a value is of the wrong kind.
    """
    script_names = {action.dest for action in parser._actions} - {"help"}
    launch_actions = {action.dest: action for action in launch_parser._actions if action.dest != "help"}
    launch_args = []
    for name, value in config.items():
        if name in script_names:
            continue
        if name in {"accelerate_config", *launch_actions} and isinstance(value, dict | list):
            raise UsageError(f"{path}: {name} takes one value, not a {type(value).__name__}.")
        if value is None and name in {"accelerate_config", *launch_actions}:
            continue  # as if it were not there
        if name == "accelerate_config" or (name in launch_actions and launch_actions[name].nargs != 0):
            launch_args.append(f"--{name}={value}")
        elif name not in launch_actions:
            known = [*_long_names(parser), *_long_names(launch_parser), "accelerate_config", "env"]
            raise UsageError(f"{path}: unknown option {name}{did_you_mean(str(name), known)}")
        elif not isinstance(value, bool):
            raise UsageError(f"{path}: {name} is true or false, not {shown(value)}.")
        elif value:
            launch_args.append(f"--{name}")
    try:
        parser.set_defaults_with_config(**{name: value for name, value in config.items() if name in script_names})
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None
    return launch_args


def split_options(
    argv: list[str], parser: argparse.ArgumentParser, launch_parser: argparse.ArgumentParser
) -> tuple[list[str], list[str]]:
    """
    Tells the script's options from those of `accelerate launch`; what both know is the script's.

    Args:
        argv (`list[str]`):
            Typed options, as `--name value ...` or `--name=value`.
        parser (`argparse.ArgumentParser`):
            The script's parser.
        launch_parser (`argparse.ArgumentParser`):
            The parser of `accelerate launch`.

    Returns:
        `tuple[list[str], list[str]]`: The script's options and the launcher's, each with their values.

    Raises:
        UsageError: If neither knows an option, or a value belongs to none.
    """
    script_args, launch_args = [], []
    side, room = None, 0  # where values go, and how many more the option before them takes
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if name.startswith("--") or name in launch_parser._option_string_actions:
            ours = parser._option_string_actions.get(name)
            action = ours or launch_parser._option_string_actions.get(name)
            if action is None:
                known = [*_long_names(parser), *_long_names(launch_parser), "config", "accelerate_config"]
                raise UsageError(f"unknown option {name}{did_you_mean(name.lstrip('-'), known, '--')}")
            side = launch_args if ours is None else script_args
            room = 0 if equals else {None: 1, "?": 1, "+": float("inf")}.get(action.nargs, 0)
        elif room > 0:
            room -= 1
        else:
            raise UsageError(f"unexpected argument {argument!r}: options are written --name value.")
        side.append(argument)
    return script_args, launch_args


def shown(value: Any) -> str:
    """A value of the user's in an error message."""
    try:
        return f"{value!r:.80}"
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def _long_names(parser: argparse.ArgumentParser) -> Iterable[str]:
    return (name.lstrip("-") for name in parser._option_string_actions if name.startswith("--"))
