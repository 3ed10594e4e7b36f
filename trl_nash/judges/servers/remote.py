# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What every judge behind a network needs: questions asked side by side, retries, a rate, a budget, and an end when the
server is gone. How a question is put and read is the matter of a subclass ([`OpenAIJudge`]).

Threads do the waiting, so that it works in a synchronous trainer and inside a running event loop alike.
"""

import functools
import logging
import math
import os
import queue
import threading
import time
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TypeVar

from ..base import Abstained, JudgeError, PairwiseJudge, Prompt
from ..store import JudgementStore, as_store
from .pace import NoMoreAnswers, Pace, RequestFailed, Stopped


logger = logging.getLogger(__name__)

LONGEST_FAREWELL = 10.0  # seconds that answers under way are waited for after Ctrl-C

T = TypeVar("T")


class RemoteJudge(PairwiseJudge):
    """
    Base class of judges that ask a server. A subclass implements [`~RemoteJudge.ask`].

    A question that gets no answer after its retries abstains with the reason `"server"`, and is asked again in the
    next run because abstentions are not cached.

    Args:
        server (`str`):
            What error messages call the server; no secrets.
        order (`str`, *optional*, defaults to `"both"`):
            As in [`PairwiseJudge`].
        concurrency (`int`, *optional*, defaults to 32):
            Requests under way at a time. This, `requests_per_minute` and `budget` are totals, of which each process of
            a distributed run (`WORLD_SIZE`) takes its share.
        max_retries (`int`, *optional*, defaults to 5):
            Further attempts at a request that failed for a passing reason. They wait as long as the server's
            `retry-after` says, or .5, 1, 2, ... seconds, less up to half at random.
        requests_per_minute (`float`, *optional*):
            Upper bound of the rate of requests.
        max_failures (`int`, *optional*, defaults to 20):
            After so many questions in a row without an answer the judge raises a [`JudgeError`].
        budget (`int`, *optional*):
            Requests, retries included, that may be sent in the life of the judge, after which it raises a
            [`JudgeError`].
        cache (`bool`, `str`, `os.PathLike` or [`JudgementStore`], *optional*, defaults to `True`):
            Where answers are kept: `True` for the default store, a path, or `None` for nowhere.

    Attributes:
        usage (`Counter`):
            `requests`, `failed_requests`, `seconds` (summed over requests), and what the subclass adds.
    """

    waits = True

    def __init__(
        self,
        server: str,
        *,
        order: str = "both",
        concurrency: int = 32,
        max_retries: int = 5,
        requests_per_minute: float | None = None,
        max_failures: int = 20,
        budget: int | None = None,
        cache: JudgementStore | str | os.PathLike | bool | None = True,
    ):
        least = {"concurrency": 1, "max_retries": 0, "requests_per_minute": 1e-9, "max_failures": 1, "budget": 1}
        values = (concurrency, max_retries, requests_per_minute, max_failures, budget)
        for (argument, smallest), value in zip(least.items(), values, strict=True):
            if value is not None and value < smallest:
                raise ValueError(f"`{argument}` of {self.name} must be {smallest:g} or more; got {value}.")
        processes = int(os.environ.get("WORLD_SIZE") or 1)
        self.server = server
        self.order = order
        self.concurrency = max(1, concurrency // processes)
        self.max_failures = max_failures
        self.cache = as_store(cache)
        self.pace = Pace(
            max_retries,
            requests_per_minute and requests_per_minute / processes,
            None if budget is None else max(1, budget // processes),
        )
        self._lock = threading.Lock()
        self._failures = 0  # questions in a row without an answer

    @abstractmethod
    def ask(
        self, attempt: Callable[[Callable[[], T]], T], prompt: Prompt, first: str, second: str, **columns
    ) -> float:
        """
        Answer one question; called by many threads at a time.

        Args:
            attempt (`Callable`):
                `attempt(send)` calls `send()`, once the rate and the budget allow it, and again after a
                [`RequestFailed`] that a retry may heal. Every request goes through it.
            prompt (`str` or `list[dict]`): As in the dataset.
            first (`str`): A completion.
            second (`str`): A completion.
            columns: The values of the dataset's other columns.

        Returns:
            `float`: The probability that `first` is better, or [`Abstained`].

        Raises:
            `RequestFailed`: If there is no answer to this question.
            `JudgeError`: If there will be none to the others either.
        """

    @property
    def usage(self) -> Counter:
        return self.pace.usage

    def prepare(self, attempt: Callable[[Callable[[], T]], T]) -> None:
        """Called before the questions of a batch, for what has to be found out once."""

    def judge(self, prompts, first, second, **columns):
        answers: list[float] = [math.nan] * len(prompts)
        for row, answer in self.judge_each(prompts, first, second, **columns):
            answers[row] = answer
        return answers

    def judge_each(self, prompts, first, second, **columns) -> Iterator[tuple[int, float]]:
        """
        Answers in the order in which they arrive. What is under way when the judge meets an end (a [`JudgeError`],
        Ctrl-C) is waited for and yielded before the error is raised: it is paid for. After Ctrl-C not for long.
        """
        stop = threading.Event()
        attempt = functools.partial(self._attempt, stop)
        self.prepare(attempt)
        rows: queue.SimpleQueue = queue.SimpleQueue()
        results: queue.SimpleQueue = queue.SimpleQueue()
        for row in range(len(prompts)):
            rows.put(row)

        def work():
            try:
                while not stop.is_set():
                    row = rows.get_nowait()
                    rest = {name: values[row] for name, values in columns.items()}
                    results.put((row, self._outcome(stop, attempt, prompts[row], first[row], second[row], rest)))
            except queue.Empty:
                pass
            finally:
                results.put(None)  # this worker is done

        workers = min(self.concurrency, len(prompts))
        for _ in range(workers):
            threading.Thread(target=work, name="judge", daemon=True).start()
        errors, failed, deadline = [], [], None
        try:
            while workers:
                try:
                    result = results.get(timeout=deadline and max(0.0, deadline - time.monotonic()))
                except KeyboardInterrupt as interrupt:
                    stop.set()
                    errors.insert(0, interrupt)
                    deadline = time.monotonic() + LONGEST_FAREWELL
                    continue
                except queue.Empty:
                    break
                if result is None:
                    workers -= 1
                    continue
                row, answer = result
                if isinstance(answer, RequestFailed):
                    failed.append(answer)
                    answer = Abstained("server")
                if not isinstance(answer, Exception):
                    yield row, answer
                elif not isinstance(answer, Stopped):
                    errors.append(answer)
        finally:
            stop.set()
        if self._failures >= self.max_failures:
            errors.append(self.ended(f"{self._failures} failures in a row, the last: {failed[-1]}"))
        if errors:
            self._failures = 0
            raise errors[0]
        if failed:
            logger.warning(
                f"{self.name} got no answer to {len(failed)} of {len(prompts)} questions from {self.server}, which "
                f"abstain; the last: {failed[-1]}."
            )

    def _outcome(self, stop: threading.Event, attempt, *question) -> float | Exception:
        """A worker's answer, or what went wrong. Stops the others if that is the end."""
        *question, columns = question
        try:
            answer = self.ask(attempt, *question, **columns)
        except Exception as error:
            answer = error
        with self._lock:
            if isinstance(answer, RequestFailed):
                self._failures += 1
            elif isinstance(answer, Exception):
                stop.set()
            elif self._failures < self.max_failures:  # else the end has come, and this is a straggler
                self._failures = 0
            if self._failures >= self.max_failures:
                stop.set()
        return answer

    def ended(self, why: str) -> JudgeError:
        """A [`JudgeError`] that says what is wrong with the server and how to go on."""
        if self.cache is None:
            rest = "With `cache` at None its earlier answers are lost"
        else:
            rest = f"All it answered is kept in {self.cache.path}: run again, and only the rest is asked"
        return JudgeError(f"{self.name} cannot go on with {self.server}: {why}. {rest}.")

    def _attempt(self, stop: threading.Event, send: Callable[[], T]) -> T:
        try:
            return self.pace.attempt(stop, send)
        except NoMoreAnswers as error:
            why = str(error)
        raise self.ended(why)  # out here, so that no traceback shows what the server said
