# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What other code calls: the signatures of every public name, as `signatures.txt` has them.

A change of the interface is a change of that file, which a reviewer sees. To make it:

    python tests/downstream/test_signatures.py

Types and defaults are as the source writes them, so that they do not depend on versions of other packages. What TRL
and transformers define is left out.
"""

import ast
import dataclasses
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any


FILE = Path(__file__).parent / "signatures.txt"
MODULES = (
    "trl_nash",
    "trl_nash.objectives",
    "trl_nash.algorithms",
    "trl_nash.judges",
    "trl_nash.games",
    "trl_nash.games.solvers",
    "trl_nash.kernels",
)


def public_names(module: Any) -> list[str]:
    """Those of `__all__`, or the functions that a module without one defines."""
    if hasattr(module, "__all__"):
        return sorted(set(module.__all__) - {"__version__"})
    own = {name: thing for name, thing in vars(module).items() if inspect.isfunction(thing) and name[0] != "_"}
    return sorted(name for name, thing in own.items() if thing.__module__ == module.__name__)


def is_ours(thing: Any) -> bool:
    return getattr(thing, "__module__", "").partition(".")[0] == "trl_nash"


def signature(function: Any) -> str:
    """Arguments and result of a function, as they are written, without `self`."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    arguments = ast.unparse(node.args).removeprefix("self").removeprefix("cls").removeprefix(", ")
    return f"({arguments})" + (f" -> {ast.unparse(node.returns)}" if node.returns else "")


def bodies(owner: type, public: set[type]) -> list[type]:
    """A class, and its bases up to those that are public themselves: what it has that is described nowhere else."""
    own = [base for base in owner.__mro__ if is_ours(base)]
    described = {base for other in public - {owner} if issubclass(owner, other) for base in other.__mro__}
    return [base for base in own if base not in described]


def constructor(owner: type, public: set[type]) -> str:
    for base in bodies(owner, public):
        for name in ("__init__", "__new__"):
            if name in vars(base) and not dataclasses.is_dataclass(base) and inspect.isfunction(vars(base)[name]):
                return signature(vars(base)[name])
    return ""


def members(owner: type, public: set[type]) -> Iterator[str]:
    found: dict[str, Any] = {}
    for base in reversed(bodies(owner, public)):
        found |= {name: thing for name, thing in vars(base).items() if name[0] != "_" or name == "__call__"}
    for name, thing in sorted(found.items()):
        function = getattr(thing, "__func__", thing)  # of class methods and static methods
        if isinstance(thing, property):
            yield f"    {name}: property"
        elif inspect.isfunction(function):
            yield f"    {name}{signature(function)}"


def fields(owner: type) -> Iterator[str]:
    """The fields that a dataclass or a named tuple defines itself, with their defaults."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and "ClassVar" not in (kind := ast.unparse(line.annotation)):
            yield f"    {line.target.id}: {kind}{default(line.value)}"


def default(value: ast.expr | None) -> str:
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        value = given.get("default", given.get("default_factory"))
        value = value.body if isinstance(value, ast.Lambda) else value
    return "" if value is None else f" = {ast.unparse(value)}"


def described(name: str, thing: Any, public: set[type]) -> str:
    if inspect.isclass(thing):
        bases = ", ".join(base.__name__ for base in thing.__mro__[1:] if base in public)
        lines = [f"class {name}{f' of {bases}' if bases else ''}: {constructor(thing, public)}".removesuffix(": ")]
        if dataclasses.is_dataclass(thing) or hasattr(thing, "_fields"):
            lines += fields(thing)
        return "\n".join([*lines, *members(thing, public)])
    if inspect.isfunction(thing):
        return f"{name}{signature(thing)}"
    return f"{name}: {sorted(thing)}" if isinstance(thing, dict) else name


def signatures() -> str:
    modules = {path: importlib.import_module(path) for path in MODULES}
    named = {path: {name: getattr(module, name) for name in public_names(module)} for path, module in modules.items()}
    public = {thing for things in named.values() for thing in things.values() if inspect.isclass(thing)}
    parts = []
    for path, things in named.items():
        parts += [f"# {path}", *(described(name, thing, public) for name, thing in things.items())]
    return "\n\n".join(parts) + "\n"


def test_the_public_interface_is_what_the_file_says():
    said, found = FILE.read_text(encoding="utf-8").splitlines(), signatures().splitlines()
    gone, new = [line for line in said if line not in found], [line for line in found if line not in said]
    assert said == found, (
        f"gone: {gone}\nnew: {new}\n`python tests/downstream/test_signatures.py` writes the file anew."
    )


if __name__ == "__main__":
    FILE.write_text(signatures(), encoding="utf-8")
