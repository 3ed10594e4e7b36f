# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoints are complete, so that a run can go on from them."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR


def fault_of(checkpoint: Path) -> str | None:
    """
    Why nothing can be resumed from a checkpoint: its state, which is written when all other files are there, or a file
    that was lost or cut since, by a copy or a power failure. `None` if it is complete.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"{TRAINER_STATE_NAME}, which is written last, is missing or cut"
    if (checkpoint / "nash").is_dir():
        try:
            files = json.loads((checkpoint / "nash" / "round.json").read_text(encoding="utf-8"))["files"]
        except (OSError, ValueError, KeyError):
            return "nash/round.json, which lists the files, is missing or cut"
        if missing := [name for name in files if not (checkpoint / name).is_file()]:
            return f"{missing[0]} is missing"
    for file in sorted(checkpoint.rglob("*")):
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, "pt"):
                    continue
            except SafetensorError:
                return f"{file.relative_to(checkpoint)} is cut"
        if file.suffix in (".pt", ".pth", ".bin") and not zipfile.is_zipfile(file):
            return f"{file.relative_to(checkpoint)} is cut"
    return None


def _lack_of(checkpoint: Path) -> str | None:
    if (checkpoint / "nash").is_dir():
        return None
    return "it holds a model and no state of a run, as `save_only_model` and other trainers save it"


def how_to_go_on(which: str, save_only_model: bool) -> str:
    """From what a run that stopped can go on: the end of a sentence."""
    return f"start a new run from {which} saved model" if save_only_model else f"resume from {which} checkpoint"


def step_of(checkpoint: Path) -> int:
    """The optimizer step after which a checkpoint was saved."""
    return int(checkpoint.name.rpartition("-")[2])


def complete_checkpoints(folder: str | Path) -> tuple[list[Path], dict[Path, str]]:
    """The checkpoints in an output folder to resume from, oldest first, and the fault of each of the others."""
    found = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    found = sorted((path for path in found if path.name.rpartition("-")[2].isdecimal()), key=step_of)
    faults = {path: fault for path in found if (fault := fault_of(path) or _lack_of(path)) is not None}
    return [path for path in found if path not in faults], faults
