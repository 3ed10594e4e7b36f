# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Ends of a run before its last step: on request, because the judge cannot go on, because of bad numbers."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.tensor import DTensor
from transformers import PreTrainedTokenizerBase, TrainerCallback

from ...judges.base import JudgeError
from ...rounds.batch import IGNORED, PairBatch
from ...rounds.log import random_state, set_random_state
from .checkpoints.files import how_to_go_on


class Stopped(RuntimeError):
    """The run was asked to stop, in the middle of a round, and has saved a checkpoint."""


class Stops(TrainerCallback):
    """
    Stops a run on all ranks together. As a callback it ends a run that was asked to stop at the end of a step.

    Args:
        accelerator ([`~accelerate.Accelerator`]): for what ranks must agree on.
        save (`Callable[[], str | None]`): saves a checkpoint, and returns a sentence that says so.
        where (`Callable[[], str]`): says in words how far the run is.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): to show prompts of a bad micro-batch.
        save_only_model (`bool`, *optional*): whether what is saved cannot be resumed from.

    Attributes:
        reason (`str`, *optional*): why the run was asked to stop, on this rank.
        stopped (`bool`): whether it did.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        save: Callable[[], str | None],
        where: Callable[[], str],
        tokenizer: PreTrainedTokenizerBase,
        save_only_model: bool = False,
    ):
        self.reason: str | None = None
        self.stopped = False
        self._accelerator = accelerator
        self._save = save
        self._where = where
        self._tokenizer = tokenizer
        self._go_on = how_to_go_on("the last", save_only_model)
        self._go_back = how_to_go_on("an earlier", save_only_model)
        self._random_state = random_state()
        self._losses: list[tuple[torch.Tensor, PairBatch]] = []  # of the optimizer step that is under way

    def begin_round(self) -> dict:
        """Stopped within a round, a run goes on from here: it samples the same completions. Returns this state."""
        self._random_state = random_state()
        return self._random_state

    def is_requested(self) -> bool:
        """Whether any rank was asked to stop. All ranks call this together."""
        if self._accelerator.num_processes == 1:
            return self.reason is not None
        asked = torch.tensor(float(self.reason is not None), device=self._accelerator.device)
        return bool(self._accelerator.reduce(asked, "sum").item())

    def on_step_end(self, args, state, control, **kwargs):
        if self.is_requested():
            self.stopped = control.should_save = control.should_training_stop = True
            self.reason = None  # it is met

    def if_requested(self) -> None:
        """Stops between two generations of a round."""
        if self.is_requested():
            reason, self.reason, self.stopped = self.reason, None, True
            self._stop(f"{reason or 'Another process was asked to stop'}: stopped in a round.", Stopped)

    def if_judge_failed(self, failure: str | None) -> None:
        """Stops on all ranks if the judge of one cannot go on."""
        failures = gather_object([failure])
        if any(failures):
            self._stop(next(filter(None, failures)), JudgeError)

    def if_abstained(self, unjudged: Counter, asked: int, allowed: float, round: int) -> None:
        """
        Stops if more than a share `allowed` of a round's pairs have no verdict.

        Args:
            unjudged (`Counter`): pairs of this rank without one, by the way in which a dialogue failed, or `None`.
            asked (`int`): pairs of this rank.
            allowed (`float`): of those of all ranks.
            round (`int`): counted from 0.
        """
        found = gather_object([(unjudged, asked)])
        total, lost = sum(asked for _, asked in found), sum((unjudged for unjudged, _ in found), Counter())
        if lost.total() <= allowed * total:
            return
        failed = {reason: count for reason, count in sorted(lost.items(), key=str) if reason is not None}
        why = [f"the judge abstained on {lost[None]}"] if lost[None] else []
        if failed:
            ways = ", ".join(f"{reason} {count}" for reason, count in failed.items())
            why.append(f"a dialogue of {sum(failed.values())} failed ({ways})")
        self._stop(
            f"{lost.total()} of the {total} pairs of round {round + 1} have no verdict, more than `max_nan_rate` "
            f"({allowed:g}) allows: {' and '.join(why)}. See why, then {self._go_on}."
        )

    @contextmanager
    def if_diverged(self) -> Iterator[None]:
        """Translates what torch says of probabilities that are nan or infinite, on the CPU and on a GPU."""
        try:
            yield
        except RuntimeError as error:
            if "probability tensor" not in str(error) and "device-side assert" not in str(error):
                raise
            raise RuntimeError(
                f"The policy has diverged: nothing can be sampled from it {self._where()}. Lower `learning_rate` or "
                f"`step_size`, and {self._go_back}."
            ) from error

    def _stop(self, reason: str, error: type[Exception] = RuntimeError) -> None:
        """Saves a checkpoint of the start of the round and raises. All ranks call it together."""
        set_random_state(self._random_state)
        saved = self._save()
        raise error(reason if saved is None else f"{reason} {saved}")

    def watch(self, loss: torch.Tensor, batch: PairBatch) -> None:
        """Remembers the loss of a micro-batch until [`if_not_finite`], so that no micro-step waits for the device."""
        self._losses.append((loss.detach(), batch))

    def if_not_finite(self, grad_norm: torch.Tensor | float | None) -> None:
        """
        Stops, before the optimizer's step, if a loss of the step or the norm of its gradients (if given) is not
        finite. Nothing is saved: the weights are those of the step before, and what resuming finds stays what it was.
        """
        losses, self._losses = self._losses, []
        if isinstance(grad_norm, DTensor):  # FSDP2's
            grad_norm = grad_norm.full_tensor()
        norm = torch.zeros(()) if grad_norm is None else torch.as_tensor(grad_norm)
        values = torch.stack([norm.float().to(self._accelerator.device), *(loss.float() for loss, _ in losses)])
        if not self._accelerator.reduce((~values.isfinite()).any().float(), "sum").item():
            return
        what, prompts = "gradient norm", ""
        value = values[0].item()
        for (loss, batch), finite in zip(losses, values[1:].isfinite().tolist(), strict=True):
            if not finite:
                what, value = "loss", loss.item()
                rows = zip(batch.input_ids, batch.attention_mask.bool() & (batch.labels == IGNORED), strict=True)
                texts = [self._tokenizer.decode(ids[mask], skip_special_tokens=True) for ids, mask in rows]
                prompts = f" Prompts of the batch: {texts[:: batch.num_completions]}."
                break
        raise RuntimeError(
            f"The {what} is {value} {self._where()}.{prompts} Lower `learning_rate` or `step_size`, or look at "
            f"these prompts, and {self._go_on}: none was saved of this step."
        )
