# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What transformers' Trainer asks of a trainer of rounds beside the rounds: checkpoints, schedules, logs, steps."""

import shutil
from pathlib import Path

from accelerate.logging import get_logger
from safetensors import SafetensorError
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, has_length

from ...compat import OnlineDPOTrainer
from ...rounds.rows import EvaluationLoader, Share, StreamedRounds, round_loader
from .checkpoints.files import complete_checkpoints
from .checkpoints.keeper import FOLDER, Keeper
from .collector import ROUND_FOLDER
from .reports.card import CARD, complete_card
from .reports.opening import say_opening
from .reports.reporter import Reporter
from .stops import Stops
from .warned_once import warned_once


logger = get_logger("trl_nash")  # speaks on the main process only


class EpochCounter(TrainerCallback):
    """
    The epoch that runs. `state.epoch` is of the last step: when an iterable dataset starts anew, it is still a
    fraction of the epoch before.
    """

    epoch = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.epoch = int(state.epoch or 0) - 1

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch += 1


class TrainerHooks(OnlineDPOTrainer):
    """
    The hooks of [`~transformers.Trainer`], each of which hands over to a collaborator. See [`NashTrainer`].

    Of OnlineDPOTrainer only the constructor is used: hooks of which it has a version of its own go past it.
    """

    keeper: Keeper
    reporter: Reporter
    stops: Stops
    command: str | None = None  # that started the run, for the model card
    was_finished: bool = False  # whether the last `train` was to go on from a run that had nothing left to train
    _saved: Path | None = None  # the last checkpoint of this run

    # Losses are means over a micro-batch; `Trainer.training_step` divides them by the accumulation steps.
    loss_is_scaled_for_ga = False
    _maybe_log_save_evaluate = Trainer._maybe_log_save_evaluate

    # ---- Start and stop ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args, **kwargs):
        checkpoint = self.keeper.choose(resume_from_checkpoint)
        if checkpoint is not None:
            self.keeper.check(Path(checkpoint))  # before its weights are loaded
        with warned_once():
            output = super().train(checkpoint, *args, **kwargs)
        if self.accelerator.is_main_process:
            shutil.rmtree(Path(self.args.output_dir) / ROUND_FOLDER, ignore_errors=True)
        if self.state.global_step == 0 and isinstance(self.train_dataset, IterableDataset):
            raise ValueError(
                f"`train_dataset` ended before the first round of {self.args.prompts_per_round} prompts "
                "(per_device_train_batch_size * steps_per_generation * processes) was full. Lower one of them or add "
                "prompts."
            )
        return output

    def request_stop(self, reason: str) -> None:
        """
        Asks the run to save a checkpoint and stop, at the end of a step, or between two generations of a round with
        [`Stopped`]. A signal handler may call this, on any rank.
        """
        self.stops.reason = reason

    @property
    def stopped(self) -> bool:
        """Whether the run was asked to stop, and did."""
        return self.stops.stopped

    def _prepare_for_training(self, max_steps, train_dataloader, resume_from_checkpoint):
        self._saved = None if resume_from_checkpoint is None else Path(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        self.start_run(self._saved)
        return prepared

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
        self.was_finished = checkpoint is not None and self.state.global_step >= max_steps
        if self.was_finished:  # transformers would make one more step
            logger.warning(
                "The run in %s is finished: %s is of step %d, and it has %d. Nothing is trained; raise `max_steps` or "
                "`num_train_epochs` to train further.",
                Path(checkpoint).parent,
                Path(checkpoint).name,
                self.state.global_step,
                max_steps,
            )
            return num_train_epochs, 0
        return epochs, batches

    def start_run(self, checkpoint: Path | None) -> None:
        """A run begins anew, with no policy of an earlier one, or goes on from a checkpoint."""
        args = self.args
        self.stops.stopped = False
        self.reporter.start(self.state.global_step)
        self._micro_step = self.state.global_step * args.gradient_accumulation_steps
        self.place = args.schedule.place(self._micro_step)
        self.batches, epoch = [], int(self.state.epoch or 0)
        self.policies.start_over()
        if checkpoint is not None:
            within = self._micro_step % args.micro_steps_per_round > 0
            if within and args.ignore_data_skip and len(args.samplings) > 1:
                raise ValueError(
                    f"{checkpoint} was saved in the middle of a round that samples its prompts twice, and "
                    "`ignore_data_skip` does not read them again: leave it out, or resume from a checkpoint between "
                    "rounds."
                )
            self.batches, epoch = self.keeper.load(checkpoint, within)
        self.past = args.past(self.round, epoch)
        say_opening(self)

    # ---- Rows ----

    def get_train_dataloader(self) -> DataLoader:
        args = self.args
        share = Share(
            prompts=self._train_batch_size * args.steps_per_generation,
            micro_steps=args.micro_steps_per_round,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            seed=args.seed if args.data_seed is None else args.data_seed,
            epoch=lambda: self.epochs.epoch,
            samplings=args.samplings,
            # Of a round that an epoch begins in the middle of: resumed, it has its batches, and no rows are skipped.
            unfinished=lambda: -self._micro_step % args.micro_steps_per_round if args.ignore_data_skip else 0,
        )
        return round_loader(self.train_dataset, share, **self._reading)

    def _get_dataloader(self, dataset, description, batch_size, **kwargs) -> EvaluationLoader:
        """Of evaluation and prediction."""
        return EvaluationLoader(
            dataset,
            batch_size=batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            **self._reading,
        )

    @property
    def _reading(self) -> dict:
        """Options of the [`~torch.utils.data.DataLoader`] that reads rows; these have no use for pinned memory."""
        names = ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context", "in_order")
        given = {name: getattr(self.args, f"dataloader_{name}", None) for name in names}  # older transformers lack two
        return {name: value for name, value in given.items() if value is not None}

    def num_examples(self, dataloader) -> int:
        dataset = getattr(dataloader, "dataset", None)
        return len(dataset.stream) if isinstance(dataset, StreamedRounds) else super().num_examples(dataloader)

    # ---- Steps ----

    def _track_num_input_tokens(self, inputs) -> None:
        batch = self.batches[self.place.step]
        super()._track_num_input_tokens({"input_ids": batch.input_ids, "attention_mask": batch.attention_mask})

    def training_step(self, model, inputs, num_items_in_batch=None):
        model.train()  # before the phase begins, which counts for the mode that the model is in
        with self.reporter.phase("fit"):
            return super(OnlineDPOTrainer, self).training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model, grad_norm=None):
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # With fp16 an overflow of gradients is ordinary: the scaler skips the step.
        checked = grad_norm if self.accelerator.scaler is None else None
        self.stops.if_not_finite(checked)
        return grad_norm

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if not self.args.restart_each_round or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        steps = self.args.optimizer_steps_per_round
        scheduler = super().create_scheduler(steps, optimizer)
        if not hasattr(scheduler, "lr_lambdas"):
            raise ValueError(
                f"`lr_scheduler_type={self.args.lr_scheduler_type}` cannot be restarted: with `restart_each_round` "
                "use a schedule that is a function of the step, such as 'linear' or 'cosine'."
            )
        scheduler.lr_lambdas = [lambda step, f=f: f(step % steps) for f in scheduler.lr_lambdas]
        return scheduler

    def forget_optimizer(self) -> None:
        """`restart_each_round`: a fresh optimizer, as one training script per round has it."""
        optimizer = self.optimizer
        while hasattr(optimizer, "optimizer"):  # accelerate's and DeepSpeed's wrappers
            optimizer = optimizer.optimizer
        optimizer.state.clear()

    # ---- Checkpoints ----

    def save_stopped(self) -> str | None:
        """Saves a checkpoint of a run that stops within a round, and says so; before training there is nothing."""
        self.sampler.release()  # shards are saved
        if self.optimizer is None:
            return None
        self._save_checkpoint(self.model_wrapped, trial=None)
        what = "The model" if self.args.save_only_model else "A checkpoint"
        return f"{what} of step {self.state.global_step} is in {self.args.output_dir}."

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self._saved is not None and folder.resolve() == self._saved.resolve():
            return  # a kill while it is written again would take what there is
        if self.args.should_save:
            # What an earlier run has left here must not pass for a part of this one.
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
            shutil.rmtree(folder / FOLDER, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self.create_model_card(model_name=Path(self.args.hub_model_id or self.args.output_dir).name)
            super(OnlineDPOTrainer, self)._save_checkpoint(model, trial)
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise  # not torch.save's way of saying that the disk is full
            complete, _ = complete_checkpoints(folder.parent)
            raise RuntimeError(
                f"The checkpoint {folder} could not be written ({error}). "
                + (f"{complete[-1]} is complete: " if complete else "No earlier one is complete: ")
                + f"make space and {'resume' if complete else 'start again'}."
            ) from error
        if self.args.should_save:
            shutil.copy(folder.parent / CARD, folder / CARD)
        self._saved = folder

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # Trainer now writes its state: whoever finds it finds the files of all ranks.
        self.keeper.list_files(Path(output_dir))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        within = self.state.global_step % self.args.optimizer_steps_per_round
        self.keeper.save(Path(output_dir), self.batches if within else [], self.past.epoch)

    def _save(self, output_dir=None, state_dict=None):
        # transformers keeps the arguments beside the weights, where a token is no secret any more.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    # ---- Logs ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # a training log: evaluation's and the final summary have other keys
            logs |= self.reporter.flush(self.state.global_step)
        super().log(logs, start_time)
        if "loss" in logs or "train_loss" in logs:  # the second at the end of a run
            self.reporter.show_completions("completions", self.state.global_step)

    def create_model_card(self, model_name: str | None = None, *args, **kwargs) -> None:
        name = model_name or (self.hub_model_id or Path(self.args.output_dir).name).rpartition("/")[2]
        super().create_model_card(name, *args, **kwargs)
        if self.is_world_process_zero():
            complete_card(self)
