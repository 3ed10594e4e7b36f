# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The real trainers on a language game, each with settings that its theory covers.

All see the same number of answers: a round is 512 prompts (of each game, if it is contextual) x 4 answers. The methods
that fit their rounds do so in 20 optimizer steps; the on-policy ones take one step on each quarter of it.
"""

import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from transformers import PreTrainedConfig, PrinterCallback

from ..compat import OnlineDPOConfig, OnlineDPOTrainer
from ..trainers.base import NashTrainer
from ..trainers.comal import COMALConfig, COMALTrainer
from ..trainers.config import PairConfig
from ..trainers.nash_md import NashMDConfig, NashMDTrainer
from ..trainers.onpo import ONPOConfig, ONPOTrainer
from .callback import GameCallback
from .equilibria import nash_md_fixed_point, regularized_equilibrium
from .language import LanguageGame


ROUND = 512  # prompts
_MICRO_BATCHES = 4
_PASSES = 5
_FIT = {"num_generations": 4, "steps_per_generation": _MICRO_BATCHES, "num_iterations": _PASSES}
_STEP = {"num_generations": 4}


class Player(NamedTuple):
    trainer: type
    config: type
    options: dict
    steps: int  # optimizer steps in a round


PLAYERS = {
    "comal": Player(
        COMALTrainer,
        COMALConfig,
        {"step_size": 2.0, "beta": 1 / 6, "reference_rounds": 6, **_FIT},
        _MICRO_BATCHES * _PASSES,
    ),
    "onpo": Player(
        ONPOTrainer,
        ONPOConfig,
        {"step_size": 1.5, "anchor_history": 8, "learning_rate": 4e-3, **_FIT},
        _MICRO_BATCHES * _PASSES,
    ),
    # INPO is COMAL whose reference never moves.
    "inpo": Player(
        COMALTrainer,
        COMALConfig,
        {"step_size": 2.0, "beta": 0.1, "reference_rounds": 10**9, **_FIT},
        _MICRO_BATCHES * _PASSES,
    ),
    "iterative-ipo": Player(NashTrainer, PairConfig, {"step_size": 2.0, **_FIT}, _MICRO_BATCHES * _PASSES),
    "nash-md": Player(NashMDTrainer, NashMDConfig, {"beta": 0.2, "mixture_coef": 0.25, **_STEP}, _MICRO_BATCHES),
    # TRL's own trainer, which samples two answers. It needs rewards: here an answer's win rate against its batch.
    "online-dpo": Player(OnlineDPOTrainer, OnlineDPOConfig, {"beta": 0.1, "temperature": 1.0}, _MICRO_BATCHES),
}


def play(
    game: LanguageGame,
    algorithm: str,
    *,
    start: ArrayLike | Mapping[str, ArrayLike],
    rounds: int = 80,
    seed: int = 0,
    config: PreTrainedConfig | None = None,
    peft_config=None,
    on_reading: Callable[[GameCallback], None] | None = None,
    **options,
) -> GameCallback:
    """
    Trains a small language model on a game, on the CPU.

    Args:
        game ([`LanguageGame`]): what is played.
        algorithm (`str`): a key of `PLAYERS`.
        start (`ArrayLike` or `dict[str, ArrayLike]`): the policy that training starts from, and its reference.
        rounds (`int`, *optional*, defaults to `80`): how many.
        seed (`int`, *optional*, defaults to `0`): of the model and of what is sampled.
        config ([`~transformers.PreTrainedConfig`], *optional*): of the model, see [`LanguageGame.build_model`].
        peft_config ([`~peft.PeftConfig`], *optional*): adapter to train instead of the whole model.
        on_reading (`Callable`, *optional*): called with the [`GameCallback`] after each of its readings.
        options: of the algorithm's config, to change its settings.

    Returns:
        [`GameCallback`]: the exact policies and duality gaps, one before training and one after each round.
    """
    player = PLAYERS[algorithm]
    prompts = ROUND * len(game.games)
    source = {"reward_funcs": WinRateReward(game)} if player.trainer is OnlineDPOTrainer else {"judge": game.judge}
    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "output_dir": directory,
            "per_device_train_batch_size": prompts // _MICRO_BATCHES,
            "max_new_tokens": game.tokens_per_answer,
            "max_length": 64,
            "max_steps": rounds * player.steps,
            "learning_rate": 3e-3,
            "seed": seed,
            "logging_steps": player.steps,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
        }
        if player.trainer is not OnlineDPOTrainer:
            settings["per_device_generation_batch_size"] = prompts
        trainer = player.trainer(
            model=game.build_model(start, config=config, seed=seed),
            args=player.config(**settings | player.options | options),
            train_dataset=game.dataset(prompts),
            processing_class=game.tokenizer,
            peft_config=peft_config,
            **source,
        )
        trainer.remove_callback(PrinterCallback)
        watch = GameCallback(game, trainer, every=player.steps, on_reading=on_reading)
        trainer.add_callback(watch)
        trainer.train()
    return watch


def own_equilibrium(
    game: LanguageGame, algorithm: str, start: ArrayLike | Mapping[str, ArrayLike]
) -> dict[str, np.ndarray] | None:
    """
    Where an algorithm that keeps its reference settles, with the settings of `PLAYERS`: the regularised equilibrium of
    INPO, the fixed point of Nash-MD.

    Returns:
        `dict[str, np.ndarray]`: for each prompt a policy of shape (N,), or `None` if the algorithm goes for the Nash
        policy, or for none.
    """
    options, found = PLAYERS[algorithm].options, {}
    for prompt, matrix in game.games.items():
        reference = start[prompt] if isinstance(start, Mapping) else start
        if algorithm == "inpo":
            found[prompt] = regularized_equilibrium(matrix, reference, options["beta"]).policy
        elif algorithm == "nash-md":
            found[prompt] = nash_md_fixed_point(
                matrix, reference, options["beta"], options["mixture_coef"], mixture=game.token_mixture
            )
    return found or None


class WinRateReward:
    """The reward of an answer: its mean probability of beating the answers to the same prompt in its batch."""

    __name__ = "win_rate"

    def __init__(self, game: LanguageGame):
        self.game = game

    def __call__(self, prompts, completions, **kwargs) -> list[float]:
        rewards = np.empty(len(prompts))
        for prompt in set(prompts):
            rows = [row for row, other in enumerate(prompts) if other == prompt]
            answers = [self.game.index(prompt, completions[row]) for row in rows]
            preferences = self.game.with_rest[prompt].preferences
            rewards[rows] = preferences[np.ix_(answers, answers)].mean(axis=1)
        return rewards.tolist()
