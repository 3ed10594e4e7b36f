# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Objects of the user's own, by their dotted paths `package.module:name`."""

import importlib
import importlib.util
import inspect
import os
import symtable
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

from ..usage import did_you_mean


def import_path(path: str, unknown: str) -> Any:
    """
    The object at `package.module:name`, for which the working directory is searched too, as in `python -m`.

    Args:
        path (`str`): the dotted path.
        unknown (`str`): how the sentence begins that says that there is no such module.

    Raises:
        `ValueError`: if the module cannot be imported, or has no such name, or none is given.
    """
    _search_working_directory()
    name_of_module, _, name = path.partition(":")
    try:
        module = importlib.import_module(name_of_module)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{unknown} could not be loaded as `package.module:name` ({error}).") from error
    if not name:
        raise ValueError(f"The judge {path!r} names a module: write {name_of_module}:FUNCTION, with a name in it.")
    if not hasattr(module, name):
        names = [known for known, value in vars(module).items() if _is_own(known, value)]
        hint = did_you_mean(name, names, f"{name_of_module}:") or "."
        raise ValueError(f"The judge {path!r}: {_file_of(module)} has no `{name}`{hint}")
    return getattr(module, name)


def is_bound(path: str) -> bool:
    """
    Whether the source of `package.module` binds `name`, seen without importing either. `False` where that cannot be
    seen: of a module that is no file of Python, or makes its names while it runs.

    Args:
        path (`str`): the dotted path.
    """
    _search_working_directory()
    name_of_module, _, name = path.partition(":")
    try:
        spec = _spec_of(name_of_module)
        table = symtable.symtable(spec.loader.get_source(name_of_module), name_of_module, "exec")
        symbol = table.lookup(name)
    except (AttributeError, ImportError, KeyError, SyntaxError, TypeError, ValueError):
        return False
    return symbol.is_assigned() or symbol.is_imported()


def _spec_of(module: str):
    """As `importlib.util.find_spec`, which imports the packages around a module."""
    first, *parts = module.split(".")
    spec, name = importlib.util.find_spec(first), first
    for part in parts:
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec


def _search_working_directory() -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")


def _is_own(name: str, value: Any) -> bool:
    return not name.startswith("_") and not inspect.ismodule(value)


def _file_of(module: ModuleType) -> str:
    """The file of a module, as one would write it from the working directory."""
    file = getattr(module, "__file__", None)
    if file is None:
        return f"the module {module.__name__}"
    near = os.path.relpath(file)
    return file if near.startswith(os.pardir) else near
