# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The real trainers on a language game, each with settings that its theory covers, if there are any.

All see as many answers: a sampling is 512 prompts (of each game, if it is contextual) x 4 answers, or dialogues, and a
round is one sampling, or two. The methods that fit do so in 20 optimizer steps a fit; the on-policy ones take one step
on each quarter of a round.
"""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from transformers import PreTrainedConfig, PrinterCallback

from ..algorithms import INITIAL
from ..compat import OWN_BASE, GRPOConfig, GRPOTrainer, OnlineDPOConfig, OnlineDPOTrainer
from ..judges.win_rates.reward_func import as_reward_func
from ..trainers.base import NashTrainer
from ..trainers.comal import COMALConfig, COMALTrainer
from ..trainers.config import NashConfig
from ..trainers.egpo import EGPOConfig, EGPOTrainer
from ..trainers.inpo import INPOConfig, INPOTrainer
from ..trainers.mnpo import MNPOConfig, MNPOTrainer
from ..trainers.mpo import MPOConfig, MPOTrainer
from ..trainers.nash_md import NashMDConfig, NashMDTrainer
from ..trainers.nash_mirror_prox import NashMirrorProxConfig, NashMirrorProxTrainer
from ..trainers.nash_prox import NashProxConfig, NashProxTrainer
from ..trainers.online_ipo import OnlineIPOConfig, OnlineIPOTrainer
from ..trainers.onpo import ONPOConfig, ONPOTrainer
from ..trainers.pair_config import PairConfig
from ..trainers.sppo import SPPOConfig, SPPOTrainer
from .callback import GameCallback
from .dialogues.language import DialogueLanguageGame
from .equilibria import nash_md_fixed_point, regularized_equilibrium
from .language import PROMPT, GameJudge, LanguageGame


ROUND = 512  # prompts
_ANSWERS = 4  # to each
_MICRO_BATCHES = 4
_FIT_STEPS = 20
_FIT = {
    "num_generations": _ANSWERS,
    "steps_per_generation": _MICRO_BATCHES,
    "num_iterations": _FIT_STEPS // _MICRO_BATCHES,
}
_STEP = {"num_generations": _ANSWERS}
_ON_CPU: dict[str, Any] = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False}
_LATE = 10**6  # a round in which every reference that moves has moved


class Player(NamedTuple):
    trainer: type
    config: type
    options: dict
    steps: int  # optimizer steps in a round
    samplings: int = 1  # in a round


PLAYERS = {
    "comal": Player(
        COMALTrainer, COMALConfig, {"step_size": 2.0, "beta": 1 / 6, "reference_rounds": 6, **_FIT}, _FIT_STEPS
    ),
    "mpo": Player(MPOTrainer, MPOConfig, {"step_size": 2.0, "beta": 1 / 6, "reference_rounds": 6, **_FIT}, _FIT_STEPS),
    "onpo": Player(
        ONPOTrainer, ONPOConfig, {"step_size": 1.5, "anchor_history": 8, "learning_rate": 4e-3, **_FIT}, _FIT_STEPS
    ),
    # The target moves every tenth round (which is four of the trainer's). Momentum acts late, and so turns outwards.
    "nash-prox": Player(
        NashProxTrainer,
        NashProxConfig,
        {"beta": 0.2, "reference_rounds": 10 * _MICRO_BATCHES, "adam_beta1": 0.0, **_STEP},
        _MICRO_BATCHES,
    ),
    "inpo": Player(INPOTrainer, INPOConfig, {"step_size": 2.0, "beta": 0.1, **_FIT}, _FIT_STEPS),
    "egpo": Player(EGPOTrainer, EGPOConfig, {"step_size": 2.0, "beta": 0.1, **_FIT}, 2 * _FIT_STEPS, samplings=2),
    "nash-mp": Player(
        NashMirrorProxTrainer,
        NashMirrorProxConfig,
        {"step_size": 2.0, "beta": 0.1, **_FIT},
        2 * _FIT_STEPS,
        samplings=2,
    ),
    "mnpo": Player(
        MNPOTrainer, MNPOConfig, {"step_size": 2.0, "beta": 0.1, "history_weights": [0.5, 0.5], **_FIT}, _FIT_STEPS
    ),
    "nash-md": Player(NashMDTrainer, NashMDConfig, {"beta": 0.2, "mixture_coef": 0.25, **_STEP}, _MICRO_BATCHES),
    "online-ipo": Player(OnlineIPOTrainer, OnlineIPOConfig, {"step_size": 1 / 0.2, **_STEP}, _MICRO_BATCHES),
    "iterative-ipo": Player(NashTrainer, PairConfig, {"step_size": 2.0, **_FIT}, _FIT_STEPS),
    "sppo": Player(SPPOTrainer, SPPOConfig, {"step_size": 2.0, **_FIT}, _FIT_STEPS),
    # TRL's own trainer, which samples two answers. It needs rewards: here an answer's win rate against its batch.
    "online-dpo": Player(OnlineDPOTrainer, OnlineDPOConfig, {"beta": 0.1, "temperature": 1.0}, _MICRO_BATCHES),
    # TRL's own trainer: the win rate in its group, scaled in it, and no KL, as its defaults have it.
    "grpo": Player(GRPOTrainer, GRPOConfig, _STEP, _MICRO_BATCHES),
}
if OWN_BASE:  # which is no trainer by itself
    del PLAYERS["online-dpo"]


def play(
    game: LanguageGame | DialogueLanguageGame,
    algorithm: str,
    *,
    start: ArrayLike | Mapping[str, ArrayLike],
    rounds: int = 80,
    prompts: int = ROUND,
    seed: int = 0,
    config: PreTrainedConfig | None = None,
    peft_config=None,
    on_reading: Callable[[GameCallback], None] | None = None,
    **options,
) -> GameCallback:
    """
    Trains a small language model on a game, on the CPU.

    Args:
        game ([`LanguageGame`] or [`DialogueLanguageGame`]): what is played.
        algorithm (`str`): a key of `PLAYERS`; on dialogues, of a trainer of this package.
        start (`ArrayLike` or `dict[str, ArrayLike]`): the policy that training starts from, and its reference.
        rounds (`int`, *optional*, defaults to `80`): how many.
        prompts (`int`, *optional*, defaults to `512`): of each game in a sampling, a multiple of 4.
        seed (`int`, *optional*, defaults to `0`): of the model and of what is sampled.
        config ([`~transformers.PreTrainedConfig`], *optional*): of the model, see [`LanguageGame.build_model`].
        peft_config ([`~peft.PeftConfig`], *optional*): adapter to train instead of the whole model.
        on_reading (`Callable`, *optional*): called with the [`GameCallback`] after each of its readings.
        options: of the algorithm's config, to change its settings.

    Returns:
        [`GameCallback`]: the exact policies and duality gaps, one before training and one after each round.

    Raises:
        `ValueError`: If the algorithm is TRL's own, which has no `user`, and the game is one of dialogues.
    """
    player = PLAYERS[algorithm]
    if isinstance(game, DialogueLanguageGame) and not issubclass(player.config, NashConfig):
        raise ValueError(f"`algorithm` {algorithm!r} is TRL's own trainer, which holds no dialogues with a user.")
    prompts *= len(game.nash)
    dataset = game.dataset(prompts)
    if player.trainer is GRPOTrainer:
        dataset = dataset.add_column("group", list(range(prompts)))  # the same prompt is in many groups
    with tempfile.TemporaryDirectory() as directory:
        settings = {
            "output_dir": directory,
            "max_steps": rounds * player.steps,
            "learning_rate": 3e-3,
            "seed": seed,
            "logging_steps": player.steps,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            **_ON_CPU,
            **_sizes(player, prompts, game.tokens_per_answer),
        }
        trainer = player.trainer(
            model=game.build_model(start, config=config, seed=seed),
            args=player.config(**settings | player.options | options),
            train_dataset=dataset,
            processing_class=game.tokenizer,
            peft_config=peft_config,
            **_source(player, game),
        )
        trainer.remove_callback(PrinterCallback)
        watch = GameCallback(game, trainer, every=player.steps, on_reading=on_reading)
        trainer.add_callback(watch)
        trainer.train()
    return watch


def _sizes(player: Player, prompts: int, tokens: int) -> dict:
    """The options that say how large a round and its answers are, in the trainer's words."""
    micro_batch = prompts // _MICRO_BATCHES
    if player.trainer is GRPOTrainer:  # which counts completions
        return {"per_device_train_batch_size": micro_batch * _ANSWERS, "max_completion_length": tokens}
    sizes = {"per_device_train_batch_size": micro_batch, "max_new_tokens": tokens, "max_length": 64}
    if player.trainer is not OnlineDPOTrainer:
        sizes["per_device_generation_batch_size"] = prompts
    return sizes


