# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Where the frozen policies of a run lie, for others than the run: in a pool, or in a checkpoint."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..usage import UsageError


POOL_FOLDER = "pool"  # in an output folder
MEMBERS = "members.json"  # in it
START_NAME = "start"  # of the policy that the run has started from
POLICIES = "policies"  # the folder beneath with the weights
_FIRST = "-00000.safetensors"  # what the name of the first process's weights ends with
_MODEL_FILES = ("adapter_config.json", "config.json")


class Frozen(NamedTuple):
    """A frozen policy: its name, and the first of its files, or a model where it is one."""

    name: str
    file: Path | None
    model: str | None = None


def write_members(folder: Path, files: Mapping[str, str], start: str | None = None) -> None:
    """
    Says which policies are in a pool.

    Args:
        folder (`Path`): of the pool.
        files (`Mapping[str, str]`): by the name of a policy what its files are called.
        start (`str`, *optional*): path or hub id of the model that is the start, where no file has that.
    """
    members = {START_NAME: {"model": str(Path(start).resolve()) if Path(start).exists() else start}} if start else {}
    members |= {name: {"file": file + _FIRST} for name, file in files.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MEMBERS).write_text(json.dumps(members, indent=1) + "\n", encoding="utf-8")


def frozen_policies(path: str | Path) -> list[Frozen] | None:
    """
    The frozen policies that a path names: all of a pool, `OUTPUT/pool`, or of a checkpoint,
    `OUTPUT/checkpoint-8/nash`, or the one whose file it is.

    Returns:
        `list[Frozen]`: `None` if it names something else.

    Raises:
        UsageError: If the list of a pool is damaged, or a file is missing.
    """
    path = Path(path)
    if path.is_file() and path.name.endswith(_FIRST):
        return [Frozen(_name_of(path), path)]
    if (path / MEMBERS).is_file():
        try:
            members = json.loads((path / MEMBERS).read_text(encoding="utf-8"))
            found = [
                Frozen(name, path / POLICIES / member["file"] if "file" in member else None, member.get("model"))
                for name, member in members.items()
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(f"{path / MEMBERS} is damaged: name the folder {path / POLICIES} instead.") from None
        if missing := [member.file for member in found if member.file is not None and not member.file.is_file()]:
            raise UsageError(f"{missing[0]} is missing: copy the whole folder {path}.")
        return found
    for folder in (path, path / POLICIES):
        if folder.is_dir() and (files := sorted(folder.glob(f"*{_FIRST}"))):
            # Rounds in their order, behind what has no number.
            return [Frozen(_name_of(file), file) for file in sorted(files, key=lambda file: _numbers(file.name))]
    return None


def model_beneath(file: Path) -> Path:
    """
    The model or adapter whose trained weights a file of a frozen policy has: the nearest one above it.

    Raises:
        UsageError: If there is none.
    """
    folders = file.resolve().parents
    found = next((folder for folder in folders if any((folder / name).is_file() for name in _MODEL_FILES)), None)
    if found is None:
        raise UsageError(
            f"{file} has trained weights only, and no folder above it has a model: save the trainer's model to its "
            "output_dir (`trainer.save_model()`), or name a checkpoint's policies, as in checkpoint-8/nash."
        )
    return found


def _name_of(file: Path) -> str:
    name = file.name.removesuffix(_FIRST)
    return START_NAME if name == "initial" else name


def _numbers(name: str) -> list[int]:
    return [int(part) for part in name.removesuffix(_FIRST).split("_") if part.isdecimal()]
