# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judgements on disk: what was paid for once is never asked again, by any process."""

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any


SECONDS_TO_WAIT = 60.0  # for another process that writes
KEYS_A_QUERY = 500  # SQLite takes 999 parameters or more

Question = tuple[str, str, str]  # prompt and columns as JSON, and the two completions in the order that is asked


class JudgementStore:
    """
    A table of key → JSON value in an SQLite file. Threads and processes of one machine may share a file, on a local
    disk (SQLite's log does not work over NFS). What `put` has returned from survives a kill of the process.

    Args:
        path (`str` or `os.PathLike`, *optional*):
            The file, made on first use. By default `judgements.sqlite` in the folder `$TRL_NASH_CACHE`, or in
            `~/.cache/trl-nash` without that variable.

    Raises:
        `ValueError`: On first use, if the file is no such table or cannot be written.
    """

    def __init__(self, path: str | os.PathLike | None = None):
        folder = os.environ.get("TRL_NASH_CACHE") or "~/.cache/trl-nash"
        self.path = Path(path if path is not None else Path(folder) / "judgements.sqlite")
        self.path = Path(os.path.expanduser(self.path))  # a user that does not exist stays a name
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0  # that opened the connection: it must not be used behind a fork

    def __repr__(self) -> str:
        return f"JudgementStore({str(self.path)!r})"

    def __getstate__(self):
        return {"path": self.path}

    def __setstate__(self, state):
        self.__init__(state["path"])

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """The values of those of `keys` that are in the store."""
        keys, found = list(keys), {}
        with self._connected() as connection:
            for start in range(0, len(keys), KEYS_A_QUERY):
                some = keys[start : start + KEYS_A_QUERY]
                marks = ",".join("?" * len(some))
                found.update(connection.execute(f"SELECT key, value FROM judgements WHERE key IN ({marks})", some))
        try:
            return {key: json.loads(value) for key, value in found.items()}
        except (TypeError, ValueError) as error:
            raise self._unusable(error) from error

    def put(self, key: str, value: Any) -> None:
        """Stores a value, in place of an earlier one."""
        with self._connected() as connection, connection:
            connection.execute("INSERT OR REPLACE INTO judgements VALUES (?, ?)", (key, json.dumps(value)))

    def __len__(self) -> int:
        with self._connected() as connection:
            return connection.execute("SELECT COUNT(*) FROM judgements").fetchone()[0]

    def close(self) -> None:
        with self._lock:
            if self._connection is not None and self._process == os.getpid():
                self._connection.close()
            self._connection = None

    @contextlib.contextmanager
    def _connected(self):
        """The connection, for one thread at a time."""
        with self._lock:
            try:
                if self._connection is None or self._process != os.getpid():
                    self._connection, self._process = self._open(), os.getpid()
                yield self._connection
            except (sqlite3.Error, OSError, ValueError) as error:
                raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> ValueError:
        return ValueError(
            f"The judgement cache {self.path} cannot be used ({error}): move the file away, or name another "
            "one with `cache`."
        )

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=SECONDS_TO_WAIT, check_same_thread=False)
        self._log_writes(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS judgements (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID")
        return connection

    @staticmethod
    def _log_writes(connection: sqlite3.Connection) -> None:
        """From now on a write appends to a log beside the file: it is fast, and readers do not wait for it."""
        deadline = time.monotonic() + SECONDS_TO_WAIT
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                # Alone of all statements this one does not wait for another process that makes the file.
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


def as_store(cache: "JudgementStore | str | os.PathLike | bool | None") -> JudgementStore | None:
    """The `cache` argument of a judge: a store, the path of one, `True` for the default one, `None` for none."""
    if cache is None or cache is False:
        return None
    if isinstance(cache, JudgementStore):
        return cache
    return JudgementStore(None if cache is True else cache)


def judgement_key(identity: str, prompt: Any, columns: dict[str, Any], first: str, second: str) -> str | None:
    """
    The key of one question, or `None` if it has a column that is no JSON and means something in this process only.
    """
    try:
        text = json.dumps([identity, [prompt, columns], first, second], sort_keys=True)
    except TypeError:
        return None
    return hashlib.sha256(text.encode()).hexdigest()


def judgement_keys(
    identity: str, questions: dict[Question, int], prompts: list, columns: dict[str, list], symmetric: bool
) -> dict[Question, str | None]:
    """
    Keys of questions, each given with the row that asks it. Of a symmetric judge either order will do, and both have
    one.
    """
    orders = {(context, b, a): row for (context, a, b), row in questions.items()} if symmetric else {}
    return {
        (context, a, b): judgement_key(
            identity, prompts[row], {name: values[row] for name, values in columns.items()}, a, b
        )
        for (context, a, b), row in (questions | orders).items()
    }