class _GroupJudge(GameJudge):
    """Names the column that parts the groups of one prompt: only answers of one group are compared."""

    def judge(self, prompts, first, second, group):
        return super().judge(prompts, first, second)


def _source(player: Player, game: LanguageGame | DialogueLanguageGame) -> dict:
    """Where the trainer has its preferences or rewards from, and with whom it speaks."""
    if player.trainer is GRPOTrainer:
        return {"reward_funcs": as_reward_func(_GroupJudge(game))}
    if player.trainer is OnlineDPOTrainer:
        assert isinstance(game, LanguageGame)  # `play` refuses dialogues
        return {"reward_funcs": WinRateReward(game)}
    return {"judge": game.judge, "user": game.user if isinstance(game, DialogueLanguageGame) else None}


def own_equilibrium(
    game: LanguageGame | DialogueLanguageGame, algorithm: str, start: ArrayLike | Mapping[str, ArrayLike]
) -> dict[str, np.ndarray] | None:
    r"""
    Where an algorithm that keeps its reference settles, with the settings of `PLAYERS`.

    It is read off what its rounds fit: `π ∝ ref^a π^{1-a} exp(η P(· ≻ ν))` with `ν ∝ ref^c π^{1-c}` comes to rest
    where Nash-MD does with `τ = a/η` and the mixture c, for c = 0 at the equilibrium that is regularised with τ.

    Returns:
        `dict[str, np.ndarray]`: for each prompt a policy of shape (N,), or (S,) of dialogues; or `None` if the
        algorithm goes for the Nash policy, or for none, or if its mixture's equilibrium on dialogues is not known.
    """
    player = PLAYERS[algorithm]
    if not issubclass(player.config, NashConfig):
        return None
    config = player.config(output_dir="", **_ON_CPU, **player.options)
    fit = config.fits_of(config.past(_LATE))[-1]
    if INITIAL not in fit.centre:
        return None
    beta, share = fit.centre[INITIAL] / fit.step_size, (fit.pairs_from or {}).get(INITIAL, 0.0)
    if isinstance(game, DialogueLanguageGame):
        return None if share else {PROMPT: regularized_equilibrium(game.game, start, beta).policy}
    found = {}
    for prompt, matrix in game.games.items():
        reference = start[prompt] if isinstance(start, Mapping) else start
        found[prompt] = nash_md_fixed_point(matrix, reference, beta, share, mixture=game.token_mixture)
    return found


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
