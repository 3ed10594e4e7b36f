# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How requests are sent to a server: at what rate, how many, how often again, and when there is no point any more."""

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar


BACKOFF = 0.5  # seconds before the first retry; twice as long before each further one
LONGEST_BACKOFF = 30.0
LONGEST_PAUSE = 120.0  # seconds; a server that asks for more is not waited for

T = TypeVar("T")


class RequestFailed(Exception):
    """
    A request got no usable answer.

    Args:
        message (`str`): Why, without secrets.
        retry (`bool`): Whether the same request may succeed later.
        retry_after (`float`, *optional*): Seconds for which the server asked to be left alone.
    """

    def __init__(self, message: str, retry: bool, retry_after: float | None = None):
        super().__init__(message)
        self.retry = retry
        self.retry_after = retry_after


class NoMoreAnswers(Exception):
    """No request will be answered any more: the key is refused, the budget spent. Says why, without secrets."""


class Stopped(Exception):
    """A worker gave up its question because another one met the end."""


class Gate:
    """Lets requests pass at a rate, for all threads together, and none during a pause."""

    def __init__(self, per_minute: float | None = None):
        self.interval = 60.0 / per_minute if per_minute else 0.0
        self.opens = 0.0  # when the next request may pass, by `time.monotonic`
        self.lock = threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        with self.lock:
            now = time.monotonic()
            slot = max(self.opens, now)
            self.opens = slot + self.interval
        if (slot > now and stop.wait(slot - now)) or stop.is_set():
            raise Stopped

    def pause(self, seconds: float) -> None:
        with self.lock:
            self.opens = max(self.opens, time.monotonic() + seconds)


class Pace:
    """
    Sends requests, from any thread, and those that failed for a passing reason again.

    Args:
        max_retries (`int`):
            Further attempts at a request. They wait as long as the server's `retry-after` says, or .5, 1, 2, ...
            seconds, less up to half at random.
        requests_per_minute (`float`, *optional*):
            Upper bound of the rate of requests.
        budget (`int`, *optional*):
            Requests, retries included, that may be sent.

    Attributes:
        usage (`Counter`): `requests`, `failed_requests`, `seconds` (summed over requests), and what else is counted.
    """

    def __init__(self, max_retries: int, requests_per_minute: float | None = None, budget: int | None = None):
        self.max_retries = max_retries
        self.budget = budget
        self.gate = Gate(requests_per_minute)
        self.usage: Counter = Counter()
        self._lock = threading.Lock()
        self._random = random.Random()  # not the global one, whose state belongs to the training run

    def count(self, **amounts: float) -> None:
        """Adds to `usage`."""
        with self._lock:
            for name, amount in amounts.items():
                self.usage[name] += amount

    def attempt(self, stop: threading.Event, send: Callable[[], T]) -> T:
        """
        What `send` returns, which is called when the rate allows it, and again where that may help.

        Args:
            stop (`threading.Event`): Whether to give up.
            send (`Callable`): Sends a request; raises [`RequestFailed`] if it gets no answer.

        Raises:
            `RequestFailed`: If there is none after all retries.
            `NoMoreAnswers`: If the budget is spent, or the server asks to wait for too long.
            `Stopped`: If `stop` is set.
        """
        for retries in range(self.max_retries + 1):
            self.gate.wait(stop)
            self._spend()
            start = time.perf_counter()
            try:
                return send()
            except RequestFailed as error:
                failure = error
            finally:
                self.count(seconds=time.perf_counter() - start)
            self.count(failed_requests=1)
            if not failure.retry or retries == self.max_retries:
                break
            if failure.retry_after is not None:
                if failure.retry_after > LONGEST_PAUSE:
                    raise NoMoreAnswers(f"it asks to wait {failure.retry_after:.0f} seconds ({failure})")
                self.gate.pause(failure.retry_after)
            backoff = min(BACKOFF * 2.0**retries, LONGEST_BACKOFF) * (1.0 - self._random.random() / 2.0)
            if stop.wait(backoff):
                raise Stopped
        raise failure

    def _spend(self) -> None:
        with self._lock:
            if self.budget is not None and self.usage["requests"] >= self.budget:
                raise NoMoreAnswers(f"its budget of {self.budget} requests is spent; raise `budget`")
            self.usage["requests"] += 1


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the headers of a reply ask to wait: `retry-after-ms`, or `retry-after` in seconds or as a date."""
    with contextlib.suppress(KeyError, ValueError):
        return max(0.0, float(headers["retry-after-ms"]) / 1000.0)
    text = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    return None
