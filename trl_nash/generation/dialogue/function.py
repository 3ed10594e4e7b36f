# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Dialogues that a function plays: TRL's `rollout_func`, as GRPOTrainer calls it."""

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any

from ...data.columns import as_turn
from ...data.messages import Message, prompt_of
from ...rounds.batch import Samples
from ..prompts import AnswerReader, PromptRenderer
from .rollout import Rollout, as_samples
from .turns import Turns


KEYS = ("prompt_ids", "completion_ids", "env_mask", "logprobs")


class RolloutFunction:
    """
    Has a function play whole dialogues. It is called with B * K prompts, those of a row one after the other, and
    returns as many entries of `prompt_ids`, `completion_ids` and, where others than the policy speak, `env_mask`,
    which is 1 at the policy's own tokens; `logprobs` may be left out or `None`. It samples from `trainer.model`, which
    is whatever policy is to play.

    Args:
        function (`Callable`): `(prompts, trainer) -> dict`, with the trainer bound: `(prompts) -> dict`.
        args ([`NashConfig`]): `max_length`, `strip_thinking`.
        render ([`PromptRenderer`]): of the run.
        eos_token_ids (`list[int]`): tokens that end a turn.
        say_once (`Callable[[str, str], None]`): says what went wrong, once for each name.
    """

    def __init__(
        self,
        function: Callable[[list], dict[str, Any]],
        args,
        render: PromptRenderer,
        eos_token_ids: list[int],
        name: str = "rollout_func",
        say_once: Callable[[str, str], None] = lambda message, name: None,
    ):
        self.identity = name
        self._function = function
        self._args = args
        self._render = render
        self._read = AnswerReader(render.tokenizer, args.strip_thinking)
        self._eos = set(eos_token_ids)
        self._say_once = say_once
        self._turns: Turns | None = None
        if render.tokenizer.chat_template:
            try:
                self._turns = Turns(render.tokenizer, eos_token_ids, render.chat_template_kwargs)
            except ValueError:
                self._turns = None  # what is written between turns is the function's matter

    def play(
        self, prompts: list, count: int, draw: Any, engine: Callable[[], AbstractContextManager], marches: bool = False
    ) -> Samples:
        """As [`TurnByTurn.play`]; within `engine()` the trainer's model is the policy that plays."""
        rows = [getattr(prompt, "columns", None) or {"prompt": prompt} for prompt in prompts]
        repeated = [row for row in rows for _ in range(count)]
        try:
            with engine():
                output = self._function([copy.deepcopy(row["prompt"]) for row in repeated])
        except (ConnectionError, TimeoutError) as error:
            reason = f"`rollout_func` raised {type(error).__name__}: {error}"
            self._say_once(f"Rollouts have failed ({reason}): they are not judged.", "rollout rollout_func")
            found = [self._failed(row) for row in repeated]
        else:
            found = self._rollouts(repeated, self._checked(output, len(repeated)))
        return as_samples(
            [found[start : start + count] for start in range(0, len(found), count)],
            self._render.tokenizer.pad_token_id,
        )

    def shown(self, row: dict[str, Any]) -> str | list[Message]:
        """What a row asks, as far as it is known before the function writes it."""
        return prompt_of(row)

    def _checked(self, output: Any, count: int) -> dict[str, Any]:
        if not isinstance(output, dict) or (missing := [key for key in KEYS[:2] if output.get(key) is None]):
            what = f"lacks {missing[0]!r}" if isinstance(output, dict) else f"is {output!r:.40}"
            raise ValueError(
                f"`rollout_func` returns a dict with `prompt_ids` and `completion_ids`, and what it returned {what}."
            )
        output = {key: value for key, value in output.items() if value is not None}
        for key in [key for key in KEYS if key in output]:
            if len(output[key]) != count:
                raise ValueError(
                    f"`rollout_func` returned {len(output[key])} `{key}` for {count} prompts: one for each, a prompt "
                    "that is to be answered K times being there K times."
                )
        for key in ("env_mask", "logprobs"):
            for row, values in enumerate(output.get(key, [])):
                if len(values) != (size := len(output["completion_ids"][row])):
                    raise ValueError(
                        f"`rollout_func` returned {len(values)} values of `{key}` for the {size} tokens of completion "
                        f"{row}: one for each token."
                    )
        for row, mask in enumerate(output.get("env_mask", [])):
            if not any(mask):
                raise ValueError(
                    f"`env_mask` of completion {row} is 0 everywhere, so that no token of it is the policy's: it is 1 "
                    "at tokens that the policy has sampled."
                )
        for row, ids in enumerate(output["completion_ids"]):
            if len(ids) == 0 or len(output["prompt_ids"][row]) == 0:
                raise ValueError(f"`rollout_func` returned no token for the prompt or the completion of row {row}.")
        if others := sorted(set(output) - set(KEYS)):
            self._say_once(
                f"Of what `rollout_func` returns {', '.join(others)} is not used: the judge sees the dialogues.",
                "rollout_func others",
            )
        return output

    def _rollouts(self, rows: list[dict], output: dict[str, Any]) -> list[Rollout]:
        found = []
        for place, row in enumerate(rows):
            ids = [int(token) for token in output["completion_ids"][place]]
            mask = [int(bool(own)) for own in output["env_mask"][place]] if "env_mask" in output else [1] * len(ids)
            logps = output["logprobs"][place] if "logprobs" in output else None
            prompt_ids = [int(token) for token in output["prompt_ids"][place]]
            found.append(self._rollout(row, prompt_ids, ids, mask, logps))
        return found

    def _rollout(self, row: dict, prompt_ids: list[int], ids: list[int], mask: list[int], logps) -> Rollout:
        rollout = Rollout(list(as_turn(row["prompt"])), prompt_ids, row)
        runs, start = [], 0
        for own, group in groupby(mask):
            end = start + len(list(group))
            runs.append((own, start, end))
            start = end
        room = self._args.max_length - len(prompt_ids)
        kept = [run for run in runs if run[2] <= room]
        while kept and not kept[-1][0] and len(kept) < len(runs):
            kept.pop()  # where it is cut, the policy has the last word
        if not any(own for own, _, _ in kept):
            rollout.ending = "too long"
            rollout.prompt_ids = prompt_ids[: self._args.max_length - 1]  # it is in a batch, which has to fit
            self._say_once(
                f"A rollout of `rollout_func` has no turn that ends within max_length = {self._args.max_length} "
                "tokens: it is not judged (metric rollouts/failed/too_long).",
                "rollout too long",
            )
            return rollout
        for own, start, end in kept:
            tokens = ids[start:end]
            if own:
                values = _floats(logps, start, end)
                rollout.say(tokens, self._own(tokens, rollout), values)
            else:
                rollout.hear(tokens, self._heard(tokens))
        rollout.ending = "over"
        last = max(end for own, _, end in kept if own)
        if len(kept) < len(runs):
            rollout.ending = "max_length"
            self._say_once(
                f"A rollout of `rollout_func` is longer than max_length = {self._args.max_length} tokens: it is cut "
                "where a turn of the policy ends (metric rollouts/max_length).",
                "rollout max_length",
            )
        elif ids[last - 1] not in self._eos:
            rollout.ending = "unfinished"
        # Behind the policy's last word there is nothing to train on.
        rollout.ids, rollout.mask = rollout.ids[:last], rollout.mask[:last]
        rollout.logps = rollout.logps and rollout.logps[:last]
        return rollout

    def _own(self, tokens: list[int], rollout: Rollout) -> Message:
        return {"role": "assistant", "content": self._read(tokens, rollout.context)}

    def _heard(self, tokens: list[int]) -> list[Message]:
        decode = self._render.tokenizer.decode
        text = self._turns.heard(tokens) if self._turns else decode(tokens, skip_special_tokens=True).strip()
        return [{"role": "user", "content": text}]

    def _failed(self, row: dict) -> Rollout:
        prompt_ids, _ = self._render.ids(prompt_of(row))
        return Rollout(list(as_turn(row["prompt"])), prompt_ids, row, ending="rollout_func")


def _floats(logps: Any, start: int, end: int) -> list[float] | None:
    """Log-probs of tokens, where they are one number each."""
    if logps is None:
        return None
    values = [logps[place] for place in range(start, end)]
    if any(isinstance(value, list | tuple) for value in values):
        return None
    return [math.nan if value is None else float(value) for value in values]


class GRPOView:
    """
    The trainer as a `rollout_func` knows it that was written for TRL's GRPOTrainer: what is called otherwise there has
    these names, too.
    """

    def __init__(self, trainer: Any):
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    @property
    def num_generations(self) -> int:
        return self._trainer.args.num_generations

    num_generations_eval = num_generations

    @property
    def max_completion_length(self) -> int:
        return self._trainer.args.max_new_tokens

    @property
    def vllm_generation(self) -> Any:
        return self._trainer.sampler.vllm_generation

    @property
    def args(self) -> Any:
        return _GRPOArguments(self._trainer.args)


class _GRPOArguments:
    def __init__(self, args: Any):
        self._args = args

    def __getattr__(self, name: str) -> Any:
        return getattr(self._args, {"max_completion_length": "max_new_tokens"}.get(name, name))
