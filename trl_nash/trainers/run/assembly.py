# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A trainer's collaborators, put together."""

from typing import TYPE_CHECKING

import torch

from ...compat import get_callable_name
from ...generation.sampler import Sampler
from ...generation.vllm import VLLMEngine
from ...judges.rewards.model import RewardModel
from ...policies import FrozenPolicies
from ..checks.arguments import check_mixture
from .checkpoints.keeper import Keeper
from .collector import Collector
from .dialogues import Dialogues
from .held_out import HeldOutPrompts
from .hooks import EpochCounter
from .judging import Judging
from .pool import OpponentPoolCallback
from .reports.opening import say_small_rate
from .reports.reporter import Reporter
from .round_end import RoundEnd
from .scorer import Scorer
from .settings import settings_of
from .stops import Stops


if TYPE_CHECKING:
    from ..base import NashTrainer


def assemble(trainer: "NashTrainer", fresh_adapter: bool, dialogues: Dialogues) -> None:
    """The collaborators of the rounds. What changes while a run goes on they ask for, by functions."""
    args, accelerator, tokenizer = trainer.args, trainer.accelerator, trainer._tokenizer
    live, device = lambda: trainer.model_wrapped, accelerator.device
    trainer.policies = FrozenPolicies(live, lambda: trainer.model, trainer.ref_model, fresh_adapter)
    trainer.held_out = HeldOutPrompts(
        args, accelerator, place=lambda: trainer.place, training=lambda: trainer.model.training
    )
    trainer.reporter = Reporter(
        args,
        accelerator,
        mode=lambda: "train" if trainer.model.training else "eval",
        round=lambda: trainer.round,
        eos_token_ids=trainer.eos_token_ids,
        ending=lambda: trainer.model.training and args.schedule.in_second_half(trainer.place),
        held_out=trainer.held_out,
    )
    engine = None
    if args.use_vllm:
        engine = VLLMEngine(args, accelerator, trainer.model, tokenizer, trainer.eos_token_ids)
    trainer.sampler = Sampler(
        args,
        accelerator,
        live,
        trainer.policies,
        tokenizer,
        trainer.eos_token_ids,
        say_once=trainer.reporter.say_once,
        tell=trainer.reporter.tell_token,
        vllm=engine,
    )
    trainer.sampler.source = dialogues.source(trainer)
    trainer.judging = Judging(trainer.judge, args, tokenizer, state=lambda: trainer.state)
    trainer.stops = Stops(
        accelerator,
        trainer.save_stopped,
        where=lambda: f"at step {trainer.state.global_step} (round {trainer.round + 1})",
        tokenizer=tokenizer,
        save_only_model=args.save_only_model,
    )
    trainer.collector = Collector(
        args,
        accelerator,
        lambda prompts: trainer.sample_pairs(prompts),
        trainer.sampler,
        trainer.judging,
        trainer.reporter,
        trainer.stops,
    )
    trainer.scorer = Scorer(
        lambda model, batch: trainer.score(model, batch),
        live,
        trainer.policies,
        trainer.compute_loss_context_manager,
        device,
        trainer.reporter,
    )
    trainer.keeper = Keeper(
        args, accelerator, trainer.policies, trainer._name, trainer.reporter, settings=lambda: settings_of(trainer)
    )
    trainer.epochs = EpochCounter()
    trainer.add_callback(trainer.epochs)
    trainer.add_callback(trainer.stops)
    trainer.round_end = RoundEnd(trainer.reporter)
    trainer.add_callback(trainer.round_end)
    check_mixture(trainer.opponent, trainer.policies, accelerator)
    if args.opponent_pool_rounds is not None:
        trainer.add_callback(OpponentPoolCallback(trainer, rounds=args.opponent_pool_rounds))
    say_small_rate(trainer)


def show_rewards(trainer: "NashTrainer", funcs: list) -> None:
    """What TRL's scripts look at: the base has a stand-in. There is nothing to see of a judge."""
    models = [func if isinstance(func, RewardModel) else None for func in funcs]
    trainer.reward_funcs = [model.model if model else func for model, func in zip(models, funcs, strict=True)]
    trainer.reward_processing_classes = [model and model.tokenizer for model in models]
    trainer.reward_func_names = [get_callable_name(func).rpartition("/")[2] for func in funcs]
    trainer.reward_weights = torch.tensor(trainer.judge.reward_weights, dtype=torch.float32) if funcs else None
