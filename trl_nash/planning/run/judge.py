# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a plan must know of the judge."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ...usage import UsageError
from ..known import LOCAL_JUDGES, REMOTE_JUDGES, SCORERS
from ..model import load_sizes
from ..words import number_of


UNKNOWN = 8_000_000_000  # weights of a model of which nothing is known
_PAIRRM = 400_000_000
_SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?[BbMm])(?![A-Za-z0-9])")  # 0.6B in a model's name


class Judge(NamedTuple):
    """One judge, or several that are asked the same."""

    kind: str | None = None  # key of `JUDGES`: of several, that of the one that takes longest
    orders: int = 2  # in which it sees a pair
    parameters: int = 0  # of models on the devices that train
    notes: tuple[str, ...] = ()  # what had to be assumed


def judge_of(
    names: Iterable[str], kwargs: dict | None = None, parameters: int = 0, *, local_files_only: bool = True
) -> Judge:
    """
    What a plan must know of the judge.

    Args:
        names (`Iterable[str]`): `reward:org/model`, `openai:model@url`, `package.module:name` ...; none without one.
        kwargs (`dict`, *optional*): their arguments, of which `order` counts.
        parameters (`int`, *optional*, defaults to 0): weights of local ones together, if they are known.
        local_files_only (`bool`, *optional*, defaults to `True`): whether nothing is downloaded to count them.

    Returns:
        [`Judge`]
    """
    names = [str(name) for name in names]
    orders = 1 if isinstance(kwargs, dict) and kwargs.get("order") in ("random", "fixed") else 2
    if not names:
        said = "no --judge: calls are those of one that sees each pair in both orders, and take no time"
        return Judge(orders=orders, parameters=parameters, notes=(said,))
    notes = [f"judge calls are those of each of the {len(names)} judges"] if len(names) > 1 else []
    keys = [_key_of(name) for name in names]
    if not parameters:
        for key, name in zip(keys, names, strict=True):
            if key in LOCAL_JUDGES:
                count, said = _weights_of(name, local_files_only)
                parameters += count
                notes += [said] if said else []
                notes += [f"what the judge {name} writes takes time that is not counted"] * (key == "genrm")
            elif key not in (*REMOTE_JUDGES, "none"):
                notes.append(f"the judge {name} takes no time, which is not known")
    keys.sort(key=lambda key: (key not in REMOTE_JUDGES, key in SCORERS))
    return Judge(None if keys[0] == "none" else keys[0], orders, parameters, tuple(notes))


def _key_of(name: str) -> str:
    """Key of `JUDGES`; a generative judge behind a server is one of `openai`."""
    key = name.partition(":")[0]
    return "openai" if key == "genrm" and re.search("@https?://", name) else key


def _weights_of(name: str, local_files_only: bool) -> tuple[int, str | None]:
    """How many a judge has: counted, by its name, or what is assumed."""
    key, _, target = name.partition(":")
    if key == "dpo" and "," in target:  # a policy and its reference, of one size
        count, said = _weights_of(f"reward:{target.partition(',')[0]}", local_files_only)
        return 2 * count, said and said.replace("reward:", "dpo:")
    if key == "pairrm":
        return _PAIRRM, None
    try:
        if target:
            return load_sizes(target, local_files_only=local_files_only).parameters, None
    except UsageError:
        pass
    if size := _SIZE.findall(name):
        return number_of(size[-1]), f"the judge {name} has {size[-1]} parameters, by its name (--judge_parameters)"
    return UNKNOWN, f"the judge {name} is taken for one of {UNKNOWN // 10**9}B parameters (--judge_parameters)"
