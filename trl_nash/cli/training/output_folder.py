# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The folder of a run: what another run has left there is gone on with, or given up, as the user says."""

import argparse
import shutil
from pathlib import Path

from ...usage import UsageError


DEFAULT = "trainer_output"  # where transformers writes to, if nobody says
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "adapter_model.safetensors", "pytorch_model.bin")


def check_output_folder(arguments: argparse.Namespace) -> None:
    """
    Refuses to write over what is in the folder of a run.

    Args:
        arguments (`argparse.Namespace`): with `output_dir`, `resume_from_checkpoint`, `overwrite`, and whatever
            options may name a file or a folder that the run reads.

    Raises:
        UsageError: If another run has written there, and this one neither goes on with it nor overwrites it, or would
            overwrite what it reads.
    """
    folder = Path(arguments.output_dir or DEFAULT)
    resume = str(arguments.resume_from_checkpoint or "false")
    goes_on = resume.lower() != "false"
    if goes_on and arguments.overwrite:
        raise UsageError("--overwrite starts anew and --resume_from_checkpoint goes on: leave one of them out.")
    if arguments.overwrite:
        _check_that_it_reads_none(arguments, [path.resolve() for path in (*checkpoints_in(folder), folder / "pool")])
    is_here = resume.lower() in ("true", "latest") or folder.resolve() in (p := Path(resume).resolve(), p.parent)
    if arguments.overwrite or (goes_on and is_here):
        return
    checkpoints = [path.name for path in checkpoints_in(folder)]
    found = ["a model"] if any((folder / name).is_file() for name in _WEIGHTS) else []
    if checkpoints:
        shown = checkpoints if len(checkpoints) < 4 else [checkpoints[0], "...", checkpoints[-1]]
        found.append(", ".join(shown))
    if not found:
        return
    go_on = "add --resume_from_checkpoint latest to go on with it, " if checkpoints and not goes_on else ""
    raise UsageError(
        f"--output_dir {folder} is in use: it holds {' and '.join(found)} of another run. Name another folder, {go_on}"
        "or add --overwrite to give it up."
    )


def _check_that_it_reads_none(arguments: argparse.Namespace, checkpoints: list[Path]) -> None:
    """Whatever option it is: a model, a file of prompts, the model of a judge (`reward:out/checkpoint-5`)."""
    for name, value in vars(arguments).items():
        for text in value if isinstance(value, list) else [value]:
            named = {text, text.partition(":")[2]} - {""} if isinstance(text, str) else ()
            paths = [Path(part).resolve() for part in named]
            if name != "output_dir" and any(path.is_relative_to(old) for path in paths for old in checkpoints):
                raise UsageError(f"--overwrite would give up {text}, which --{name} reads: name another --output_dir.")


def checkpoints_in(folder: Path) -> list[Path]:
    """The folders of checkpoints, complete or not, by their steps."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted((path for path in found if path.is_dir()), key=lambda path: int(path.name.rpartition("-")[2]))


def give_up(folder: str | Path) -> None:
    """Removes an earlier run's checkpoints and opponent pool, which would pass for this run's."""
    from ...evaluation.frozen import MEMBERS, POLICIES, POOL_FOLDER

    pool = Path(folder) / POOL_FOLDER
    if (pool / MEMBERS).is_file() and not pool.is_symlink():
        (pool / MEMBERS).unlink()
        shutil.rmtree(pool / POLICIES, ignore_errors=True)
    for path in checkpoints_in(Path(folder)):
        path.unlink() if path.is_symlink() else shutil.rmtree(path)  # what a link leads to is not of this folder
