# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Stopping with nothing lost, and going on as if nothing had happened."""

import json
import shutil
from pathlib import Path

import torch
from accelerate.logging import get_logger
from accelerate.utils import gather_object
from safetensors import SafetensorError
from torch.distributed.tensor import DTensor
from torch.utils.data import IterableDataset
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from ..judges.base import JudgeError
from ..rounds.batch import IGNORED, PairBatch, load_batches, save_batches
from ..rounds.log import set_random_state
from .checkpoint_files import complete_checkpoints, fault_of, step_of


logger = get_logger("trl_nash")  # speaks on the main process only


class Stopped(RuntimeError):
    """The run was asked to stop, in the middle of a round, and has saved a checkpoint."""


class StopWhenAsked(TrainerCallback):
    """Ends a run at the end of a step, with a checkpoint, after [`~CheckpointMixin.request_stop`]."""

    def __init__(self, trainer: "CheckpointMixin"):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer._stop_is_requested():
            self.trainer.stopped = control.should_save = control.should_training_stop = True


class CheckpointMixin:
    """Checkpoints that hold a round. Part of [`NashTrainer`]."""

    _saved: Path | None = None  # the last checkpoint of this run

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = self._last_checkpoint()
        elif resume_from_checkpoint:
            checkpoint = Path(resume_from_checkpoint)
            if (fault := fault_of(checkpoint)) is not None:
                complete, _ = complete_checkpoints(checkpoint.parent)
                raise ValueError(
                    f"`resume_from_checkpoint={str(checkpoint)!r}` is not a complete checkpoint: {fault}. "
                    + (f"Resume from {complete[-1]}." if complete else "Start a new run without it.")
                )
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _last_checkpoint(self) -> str:
        """The last checkpoint that is complete on all ranks. Later ones are left alone, and named."""
        complete, faults = complete_checkpoints(self.args.output_dir)
        common = set.intersection(*map(set, gather_object([[path.name for path in complete]])))
        complete = [path for path in complete if path.name in common]
        why = " ".join(f"{path} is not complete: {fault}." for path, fault in faults.items())
        if not complete:
            raise ValueError(
                f"`resume_from_checkpoint=True` finds no complete checkpoint in {self.args.output_dir}. {why} Start "
                "without it."
            )
        later = [f"{path} ({fault})" for path, fault in faults.items() if step_of(path) > step_of(complete[-1])]
        if later:
            logger.warning("Resuming from %s. Not complete, and left alone: %s.", complete[-1], ", ".join(later))
        return str(complete[-1])

    def request_stop(self, reason: str) -> None:
        """
        Asks the run to save a checkpoint and stop, at the end of a step, or between two generations of a round with
        [`Stopped`]. A signal handler may call this, on any rank.
        """
        self._stop_reason = reason

    def _stop_is_requested(self) -> bool:
        """Whether any rank was asked to stop. All ranks call this together."""
        if self.accelerator.num_processes == 1:
            return self._stop_reason is not None
        asked = torch.tensor(float(self._stop_reason is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum").item())

    def _stop_if_requested(self) -> None:
        if self._stop_is_requested():
            self.stopped = True
            set_random_state(self._random_state)
            self._stop(f"{self._stop_reason or 'Another process was asked to stop'}: stopped in a round.", Stopped)

    def _stop(self, reason: str, error: type[Exception] = RuntimeError) -> None:
        """Saves a checkpoint and raises. All ranks call it together."""
        self._gathering.close()  # shards are saved
        if self.optimizer is not None:
            self._save_checkpoint(self.model_wrapped, trial=None)
            reason += f" A checkpoint of step {self.state.global_step} is in {self.args.output_dir}."
        raise error(reason)

    def _stop_unless_finite(self, value: torch.Tensor, what: str, batch: PairBatch | None = None) -> None:
        if isinstance(value, DTensor):  # FSDP2's gradient norm
            value = value.full_tensor()
        bad = self.accelerator.reduce((~value.isfinite()).float().to(self.accelerator.device), "sum")
        if not bad.item():
            return
        prompts = ""
        if batch is not None:
            rows = zip(batch.input_ids, batch.attention_mask.bool() & (batch.labels == IGNORED), strict=True)
            texts = [self._tokenizer.decode(ids[mask], skip_special_tokens=True) for ids, mask in rows]
            prompts = f" Prompts of the batch: {texts[:: batch.num_completions]}."
        self._stop(
            f"The {what} is {value.item()} at step {self.state.global_step} (round {self.round + 1}).{prompts} Lower "
            "`learning_rate` or `step_size`, or look at these prompts."
        )

    def _stop_if_judge_failed(self) -> None:
        """Stops on all ranks if the judge of one cannot go on."""
        failures = gather_object([self._judge_failure])
        self._judge_failure = None
        if any(failures):
            set_random_state(self._random_state)
            self._stop(next(filter(None, failures)), JudgeError)

    def _stop_if_abstained(self, preference: torch.Tensor) -> None:
        counts = torch.tensor([preference.isnan().sum(), preference.numel()], device=self.accelerator.device)
        abstained, total = self.accelerator.reduce(counts, "sum").tolist()
        if abstained > self.args.max_nan_rate * total:
            set_random_state(self._random_state)
            self._stop(
                f"The judge abstained on {abstained} of the {total} pairs of round {self.round + 1}, more than "
                f"`max_nan_rate` ({self.args.max_nan_rate:g}) allows. See why it gives no verdict, then resume."
            )

    def _init_training_state(self, max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial):
        epochs, batches = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        stream = isinstance(self.train_dataset, IterableDataset) and not has_length(self.train_dataset)
        if checkpoint is not None and stream:
            # transformers skips batches of the first pass only; `epoch` is passes + optimizer steps / max_steps.
            saved = TrainerState.load_from_json(Path(checkpoint) / TRAINER_STATE_NAME)
            epochs = int(saved.epoch)
            steps = round((saved.epoch - epochs) * saved.max_steps)
            batches = 0 if self.args.ignore_data_skip else steps * self.args.gradient_accumulation_steps
        return epochs, batches

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        self._saved = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        if self._saved is not None:
            self._check_rounds(self._saved)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        args = self.args
        self._micro_step = self.state.global_step * args.gradient_accumulation_steps
        self._round_epoch = int(self.state.epoch or 0)
        self._last_logged_step = self.state.global_step
        self._fits_begun = 0
        self._buffer = []
        if self._saved is not None:
            self._load_rounds(self._saved)
        logger.info(
            "%s: %d prompts a round (generation_batch_size), %d a micro-step and device "
            "(per_device_train_batch_size), %d a generation call (per_device_generation_batch_size); "
            "optimizer steps a round: %d.",
            self._name,
            args.prompts_per_round,
            args.per_device_train_batch_size,
            args.per_device_generation_batch_size or args.per_device_train_batch_size,
            args.optimizer_steps_per_round,
        )
        if self.fits_rounds and args.optimizer_steps_per_round < 10:
            self._say_once(
                f"Optimizer steps a round: {args.optimizer_steps_per_round}. {self._name}'s guarantees, and its "
                "published results, assume rounds that are fitted: raise `steps_per_generation` or `num_iterations` "
                "to 10 optimizer steps or more. Shorter rounds are online learning."
            )
        return prepared

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self._saved is not None and folder.resolve() == self._saved.resolve():
            return  # a kill while it is written again would take what there is
        if self.args.should_save:
            # What an earlier run has left here must not pass for a part of this one.
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
            shutil.rmtree(folder / "nash", ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            super()._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # not torch.save's way of saying that the disk is full
            complete, _ = complete_checkpoints(folder.parent)
            raise RuntimeError(
                f"The checkpoint {folder} could not be written ({error}). "
                + (f"{complete[-1]} is complete: make space" if complete else "No earlier one is complete: make space")
                + " and resume."
            ) from error
        self._saved = folder

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Trainer now writes its state: whoever finds it finds the files of all ranks.
        self.accelerator.wait_for_everyone()
        folder = Path(output_dir)
        if self.args.should_save and (rounds := folder / "nash" / "round.json").is_file():
            files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
            rounds.write_text(json.dumps(json.loads(rounds.read_text()) | {"files": files}))

    def _save(self, output_dir=None, state_dict=None):
        # transformers keeps the arguments beside the weights, where a token is no secret any more.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        folder, rank = Path(output_dir) / "nash", self.accelerator.process_index
        folder.mkdir(parents=True, exist_ok=True)
        self.policies.save(folder / "policies", rank)
        if self.state.global_step * self.args.gradient_accumulation_steps % self.args.micro_steps_per_round:
            save_batches(self._buffer, folder / f"round-{rank:05d}.safetensors")
        if self.args.should_save:
            state = {"epoch": self._round_epoch, "fits": self._fits_begun, "processes": self.args.world_size}
            state |= {"policies": list(self.policies), "algorithm": self._name}
            (folder / "round.json").write_text(json.dumps(state))

    def _check_rounds(self, checkpoint: Path) -> None:
        """Raises a `ValueError` if these processes cannot go on from a checkpoint."""
        if not (checkpoint / "nash").is_dir():
            raise ValueError(
                f"{checkpoint} has no folder `nash`: it was not saved by trl-nash, or with `save_only_model`. Give "
                "its path as the model to start a new run from it."
            )
        state = json.loads((checkpoint / "nash" / "round.json").read_text())
        if state["algorithm"] != self._name:
            raise ValueError(
                f"{checkpoint} was saved by {state['algorithm']}, and this is {self._name}: give its path as the "
                "model to start a new run from it."
            )
        saved, now = state["processes"], self.args.world_size
        if saved == now:
            return
        if self.is_deepspeed_enabled:
            raise ValueError(
                f"{checkpoint} was saved by {saved} processes, and DeepSpeed cannot share its optimizer's state out "
                f"among {now}: resume with {saved}, or give its path as the model to start a new run from it."
            )
        steps = self.args.optimizer_steps_per_round
        if TrainerState.load_from_json(checkpoint / TRAINER_STATE_NAME).global_step % steps:
            raise ValueError(
                f"{checkpoint} was saved by {saved} processes in the middle of a round, which cannot be shared out "
                f"among {now}: resume with {saved}, or from a checkpoint between rounds, whose step is a multiple of "
                f"{steps}."
            )
        self._say_once(
            f"{checkpoint} was saved by {saved} processes and is resumed by {now}: random numbers will not be those "
            "of the run that was stopped."
        )

    def _load_rounds(self, checkpoint: Path) -> None:
        """Frozen policies, and the round that the checkpoint was saved in the middle of."""
        folder, rank = checkpoint / "nash", self.accelerator.process_index
        state = json.loads((folder / "round.json").read_text())
        self.policies.load(folder / "policies", rank, self.args.world_size, state["policies"])
        if self._micro_step % self.args.micro_steps_per_round:
            file = folder / f"round-{rank:05d}.safetensors"
            if not file.is_file():
                raise ValueError(f"{file} is missing: copy the whole checkpoint, or resume from another one.")
            self._buffer = load_batches(file)
        self._round_epoch, self._fits_begun = state["epoch"], state["fits"]
