# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Logs how far a language model is from the equilibrium of the game that it is trained on."""

from collections.abc import Callable

import numpy as np
from transformers import Trainer, TrainerCallback

from .dialogues.language import DialogueLanguageGame
from .language import LanguageGame


class GameCallback(TrainerCallback):
    """
    Reads the model's exact policy while it trains, and logs

    - `game/duality_gap`: `2 (max_y P(y ≻ π) - ½)`, zero exactly at a Nash policy,
    - `game/kl_nash`: `KL(π*‖π)` in nats,
    - `game/improper`: probability of writing anything but a proper answer,

    each as the mean over prompts.

    Args:
        game ([`LanguageGame`] or [`DialogueLanguageGame`]): what is played.
        trainer ([`~transformers.Trainer`]): which trains on it, and logs.
        every (`int`, *optional*): optimizer steps from one reading to the next. A round if left out (a step, for
            trainers without rounds).
        on_reading (`Callable`, *optional*): called with this callback after each reading, to show it.

    Attributes:
        policies (`list[dict[str, np.ndarray]]`): what was read (see [`LanguageGame.policies`]), first before the first
            step.
        gaps (`list[float]`): their duality gaps.
    """

    def __init__(
        self,
        game: LanguageGame | DialogueLanguageGame,
        trainer: Trainer,
        every: int | None = None,
        on_reading: Callable | None = None,
    ):
        self.game = game
        self.trainer = trainer
        self.every = every or getattr(trainer.args, "optimizer_steps_per_round", 1)
        self.on_reading = on_reading
        self.policies: list[dict[str, np.ndarray]] = []
        self.gaps: list[float] = []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self._read(model, control)

    def on_step_end(self, args, state, control, model, **kwargs):
        if state.global_step % self.every == 0:
            self._read(model, control)

    def _read(self, model, control) -> None:
        policies = self.game.policies(model, self.trainer.args.temperature)
        self.policies.append(policies)
        self.gaps.append(self.game.duality_gap(policies))
        should_log = control.should_log
        self.trainer.log(
            {
                "game/duality_gap": self.gaps[-1],
                "game/kl_nash": self.game.kl_from(self.game.nash, policies),
                "game/improper": self.game.improper(policies),
            }
        )
        control.should_log = should_log  # logging has crossed it out, and the trainer has a log of its own to write
        if self.on_reading is not None:
            self.on_reading(self)
