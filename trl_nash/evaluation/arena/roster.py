# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Who has played in a directory."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...usage import UsageError


class Roster:
    """
    Every policy that has played in a directory, in the order in which it came: its place in the judgements.

    Args:
        directory (`Path`): in which `policies.json` says what a name stands for.

    Raises:
        UsageError: If that file is damaged.
    """

    def __init__(self, directory: Path):
        self._file = directory / "policies.json"
        self._known = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        except ValueError:
            raise UsageError(f"{self._file} is damaged: name another output_dir.") from None

    @property
    def names(self) -> list[str]:
        return list(self._known)

    def enrol(self, name: str, description: dict[str, Any]) -> None:
        """
        Gives a name a place, if it has none yet.

        Args:
            name (`str`): of a policy.
            description (`dict`): its `kind`, its `spec`, and for one that is sampled all settings of the `sampling`.

        Raises:
            UsageError: If it has stood for something else in this directory.
        """
        then = self._known.setdefault(name, description)
        if then == description:
            return
        before, now = then.get("sampling", {}), description.get("sampling", {})
        other = [f"{key}={before.get(key)}" for key in before | now if before.get(key) != now.get(key)]
        same = (then["kind"], then["spec"]) == (description["kind"], description["spec"])
        raise UsageError(
            f"{name} is in {self._file.parent} already, with {', '.join(other) if same else then['spec']}: name it "
            f"otherwise, as in again={description['spec']}, or name another output_dir."
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """
        Nobody else writes to the directory within the context, before which the policies are written down.

        Raises:
            UsageError: If another process does, or has given places to other policies.
        """
        from filelock import FileLock, Timeout

        folder = self._file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / ".lock", timeout=0)  # which a kill releases
            lock.acquire()
        except Timeout:
            raise UsageError(
                f"another arena is at work in {folder}: wait for it, or name another output_dir."
            ) from None
        except OSError as error:
            raise UsageError(f"{folder}: {error.strerror}. Name another output_dir.") from None
        try:
            stored = list(self._read().items())
            if any(one != other for one, other in zip(stored, self._known.items(), strict=False)):
                raise UsageError(f"another arena has begun in {folder}: start this one again.")
            if len(stored) < len(self._known):
                self._save()
            yield
        finally:
            lock.release()

    def _save(self) -> None:
        temporary = self._file.with_name(f"{self._file.name}.tmp")
        try:
            temporary.write_text(json.dumps(self._known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            temporary.replace(self._file)
        except OSError as error:
            raise UsageError(f"{self._file.parent}: {error.strerror}. Name another output_dir.") from None
