# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling answers from a server with OpenAI's API."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from ...data.columns import as_turn
from ...data.messages import Message, tools_of
from ...generation.dialogue.rollout import Rollout, RolloutFailed
from ...generation.prompts import strip_thinking
from ...judges.servers.pace import NoMoreAnswers, Pace, RequestFailed, Stopped
from ...judges.servers.server import ChatServer, Declined, find_server
from ...judges.transcript import Transcript
from ..rows import Row
from .answers import answer_record, dialogue_record
from .contestants import Contestant
from .sampling import Draw, Sampling, SamplingError, SaysOnce, columns_of, seed_of


if TYPE_CHECKING:
    from ...generation.dialogue.users import User

SECONDS = 600.0  # that a server may take for an answer
RETRIES = 5  # of a request that failed for a passing reason
UNCALLED = "tool call"  # how an answer fails that calls a tool which was not offered


@contextmanager
def served(contestant: Contestant, sampling: Sampling, user: "User | None" = None) -> Iterator[Draw]:
    """Asks a server: `sampling.batch_size` requests at a time, tried again where it failed for a passing reason."""
    # A server that refuses the temperature would sample another policy without it.
    server = ChatServer(*find_server(contestant.spec, whose="policy"), whose="policy", fixed=["temperature"])
    speaker, pace = _Speaker(contestant.name, server, sampling, user), Pace(RETRIES)

    def draw(name: str, rows: list[Row]) -> Iterator[list[dict[str, Any]]]:
        stop, failure = threading.Event(), None

        def ask(row: Row) -> dict[str, Any] | SamplingError | None:
            try:
                return speaker.play(partial(pace.attempt, stop), row, seed_of(name, row, sampling))
            except Stopped:
                return None
            except SamplingError as error:
                stop.set()
                return error

        with ThreadPoolExecutor(sampling.batch_size) as pool:
            try:
                for done in as_completed([pool.submit(ask, row) for row in rows]):
                    if isinstance(answer := done.result(), dict):
                        yield [answer]
                    else:  # what is under way is waited for: it is paid for
                        failure = failure or answer
            finally:
                stop.set()
        if failure is not None:
            raise SamplingError(f"{contestant.name} cannot be asked at {server.url}: {failure}.")

    yield draw


class _Speaker:
    """A policy behind a server, and who answers it: it says a turn, and a user has the next one."""

    def __init__(self, name: str, server: ChatServer, sampling: Sampling, user: "User | None"):
        self._server, self._sampling, self._user = server, sampling, user
        self._say_once = SaysOnce(name)
        # Several at a time are asked what waits for something else; the others are in this process.
        self._gate = nullcontext() if user is None or user.waits else threading.Lock()

    def play(self, attempt: Callable, row: Row, seed: int) -> dict[str, Any]:
        """An answer, or a dialogue where there is a user."""
        start, tokens, ending, own = time.perf_counter(), 0, None, self._sampling
        dialogue = Rollout(list(as_turn(row.prompt)), [], columns_of(row))
        while ending is None:
            try:
                message, sampled, finished = self._turn(attempt, row, dialogue.messages, seed + dialogue.own_turns)
            except Declined as declined:
                if declined.reason != "too long" or dialogue.own_turns == 0:
                    raise SamplingError(str(declined)) from None
                while dialogue.turns[-1]["role"] != "assistant":  # it ends where a turn of the policy ends
                    dialogue.turns.pop()
                ending = "max_length"
                continue
            dialogue.say([], message, None)
            tokens = None if tokens is None or sampled is None else tokens + sampled
            if message.get("tool_calls") and not tools_of(row.columns):
                ending = self._uncalled(message)
            elif not finished:
                ending = "unfinished"
            elif dialogue.own_turns == own.turns:
                ending = "max_turns"
            elif message.get("tool_calls"):
                self._say_once(f"A dialogue ends with a call of a tool, {_called(message)}: nobody runs it.", "call")
                ending = "over"
            else:
                ending = self._heard(dialogue)
        if self._user is None and ending != UNCALLED:
            text = Transcript([message]) if message.get("tool_calls") else message["content"]
            record = answer_record(row, text, tokens, finished)
        else:
            record = dialogue_record(row, dialogue.turns, ending, tokens)
        return record | {"seconds": round(time.perf_counter() - start, 4)}

    def _turn(
        self, attempt: Callable, row: Row, messages: list[Message], seed: int
    ) -> tuple[Message, int | None, bool]:
        sampling = self._sampling
        body = {
            "messages": messages,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_new_tokens,
            "seed": seed,
        }
        if sampling.chat_template_kwargs:
            body["chat_template_kwargs"] = sampling.chat_template_kwargs
        if tools := tools_of(row.columns):
            body["tools"] = tools
        try:
            reply = self._server.complete(attempt, body, SECONDS)
        except (RequestFailed, NoMoreAnswers) as error:
            raise SamplingError(str(error)) from None
        said = reply.choices[0]["message"]
        text = said.get("content") or ""
        message = {"role": "assistant", "content": strip_thinking(text) if sampling.strip_thinking else text}
        if said.get("tool_calls"):
            message["tool_calls"] = said["tool_calls"]
        return message, reply.usage.get("completion_tokens"), reply.choices[0].get("finish_reason") != "length"

    def _uncalled(self, message: Message) -> str:
        """How an answer ends whose text is not all that was said, and the rest nobody asked for."""
        self._say_once(
            f"There is no answer to a prompt (it calls a tool, {_called(message)}, and none was offered): it is not "
            "judged.",
            UNCALLED,
        )
        return UNCALLED

    def _heard(self, dialogue: Rollout) -> str | None:
        """The user's turn; how the dialogue ends where there is none."""
        with self._gate:
            (answer,) = self._user.answers([dialogue])
        if isinstance(answer, RolloutFailed):
            self._say_once(f"A dialogue has failed ({answer}): it is not judged.", answer.reason)
            return answer.reason
        if answer is None:
            return "over"
        dialogue.hear([], answer)
        return None


def _called(message: Message) -> str:
    """The names of the tools that a message calls."""
    return " and ".join(str(call.get("function", call).get("name")) for call in message["tool_calls"])
