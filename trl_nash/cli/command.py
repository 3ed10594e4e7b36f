# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The command as it was typed, for the model card, without what may be secret."""

import json
import re
import shlex
from typing import Any


COMMAND = "TRL_NASH_COMMAND"  # environment variable in which the launcher hands it to the processes that it starts
_SECRET = re.compile(r"(^|_)(hub_token|token|api_?key|key|secret|password|authorization|headers?)$")
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # of a URL
_NO_SECRETS = {"eos_token", "pad_token", "bos_token"}
_HIDDEN = "..."


def shown_command(algorithm: str, argv: list[str]) -> str:
    """
    The command line of a training command.

    Args:
        algorithm (`str`): a key of `ALGORITHMS`.
        argv (`list[str]`): what was typed after it.

    Returns:
        `str`: Without the values of options that are secrets, all texts in `--judge_kwargs`, and logins of URLs.
    """
    shown, name = [], ""
    for argument in argv:
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            name = option.lstrip("-").replace("-", "_")
            shown.append(f"{option}={_shown(name, value)}" if equals else option)
        else:
            shown.append(_shown(name, argument))
    return shlex.join(["trl-nash", algorithm, *(_LOGIN.sub(_HIDDEN, text) for text in shown)])


def _shown(name: str, value: str) -> str:
    if _is_secret(name):
        return _HIDDEN
    try:
        found = json.loads(value)
    except ValueError:
        return _HIDDEN if name == "judge_kwargs" else value
    return json.dumps(_without_secrets(found, name == "judge_kwargs")) if isinstance(found, dict | list) else value


def _without_secrets(value: Any, all_texts: bool) -> Any:
    if isinstance(value, dict):
        return {
            key: _HIDDEN if _is_secret(str(key).lower()) else _without_secrets(part, all_texts)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(part, all_texts) for part in value]
    return _HIDDEN if all_texts and isinstance(value, str) else value


def _is_secret(name: str) -> bool:
    return name not in _NO_SECRETS and _SECRET.search(name) is not None
