# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Dialogues turn by turn: those whose turn it is are sampled together, and no rollout waits for another one's user."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from ...data.columns import as_turn
from ...data.messages import Dialogue, Message, prompt_of
from ...rounds.batch import Samples
from ..prompts import AnswerReader, PromptRenderer
from . import TURNS
from .rollout import Rollout, RolloutFailed, as_samples
from .tools import Toolbox
from .turns import Turns
from .users import User


# Completions of contexts, so many of each, with the log-probs of their tokens where the engine has them.
Draw = Callable[[list[list[int]], int], tuple[list[list[list[int]]], list[list[list[float]]] | None]]
Answer = list[Message] | None | RolloutFailed

CONCURRENCY = 32  # of a user or a tool that is waited for


class TurnByTurn:
    """
    Plays dialogues: the policy says something, tools that it calls answer, or else the user does, until nobody has
    more to say, the policy has had `max_turns` turns, or one more would not fit in `max_length` tokens. A dialogue
    ends where a turn of the policy ends.

    Args:
        args ([`NashConfig`]): `max_turns`, `max_length`, `max_new_tokens` (of a turn), `strip_thinking`.
        render ([`PromptRenderer`]): renders the prompts.
        eos_token_ids (`list[int]`): tokens that end a turn.
        user ([`User`], *optional*): who answers what calls no tool.
        toolbox ([`Toolbox`], *optional*): tools and environments.
        say_once (`Callable[[str, str], None]`): says what went wrong, once for each name.
        together (`Callable[[int], int]`): the largest of the ranks' numbers.
    """

    def __init__(
        self,
        args,
        render: PromptRenderer,
        eos_token_ids: list[int],
        user: User | None = None,
        toolbox: Toolbox | None = None,
        say_once: Callable[[str, str], None] = lambda message, name: None,
        together: Callable[[int], int] = lambda number: number,
    ):
        tokenizer = render.tokenizer
        self.turns = Turns(tokenizer, eos_token_ids, render.chat_template_kwargs, toolbox and toolbox.tools)
        if self.turns.chat_template is not None:
            render.chat_template_kwargs = render.chat_template_kwargs | {"chat_template": self.turns.chat_template}
            say_once(
                "The tokenizer's chat template does not leave earlier turns alone: dialogues are trained with TRL's "
                "template for training in its place, and the tokenizer that is saved keeps its own.",
                "training template",
            )
        if toolbox is not None:
            toolbox.read_with(tokenizer)
        self.user = user
        self.toolbox = toolbox
        self._args = args
        self._render = render
        self._read = AnswerReader(tokenizer, args.strip_thinking)
        self._eos = set(eos_token_ids)
        self._padding = tokenizer.pad_token_id
        self._say_once = say_once
        self._together = together
        self._marching = False
        self._max_turns = args.max_turns or TURNS

    @property
    def identity(self) -> str:
        """What its dialogues depend on beside the policy, as far as it can be told."""
        return repr((self.user and self.user.name, self.toolbox and self.toolbox.names, self.turns.chat_template))

    def play(self, prompts: list, count: int, draw: Draw, engine: Any = None, marches: bool = False) -> Samples:
        """
        `count` dialogues from each of B prompts.

        Args:
            prompts (`list`): messages with the columns of their rows ([`~data.messages.Dialogue`]), or prompts as they
                are in the dataset.
            count (`int`): K.
            draw (`Callable`): samples turns of the policy.
            engine: not used: turns are all that is sampled.
            marches (`bool`, *optional*, defaults to `False`):
                Whether ranks have to make the same calls. Rollouts are then sampled turn by turn, and a rank that has
                fewer of them than another samples fillers.

        Returns:
            [`Samples`], without pairs.
        """
        self._marching = marches
        rollouts = [[self._begin(prompt) for _ in range(count)] for prompt in prompts]
        ready = [rollout for own in rollouts for rollout in own if rollout.ending is None]
        asking = _Asking()
        shared = all(r.ending is None and r.prompt_ids == own[0].prompt_ids for own in rollouts for r in own)
        if self._all(shared):
            drawn, logps = draw([own[0].prompt_ids for own in rollouts], count)
            self._say(ready, _flat(drawn), logps and _flat(logps))
            self._ask(ready, asking)
            ready = []
        while self._most(len(ready) + asking.open):
            drawn, logps = self._drawn(draw, [rollout.context for rollout in ready])
            self._say(ready, _flat(drawn), logps and _flat(logps))
            self._ask(ready, asking)
            # Whoever has his answer goes on; where ranks go together, all have.
            ready = [r for r, answer in asking.take(everything=self._marching) if self._hear(r, answer)]
        if self.toolbox is not None:
            self.toolbox.leave_all()
        return as_samples(rollouts, self._padding)

    def shown(self, row: dict[str, Any]) -> str | list[Message]:
        """What the policy is asked of a row, with the tools that it can call."""
        tools = self.toolbox and self.toolbox.tools_of(row)
        return Dialogue(as_turn(row["prompt"]), tools) if tools else prompt_of(row)

    def _begin(self, prompt) -> Rollout:
        columns = getattr(prompt, "columns", None) or {"prompt": prompt}
        messages = list(as_turn(prompt))
        rollout = Rollout(messages, [], columns)
        if self.toolbox is not None:
            try:
                rollout.room, seen = self.toolbox.enter(columns)
            except RolloutFailed as failure:
                rollout.room, seen, rollout.ending = None, None, failure.reason
                self._say_once(str(failure), f"rollout {failure.reason}")
            if seen:  # behind what the user says last, as TRL's GRPO has it
                last = messages[-1]
                rollout.prompt = [*messages[:-1], {**last, "content": (last["content"] or "") + seen}]
                rollout.turns = [{"role": "user", "content": seen}]
        begun = {"prompt": rollout.prompt} if rollout.turns else {}
        rollout.prompt_ids, cut = self._render.ids(self.shown(columns | begun))
        if cut:
            self._say_once(self._render.cut_sentence, "prompts cut")
        return rollout

    def _say(self, rollouts: list[Rollout], drawn: list[list[int]], logps: list[list[float]] | None) -> None:
        for place, (rollout, ids) in enumerate(zip(rollouts, drawn, strict=True)):
            rollout.say(list(ids), self._message(rollout, ids), None if logps is None else logps[place])
            if not ids or ids[-1] not in self._eos:
                rollout.ending = "unfinished"
            elif not rollout.turns[-1].get("tool_calls") and self.user is None:
                rollout.ending = "over"
            elif rollout.own_turns == self._max_turns:
                rollout.ending = "max_turns"
                if self._args.max_turns is None:  # a limit that nobody has chosen
                    self._say_once(
                        f"A dialogue was not over after {TURNS} turns of the policy, and ends there (metric "
                        "rollouts/max_turns): set `max_turns` for longer ones.",
                        "rollout max_turns",
                    )

    def _message(self, rollout: Rollout, ids: list[int]) -> Message:
        if self.toolbox is None:
            return {"role": "assistant", "content": self._read(ids, rollout.context)}
        return self.toolbox.parse(ids, rollout, self._read)

    def _ask(self, rollouts: list[Rollout], asking: "_Asking") -> None:
        going = [rollout for rollout in rollouts if rollout.ending is None]
        calling = [rollout for rollout in going if rollout.turns[-1].get("tool_calls")]
        if calling:
            asking.ask(calling, self.toolbox.answers, self.toolbox.waits)
        if self.user is not None:
            others = [rollout for rollout in going if rollout not in calling]
            if others or self._marching:  # a user that is a policy is sampled by all ranks
                asking.ask(others, self.user.answers, self.user.waits)

    def _hear(self, rollout: Rollout, answer: Answer) -> bool:
        """Whether the policy has another turn."""
        if isinstance(answer, RolloutFailed):
            rollout.ending = answer.reason
            name = answer.reason.replace(" ", "_")
            self._say_once(
                f"A rollout has failed ({answer}): it is not judged (metric rollouts/failed/{name}).",
                f"rollout {answer.reason}",
            )
        elif answer is None:
            rollout.ending = "over"
        else:
            ids = self.turns.between(answer, rollout.ids[-1])
            if (
                len(rollout.prompt_ids) + len(rollout.ids) + len(ids) + self._args.max_new_tokens
                > self._args.max_length
            ):
                rollout.ending = "max_length"
                self._say_once(
                    f"A dialogue has no room for another turn of max_new_tokens = {self._args.max_new_tokens} within "
                    f"max_length = {self._args.max_length}: it ends with the turn before (metric "
                    "rollouts/max_length).",
                    "rollout max_length",
                )
            else:
                rollout.hear(ids, answer)
        return rollout.ending is None

    def draw_together(self, draw: Draw, contexts: list[list[int]]) -> list[list[list[int]]]:
        """One completion of each context, for a user that is a policy."""
        return self._drawn(draw, contexts)[0]

    def _drawn(self, draw: Draw, contexts: list[list[int]]) -> tuple[list, list | None]:
        rows = self._most(len(contexts))
        if not rows:
            return [], None
        drawn, logps = draw(contexts + [[self._padding]] * (rows - len(contexts)), 1)
        return drawn[: len(contexts)], logps and logps[: len(contexts)]

    def _most(self, number: int) -> int:
        return self._together(number) if self._marching else number

    def _all(self, flag: bool) -> bool:
        return self._most(int(not flag)) == 0


