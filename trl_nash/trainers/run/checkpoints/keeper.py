# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a checkpoint holds of a round, and from which checkpoints a run can go on."""

import json
from collections.abc import Callable
from pathlib import Path

from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ....algorithms import Policy
from ....policies import FrozenPolicies
from ....rounds.batch import PairBatch, load_batches, save_batches
from ..reports.reporter import Reporter
from ..settings import LENGTHS, OF_OPTIMIZER, SHAPE_OF_ADAPTER, changes
from .files import find_checkpoint, step_of


logger = get_logger("trl_nash")  # speaks on the main process only

FOLDER = "nash"  # in a checkpoint


class Keeper:
    """
    Keeps in checkpoints what a round needs: frozen policies, micro-batches, the epoch in which it began. Which
    policies are frozen is the business of `algorithms.needed`.

    Args:
        args ([`NashConfig`]): of the run.
        accelerator ([`~accelerate.Accelerator`]): whose ranks save together.
        policies ([`FrozenPolicies`]): the frozen policies.
        algorithm (`str`): its name: another algorithm's checkpoints are refused.
        reporter ([`Reporter`]): says what the user should know, and knows what it has said.
        settings (`Callable[[], dict[str, str]]`): what makes the run what it is.
    """

    def __init__(
        self,
        args,
        accelerator: Accelerator,
        policies: FrozenPolicies,
        algorithm: str,
        reporter: Reporter,
        settings: Callable[[], dict[str, str]],
    ):
        self._args = args
        self._accelerator = accelerator
        self._policies = policies
        self._algorithm = algorithm
        self._reporter = reporter
        self._settings = settings

    def choose(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """
        The checkpoint to resume from, complete on all ranks: see [`find_checkpoint`].

        Raises:
            `ValueError`: if there is none, or the given one is not complete.
        """
        found = find_checkpoint(resume_from_checkpoint, self._args.output_dir, self._on_all_ranks)
        if found is None:
            return None
        last = found.checkpoint
        if later := [f"{path} ({fault})" for path, fault in found.faults.items() if step_of(path) > step_of(last)]:
            logger.warning("Resuming from %s. Not complete, and left alone: %s.", last, ", ".join(later))
        else:
            logger.info("Resuming from %s. %s", last, found.others)
        return str(last)

    def _on_all_ranks(self, names: set[str]) -> set[str]:
        return set.intersection(*map(set, gather_object([sorted(names)])))

    def check(self, checkpoint: Path) -> None:
        """Raises a `ValueError` if these processes, with these options, cannot go on from a checkpoint."""
        if not (checkpoint / FOLDER).is_dir():
            raise ValueError(
                f"{checkpoint} has no folder `{FOLDER}`: it was not saved by trl-nash, or with `save_only_model`. "
                "Give its path as the model to start a new run from it."
            )
        state = self._state(checkpoint)
        if state["algorithm"] != self._algorithm:
            raise ValueError(
                f"{checkpoint} was saved by {state['algorithm']}, and this is {self._algorithm}: give its path as the "
                "model to start a new run from it."
            )
        self._check_round(checkpoint, state["round"])
        self._check_settings(checkpoint, changes(state["settings"], self._settings()))
        self._check_processes(checkpoint, state["processes"])

    def _check_round(self, checkpoint: Path, saved: dict[str, int]) -> None:
        """The place of a step in a run follows from the size of a round: another size would be another place."""
        now = self._round
        if differing := [name for name in now if saved[name] != now[name]]:
            then, these = (", ".join(f"{values[name]} {name}" for name in differing) for values in (saved, now))
            raise ValueError(
                f"{checkpoint} was saved with rounds of {then}, and these are of {these}: resume with the rounds that "
                "it was saved with, or give its path as the model to start a new run from it."
            )

    def _check_settings(self, checkpoint: Path, changed: dict[str, str]) -> None:
        for names, what in ((SHAPE_OF_ADAPTER, "adapter"), (OF_OPTIMIZER, "optimizer")):
            if changed.keys() & names:
                said = "; ".join(f"{name}: {values}" for name, values in changed.items() if name in names)
                raise ValueError(
                    f"{checkpoint} has its own {what}, which goes on as it is ({said}): resume with the settings that "
                    "it was saved with, or give its path as the model to start a new run from it."
                )
        if changed:
            said = "; ".join(f"{name}: {values}" for name, values in changed.items())
            logger.warning("The run goes on from %s with other settings. %s.", checkpoint, said)

    def _check_processes(self, checkpoint: Path, saved: int) -> None:
        now = self._args.world_size
        if saved == now:
            return
        if self._accelerator.state.deepspeed_plugin is not None:
            raise ValueError(
                f"{checkpoint} was saved by {saved} processes, and DeepSpeed cannot share its optimizer's state out "
                f"among {now}: resume with {saved}, or give its path as the model to start a new run from it."
            )
        steps = self._args.optimizer_steps_per_round
        if TrainerState.load_from_json(checkpoint / TRAINER_STATE_NAME).global_step % steps:
            raise ValueError(
                f"{checkpoint} was saved by {saved} processes in the middle of a round, which cannot be shared out "
                f"among {now}: resume with {saved}, or from a checkpoint between rounds, whose step is a multiple of "
                f"{steps}."
            )
        self._reporter.say_once(
            f"{checkpoint} was saved by {saved} processes and is resumed by {now}: random numbers will not be those "
            "of the run that was stopped."
        )

    @property
    def _round(self) -> dict[str, int]:
        args = self._args
        return {"prompts": args.prompts_per_round, "optimizer steps": args.optimizer_steps_per_round}

    @staticmethod
    def _state(checkpoint: Path) -> dict:
        return json.loads((checkpoint / FOLDER / "round.json").read_text())

    def load(self, checkpoint: Path, within_round: bool) -> tuple[list[PairBatch], int]:
        """
        Restores the frozen policies.

        Returns:
            The micro-batches of the round that the checkpoint was saved in the middle of, none between rounds, and the
            epoch in which that round began.
        """
        folder, rank = checkpoint / FOLDER, self._accelerator.process_index
        state = self._state(checkpoint)
        policies = [Policy(*policy) for policy in state["policies"]]
        self._policies.load(folder / "policies", rank, policies, self._args.world_size)
        self._policies.averaged = state["averaged"]
        if not changes(state["settings"], self._settings()).keys() - LENGTHS:  # else advice may have been heeded
            self._reporter.said |= set(state["said"])
        if not within_round:
            return [], state["epoch"]
        file = folder / f"round-{rank:05d}.safetensors"
        if not file.is_file():
            raise ValueError(f"{file} is missing: copy the whole checkpoint, or resume from another one.")
        return load_batches(file), state["epoch"]

    def save(self, checkpoint: Path, batches: list[PairBatch], epoch: int) -> None:
        """Writes this rank's part: frozen policies, `batches` in the middle of a round, the round's epoch."""
        folder, rank = checkpoint / FOLDER, self._accelerator.process_index
        folder.mkdir(parents=True, exist_ok=True)
        self._policies.save(folder / "policies", rank)
        if batches:
            save_batches(batches, folder / f"round-{rank:05d}.safetensors")
        if self._args.should_save:
            state = {
                "algorithm": self._algorithm,
                "averaged": self._policies.averaged,
                "epoch": epoch,
                "policies": list(self._policies),
                "processes": self._args.world_size,
                "round": self._round,
                "said": sorted(self._reporter.said),
                "settings": self._settings(),
            }
            (folder / "round.json").write_text(json.dumps(state))

    def list_files(self, checkpoint: Path) -> None:
        """Writes which files make the checkpoint complete. Called by all ranks, when theirs are written."""
        self._accelerator.wait_for_everyone()
        if self._args.should_save and (rounds := checkpoint / FOLDER / "round.json").is_file():
            files = sorted(str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*") if file.is_file())
            rounds.write_text(json.dumps(json.loads(rounds.read_text()) | {"files": files}))
