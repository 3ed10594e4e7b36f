# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Who plays: a model, an adapter, a server or a file of completions, each by a name."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...data.files import ending_of
from ...usage import UsageError
from ..frozen import frozen_policies, model_beneath


SERVER = "openai:"  # as of judges: any server with OpenAI's API


class Contestant(NamedTuple):
    """
    A policy in the arena.

    Attributes:
        name (`str`): by which it is called.
        kind (`str`): `"model"`, `"frozen"`, `"server"` or `"file"`.
        spec (`str`): path or hub id of a model or an adapter; the file of a frozen policy of a run; model, or
            `model@url`, of a server; a file of completions.
    """

    name: str
    kind: str
    spec: str

    @property
    def is_file(self) -> bool:
        """Whether it is not sampled: its answers are there."""
        return self.kind == "file"

    @property
    def file_name(self) -> str:
        """The name without what a file's name cannot have."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip(".-") or "policy"


def read_contestants(specs: Sequence[str]) -> list[Contestant]:
    """
    The policies that are named, in their order.

    Args:
        specs (`Sequence[str]`):
            Each a path or hub id of a model or adapter, a file of completions, or `openai:MODEL@URL`; with `NAME=`
            before it, if it is to be called otherwise than the last part of that. The folder of an opponent pool,
            `OUTPUT/pool`, or of a checkpoint's frozen policies, `CHECKPOINT/nash`, is all policies that are in it.

    Raises:
        UsageError: If there are fewer than two, or two of one name.
    """
    found = [contestant for spec in specs for contestant in contestants_of(spec)]
    if len(found) < 2:
        raise UsageError(f"an arena needs two policies or more, got {len(found)}: name another one to compare with.")
    by_file = defaultdict(list)
    for contestant in found:
        by_file[contestant.file_name.casefold()].append(contestant)
    for same in by_file.values():
        if len(same) > 1:
            names = " and ".join(dict.fromkeys(repr(contestant.name) for contestant in same))
            raise UsageError(
                f"two policies have the same name, {names}: name them yourself, as in second={same[1].spec}."
            )
    return found


def contestants_of(text: str) -> list[Contestant]:
    """The policies that one text names: see [`read_contestants`]."""
    name, equals, spec = text.partition("=")
    if not equals or not re.fullmatch(r"[^/\\:]+", name) or Path(text).exists():  # a folder may have = in its name
        name, spec = "", text
    if not spec.strip():
        raise UsageError(f"{text!r} names no policy: write a path, a hub id, a file or openai:MODEL@URL.")
    if spec.startswith(SERVER):
        model = spec.removeprefix(SERVER)
        return [Contestant(name or model.partition("@http")[0].rpartition("/")[2], "server", model)]
    if ending_of(spec) is not None and not Path(spec).is_dir():
        file = Path(spec).name
        return [Contestant(name or file[: file.lower().rindex(ending_of(spec))], "file", spec)]
    if frozen := frozen_policies(spec):
        for one in frozen:
            if one.file is not None:
                model_beneath(one.file)
        alone = len(frozen) == 1 and not Path(spec).is_dir()
        return [
            Contestant(
                name if name and alone else f"{name}-{one.name}" if name else one.name,
                "model" if one.file is None else "frozen",
                str(one.model if one.file is None else one.file),
            )
            for one in frozen
        ]
    return [Contestant(name or Path(spec).resolve().name, "model", spec)]
