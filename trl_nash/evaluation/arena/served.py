# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling answers from a server with OpenAI's API."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from typing import Any

from ...data.columns import as_turn
from ...generation.prompts import strip_thinking
from ...judges.servers.pace import NoMoreAnswers, Pace, RequestFailed, Stopped
from ...judges.servers.server import ChatServer, Declined, find_server
from ..rows import Row
from .contestants import Contestant
from .sampling import Draw, Sampling, SamplingError, as_record, seed_of


SECONDS = 600.0  # that a server may take for an answer
RETRIES = 5  # of a request that failed for a passing reason


@contextmanager
def served(contestant: Contestant, sampling: Sampling) -> Iterator[Draw]:
    """Asks a server: `sampling.batch_size` requests at a time, tried again where it failed for a passing reason."""
    # A server that refuses the temperature would sample another policy without it.
    server = ChatServer(*find_server(contestant.spec, whose="policy"), whose="policy", fixed=["temperature"])
    pace = Pace(RETRIES)

    def draw(name: str, rows: list[Row]) -> Iterator[list[dict[str, Any]]]:
        stop, failure = threading.Event(), None

        def ask(row: Row) -> dict[str, Any] | SamplingError | None:
            try:
                return _ask(server, partial(pace.attempt, stop), row, seed_of(name, row, sampling), sampling)
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


def _ask(server: ChatServer, attempt: Callable, row: Row, seed: int, sampling: Sampling) -> dict[str, Any]:
    start = time.perf_counter()
    body = {
        "messages": as_turn(row.prompt),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": seed,
    }
    if sampling.chat_template_kwargs:
        body["chat_template_kwargs"] = sampling.chat_template_kwargs
    if hasattr(row.prompt, "tools"):
        body["tools"] = row.prompt.tools
    try:
        reply = server.complete(attempt, body, SECONDS)
    except (RequestFailed, Declined, NoMoreAnswers) as error:
        raise SamplingError(str(error)) from None
    text = reply.choices[0]["message"].get("content") or ""
    if sampling.strip_thinking:
        text = strip_thinking(text)
    finished = reply.choices[0].get("finish_reason") != "length"
    return as_record(row, text, reply.usage.get("completion_tokens"), finished, time.perf_counter() - start)
