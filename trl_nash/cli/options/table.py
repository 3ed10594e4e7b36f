# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The options of the training commands as data.

They are the fields of dataclasses, whose import takes seconds and brings torch. So they are read off once for the
installed versions and kept in the user's cache. A file there that cannot be read or written costs these seconds and
nothing else.
"""

import argparse
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import sys
from collections.abc import Callable
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

from .typed import ALGORITHMS, Algorithm


LAUNCHER = "accelerate launch"  # a key of the table, beside those of `ALGORITHMS`
_PACKAGES = ("trl-nash", "trl", "transformers", "accelerate", "torch")
_KEPT = 4  # environments; the cache is never larger
_HERE = Path(__file__).resolve().parent


class Option(NamedTuple):
    """What `argparse.ArgumentParser.add_argument` is told, in values that JSON has."""

    names: list[str]
    dest: str
    kind: str | None  # how a value is read: a key of `_READERS`
    nargs: str | int | None
    const: Any
    default: Any
    choices: list[str] | None
    help: str
    owner: str  # the dataclass that it is a field of
    is_own: bool  # whether the algorithm itself defines it
    takes_none: bool

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Adds it to `parser`."""
        same = {"dest": self.dest, "default": self.default, "help": self.help}
        if self.nargs == 0:
            parser.add_argument(*self.names, action="store_const", const=self.const, **same)
            return
        reader = _READERS.get(self.kind, str)
        parser.add_argument(*self.names, nargs=self.nargs, const=self.const, type=reader, choices=self.choices, **same)


def options_of(command: str) -> list[Option]:
    """
    The options of a training command, or of `accelerate launch`.

    Args:
        command (`str`): a key of `ALGORITHMS`, or `LAUNCHER`.

    Returns:
        `list[Option]`
    """
    return _table()[command]


@functools.cache
def _table() -> dict[str, list[Option]]:
    file = _cache_file()
    if (found := _read(file)) is not None:
        return found
    if sys.stderr.isatty():
        print("Reading the options of the installed versions: some seconds, once ...", file=sys.stderr, flush=True)
    table, sources = _build()
    _write(file, table, sources)
    return table


# ---- The cache ----


def _cache_file() -> Path:
    """The file of this environment, written anew when what is installed there changes."""
    key = _digest(f"{sys.prefix}\n{_HERE}")[:16]
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(folder) / "trl-nash" / f"options-{key}.json"


def _installed() -> list[list[str | None]]:
    """The packages' versions, and where they are: an editable install may move and keep its version."""
    specs = {name: importlib.util.find_spec(name.replace("-", "_")) for name in _PACKAGES}
    places = [[name, _version(name), spec and spec.origin] for name, spec in specs.items()]
    return [["python", sys.version, sys.executable], *places]


def _read(file: Path) -> dict[str, list[Option]] | None:
    """What is kept, unless other packages are installed, or the sources have changed (as in a clone)."""
    try:
        digest, _, text = file.read_text(encoding="utf-8").partition("\n")
        if digest != _digest(text):
            return None
        kept = json.loads(text)
        if kept["installed"] != _installed() or kept["sources"] != _stamps(kept["sources"]):
            return None
    except (OSError, ValueError, KeyError):
        return None
    return {command: [Option(*row) for row in rows] for command, rows in kept["options"].items()}


def _write(file: Path, table: dict[str, list[Option]], sources: list[str]) -> None:
    text = json.dumps({"installed": _installed(), "sources": _stamps(sources), "options": table})
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(f"{_digest(text)}\n{text}", encoding="utf-8")
        os.replace(unfinished, file)  # as a whole, or not at all
        for old in sorted(file.parent.glob("options-*"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            old.unlink()


def _stamps(sources) -> dict[str, list[int]]:
    stats = {source: os.stat(source) for source in sources}
    return {source: [stat.st_mtime_ns, stat.st_size] for source, stat in stats.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# ---- What they are read off ----


def _build() -> tuple[dict[str, list[Option]], list[str]]:
    """All options, and the files that define them."""
    from accelerate.commands import launch

    from ... import compat
    from .arguments import dataclasses_of

    table, files = {}, {__file__, *map(inspect.getsourcefile, (launch, Algorithm, compat, compat.TrlParser))}
    for algorithm in ALGORITHMS:
        classes = dataclasses_of(algorithm)
        owners = {name: cls for cls in reversed(classes) for name in cls.__dataclass_fields__}
        types = {name: kind for cls in classes for name, kind in get_type_hints(cls).items()}
        own = vars(classes[2]).get("__annotations__", {})
        table[algorithm] = [
            _option(
                action,
                _owner(owners[action.dest], action.dest),
                action.dest in own,
                type(None) in get_args(types[action.dest]),
            )
            for action in compat.TrlParser(classes, add_help=False)._actions
        ]
        files |= {inspect.getsourcefile(base) for cls in classes for base in cls.__mro__ if base is not object}
    table[LAUNCHER] = [
        _option(action, LAUNCHER, False, True)
        for action in launch.launch_command_parser()._actions
        if action.option_strings and action.dest != "help"
    ]
    return table, sorted(map(str, files))


def _owner(cls: type, name: str) -> str:
    """The class of ours that defines a field last, else the one that defines it first."""
    from ...trainers.config import NashConfig

    defining = [base for base in cls.__mro__ if name in vars(base).get("__annotations__", {})]
    return defining[0 if issubclass(defining[0], NashConfig) else -1].__name__


def _option(action: argparse.Action, owner: str, is_own: bool, takes_none: bool) -> Option:
    kind = getattr(action.type, "__name__", None)
    if kind == "string_to_bool" and action.nargs is None:  # `--bf16` alone, as other switches
        action.nargs, action.const = "?", True
    choices = None if action.choices is None else list(map(_plain, action.choices))
    return Option(
        action.option_strings,
        action.dest,
        kind,
        action.nargs,
        action.const,
        _plain(action.default),
        choices,
        action.help or "",
        owner,
        is_own,
        takes_none,
    )


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Enum) else value


# ---- How values are read ----


def _boolean(text: str) -> bool:
    if text.lower() not in ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"):
        raise ValueError(text)
    return text.lower() in ("yes", "true", "t", "y", "1")


def _json(text: str) -> Any:
    return json.loads(text)


def _dataset(text: str) -> dict[str, str]:
    return {"path": text}


# As argparse calls them in errors.
_boolean.__name__, _json.__name__, _dataset.__name__ = "bool", "JSON", "dataset"
_READERS: dict[str | None, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "string_to_bool": _boolean,
    "dict": _json,
    "DatasetConfig": _dataset,
}
