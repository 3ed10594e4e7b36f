# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A trainer's arguments that make completions dialogues, and the source that they make."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from datasets import Dataset

from ...algorithms import INITIAL
from ...generation.dialogue.function import GRPOView, RolloutFunction
from ...generation.dialogue.play import TurnByTurn
from ...generation.dialogue.tools import CHOICE, Toolbox
from ...generation.dialogue.users import load_user
from ..checks.values import as_list


if TYPE_CHECKING:
    from ..base import NashTrainer


@dataclass(frozen=True)
class Dialogues:
    """Who speaks beside the policy, in the names of [`NashTrainer`]'s arguments."""

    user: Any = None
    tools: list[Callable] | None = None
    rollout_func: Callable | None = None
    environment_factory: Callable | dict[str, Callable] | None = None

    @property
    def _given(self) -> list[str]:
        names = ("user", "tools", "rollout_func", "environment_factory")
        return [name for name in names if (value := getattr(self, name)) is not None and value != []]

    def check(self, args, ref_model: Any = None) -> None:
        """
        Refuses what does not go together.

        Raises:
            `ValueError`: says what to leave out.
        """
        given = self._given
        if args.max_turns is not None and (not given or self.rollout_func):
            raise ValueError(
                f"`max_turns={args.max_turns}` is of dialogues that are played turn by turn: pass `user`, `tools` or "
                "`environment_factory`, or leave it out."
            )
        if not given:
            return
        if isinstance(self.user, str) and self.user != "initial" and not self.user.startswith("local:"):
            load_user(self.user, args)  # so that a wrong name is said before a model is loaded
        if self.rollout_func is not None and not callable(self.rollout_func):
            raise TypeError(
                f"`rollout_func` is a function `(prompts, trainer) -> dict`, got {self.rollout_func!r:.80}."
            )
        if self.rollout_func and len(given) > 1:
            others = " and ".join(f"`{name}`" for name in given if name != "rollout_func")
            raise ValueError(f"`rollout_func` plays whole dialogues: leave {others} out.")
        if args.raw_prompts and not self.rollout_func:
            raise ValueError("`raw_prompts` makes no turns of prompts, and a dialogue begins with one: leave it out.")
        if args.missing_eos_penalty is not None:
            raise ValueError(
                "`missing_eos_penalty` looks for an end of sequence anywhere in a completion, and every turn of a "
                "dialogue has one: leave it out (metric rollouts/unfinished)."
            )
        if self.rollout_func and ref_model is not None:
            raise ValueError(
                "`rollout_func` samples from `trainer.model`, which `ref_model` never is: leave `ref_model` out, and "
                "the reference is the policy as it was."
            )
        mixes = getattr(args, "opponent", "mixture") == "mixture"
        if self.rollout_func and mixes and any(0 < c < 1 for c in as_list(getattr(args, "mixture_coef", 0.0))):
            raise ValueError(
                "`rollout_func` samples from one policy, and not from a mixture of two: set `mixture_coef` to 0 or 1, "
                "or pass `user`, `tools` or `environment_factory`."
            )

    def source(self, trainer: "NashTrainer") -> TurnByTurn | RolloutFunction | None:
        """Who plays the dialogues; `None` if a completion is one turn."""
        args, sampler, say_once = trainer.args, trainer.sampler, trainer.reporter.say_once
        if self.rollout_func:
            play = partial(_called, self.rollout_func, GRPOView(trainer))
            name = getattr(self.rollout_func, "__qualname__", type(self.rollout_func).__qualname__)
            return RolloutFunction(play, args, sampler.render, trainer.eos_token_ids, name, say_once)
        if not self._given:
            return None
        user = toolbox = None
        if self.user is not None:
            device = trainer.accelerator.device

            def start(prompt_ids: list[list[int]]) -> list[list[int]]:
                return [own[0] for own in source.draw_together(partial(sampler.draw, policy=INITIAL), prompt_ids)]

            user = load_user(self.user, args, trainer._tokenizer, start, device)
        if self.tools or self.environment_factory is not None:
            toolbox = Toolbox(self.tools, self.environment_factory, say_once)
            for rows in (trainer.train_dataset, trainer.eval_dataset):
                if isinstance(rows, Dataset):
                    toolbox.check_names(rows[CHOICE] if CHOICE in rows.column_names else [None])
        source = TurnByTurn(
            args,
            sampler.render,
            trainer.eos_token_ids,
            user,
            toolbox,
            say_once,
            together=lambda number: max(gather_object([number])),
        )
        return source


def _called(function: Callable, trainer: GRPOView, prompts: list) -> dict[str, Any]:
    return function(prompts, trainer)