class _Asking:
    """Questions that are answered at once, or waited for side by side."""

    def __init__(self):
        self.open = 0
        self._done: queue.SimpleQueue[tuple[Rollout, Answer]] = queue.SimpleQueue()
        self._gate = threading.Semaphore(CONCURRENCY)

    def ask(self, rollouts: Sequence[Rollout], answers: Callable[[list[Rollout]], list[Answer]], waits: bool) -> None:
        self.open += len(rollouts)
        if waits:
            for rollout in rollouts:
                threading.Thread(target=self._wait, args=(rollout, answers), daemon=True).start()
        else:
            for pair in zip(rollouts, answers(list(rollouts)), strict=True):
                self._done.put(pair)

    def _wait(self, rollout: Rollout, answers: Callable[[list[Rollout]], list[Answer]]) -> None:
        with self._gate:
            try:
                (answer,) = answers([rollout])
            except BaseException as error:  # or the round would wait for ever
                answer = RolloutFailed("error", f"{type(error).__name__}: {error}")
            self._done.put((rollout, answer))

    def take(self, everything: bool) -> list[tuple[Rollout, Answer]]:
        """What is answered by now, at least one if any is asked; all of it if `everything` is wanted."""
        found = []
        while self.open and (everything or not found or not self._done.empty()):
            found.append(self._done.get())
            self.open -= 1
        return found


def _flat(rows: list[list]) -> list:
    return [row for own in rows for row in own]
