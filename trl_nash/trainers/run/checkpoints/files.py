# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoints are complete, so that a run can go on from them."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open


# transformers' own names, without its modules, which import torch.
TRAINER_STATE_NAME = "trainer_state.json"
PREFIX_CHECKPOINT_DIR = "checkpoint"


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
                with safe_open(file, "numpy"):
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


def round_of(checkpoint: Path) -> dict[str, int] | None:
    """How large the rounds of a run are: "prompts" and "optimizer steps"; `None` of another trainer's checkpoint."""
    file = checkpoint / "nash" / "round.json"
    return json.loads(file.read_text(encoding="utf-8"))["round"] if file.is_file() else None


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


class Found(NamedTuple):
    """The checkpoint to resume from, what else is in its folder, oldest first, and what is wrong with the rest."""

    checkpoint: Path
    complete: list[Path]
    faults: dict[Path, str]

    @property
    def others(self) -> str:
        """A sentence that names the other complete checkpoints, or nothing."""
        names = [path.name for path in self.complete if path.name != self.checkpoint.name]
        return f"{self.checkpoint.parent} has {', '.join(names)}, too." if names else ""


def folder_of_run(resume: str | bool, output_dir: str | Path) -> Path | None:
    """The folder whose last checkpoint is asked for; `None` where a checkpoint itself is."""
    if resume is True or str(resume).lower() in ("true", "latest"):
        return Path(output_dir)
    folder = Path(resume)
    is_checkpoint = (folder / TRAINER_STATE_NAME).exists() or folder.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")
    return folder if folder.is_dir() and not is_checkpoint else None


def find_checkpoint(
    resume: str | bool | None,
    output_dir: str | Path,
    usable: Callable[[set[str]], set[str]] = lambda names: names,
) -> Found | None:
    """
    The checkpoint that a run is to go on from.

    Args:
        resume (`str` or `bool`, *optional*):
            A checkpoint, the folder of a run, or `True`, `"true"` or `"latest"` for the last one in `output_dir`;
            `None`, `False` or `"false"` for none.
        output_dir (`str` or `Path`):
            Of the run.
        usable (`Callable[[set[str]], set[str]]`, *optional*):
            Of the names of complete checkpoints, those that all processes find complete.

    Raises:
        `ValueError`: if there is none, or the given one is not complete.
    """
    if not resume or str(resume).lower() == "false":
        return None
    folder = folder_of_run(resume, output_dir)
    complete, faults = complete_checkpoints(folder or Path(resume).parent)
    if folder is None:
        checkpoint = Path(resume)
        if (fault := fault_of(checkpoint)) is not None:
            names = ", ".join(path.name for path in complete)
            raise ValueError(
                f"`resume_from_checkpoint={str(resume)!r}` is not a complete checkpoint: {fault}. "
                + (f"Complete are {names}: resume from {complete[-1]}." if complete else "Start a new run without it.")
            )
        return Found(checkpoint, complete, {})
    common = usable({path.name for path in complete})
    complete = [path for path in complete if path.name in common]
    if not complete:
        why = "".join(f" {path} is not complete: {fault}." for path, fault in faults.items())
        raise ValueError(
            f"`resume_from_checkpoint={resume!r}` finds no complete checkpoint in {folder}.{why} Start without it."
        )
    return Found(complete[-1], complete, faults)
