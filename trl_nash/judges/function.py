# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Any callable of the judge contract as a judge."""

import asyncio
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from .base import PairwiseJudge
from .calls import accepted, required
from .transcript import Transcript


class CallableJudge(PairwiseJudge):
    """
    A judge made of a function `(prompts, first, second, **columns) -> list[float]`.

    Args:
        function (`Callable`):
            Returns one probability per row that `first` is better than `second`; `nan` or `None` abstains. The two are
            texts, and of dialogues lists of messages, all those behind the prompt. Of the
            dataset's columns it gets those that its signature names, or all with `**kwargs`. It may be asynchronous.
            It is then awaited in an event loop of its own thread, the same one for every call, and may ask all its
            questions concurrently with `asyncio.gather`. An asynchronous one waits, as one does that says so with an
            attribute `waits`: trainers sample while it is asked.
        symmetric (`bool`, *optional*):
            Whether `P(a ≻ b) = 1 - P(b ≻ a)` by construction, so that one order is asked instead of both. Defaults to
            the function's own attribute `symmetric`, `False` if it has none.

    Raises:
        `TypeError`: If `function` is not callable, is a class, or does not take three positional arguments.
    """

    def __init__(self, function: Callable, symmetric: bool | None = None):
        if not callable(function):
            raise TypeError(
                f"A judge is a callable `(prompts, first, second) -> list[float]`; got {function!r} "
                f"({type(function).__name__})."
            )
        self.function = function
        called = function if inspect.isroutine(function) else type(function).__call__
        self.waits = getattr(function, "waits", inspect.iscoroutinefunction(called))
        self.symmetric = getattr(function, "symmetric", False) if symmetric is None else symmetric
        if inspect.isclass(function):
            raise TypeError(f"The judge {self.name} is a class; pass an instance of it: `{self.name}(...)`.")
        signature = inspect.signature(function)
        try:
            signature.bind_partial(None, None, None)
        except TypeError:
            raise TypeError(
                f"A judge is called as `judge(prompts, first, second)` but got `{self.name}{signature}`. If it scores "
                f"single completions pass it as `reward_funcs`, or as `RewardJudge({self.name})`."
            ) from None

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def description(self) -> str:
        called = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"{called.__module__}:{called.__qualname__}"

    @property
    def needs(self) -> frozenset[str]:
        return required(self.function, positional=3)

    def __call__(self, prompts, first, second, **columns):
        # Columns that the function does not see must not make two questions different.
        return super().__call__(prompts, first, second, **accepted(self.function, columns, positional=3))

    def judge(self, prompts, first, second, **columns):
        first, second = (list(map(as_given, texts)) for texts in (first, second))
        answers = self.function(prompts, first, second, **columns)
        return wait_for(answers) if inspect.isawaitable(answers) else answers


def as_given(completion: str) -> str | list[dict[str, Any]]:
    """A completion as functions get it: a text, and of a dialogue its messages."""
    return [dict(message) for message in completion.messages] if isinstance(completion, Transcript) else completion


def wait_for(awaitable: Awaitable) -> Any:
    """
    The result of a coroutine, for callers that are not asynchronous themselves, also inside a running loop (Jupyter).
    """

    async def result():
        return await awaitable

    future = asyncio.run_coroutine_threadsafe(result(), _event_loop(os.getpid()))
    try:
        return future.result()
    finally:
        future.cancel()  # where waiting was interrupted; a finished one does not mind


@functools.cache
def _event_loop(process: int) -> asyncio.AbstractEventLoop:
    """
    One loop for all calls of a process: clients keep connections, which belong to the loop that opened them.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="trl-nash-judge", daemon=True).start()
    return loop
