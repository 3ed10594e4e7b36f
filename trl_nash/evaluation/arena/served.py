# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling answers from a server with OpenAI's API."""

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any

from ...data.columns import as_turn
from ...generation.prompts import strip_thinking
from ...judges.server import check_key, find_server, import_openai
from ..rows import Row
from .contestants import Contestant
from .sampling import Draw, Sampling, SamplingError, as_record, seed_of


KEY = "OPENAI_API_KEY"  # environment variable, sent to the server and kept nowhere
SECONDS = 600.0  # that a server may take for an answer
RETRIES = 5  # of a request that failed for a passing reason


@contextmanager
def served(contestant: Contestant, sampling: Sampling) -> Iterator[Draw]:
    """Asks a server: `sampling.batch_size` requests at a time, tried again where it failed for a passing reason."""
    model, url = find_server(contestant.spec, whose="policy")
    check_key(url, KEY)
    key = os.environ.get(KEY) or "none"  # which servers without keys ignore
    client = import_openai("policy").OpenAI(base_url=url, api_key=key, timeout=SECONDS, max_retries=RETRIES)

    def draw(name: str, rows: list[Row]) -> Iterator[list[dict[str, Any]]]:
        stop, failure = threading.Event(), None

        def ask(row: Row) -> dict[str, Any] | SamplingError | None:
            if stop.is_set():
                return None
            try:
                return _ask(client, model, row, seed_of(name, row, sampling), sampling)
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
            raise SamplingError(f"{contestant.name} cannot be asked at {url}: {failure}.")

    yield draw


def _ask(client, model: str, row: Row, seed: int, sampling: Sampling) -> dict[str, Any]:
    from openai import APIError

    start = time.perf_counter()
    extra = {"chat_template_kwargs": sampling.chat_template_kwargs} if sampling.chat_template_kwargs else None
    tools = {"tools": row.prompt.tools} if hasattr(row.prompt, "tools") else {}
    try:
        reply = client.chat.completions.create(
            model=model,
            messages=as_turn(row.prompt),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            seed=seed,
            extra_body=extra,
            **tools,
        )
        choice = reply.choices[0]
    except (APIError, ValueError, TypeError, IndexError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        if key := os.environ.get(KEY):
            text = text.replace(key, "***")
        raise SamplingError(text[:300].rstrip(".")) from None
    text = choice.message.content or ""
    if sampling.strip_thinking:
        text = strip_thinking(text)
    tokens = reply.usage.completion_tokens if reply.usage else None
    return as_record(row, text, tokens, choice.finish_reason != "length", time.perf_counter() - start)
