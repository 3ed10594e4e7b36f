# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Arguments as older scripts, and other tools, call them."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ...usage import did_you_mean


P, R = ParamSpec("P"), TypeVar("R")


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """
    A function that says what an argument is called now.

    Args:
        names (`str`): the present name of each old one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                raise TypeError(f"`{old}=` is called `{names[old]}=` now: rename it.")
            return function(*args, **kwargs)

        return checked

    return decorate


class NamedOptions:
    """A base of dataclasses that answers an option that they lack with the nearest one that they have."""

    def __new__(cls, *args, **kwargs):
        known = inspect.signature(cls.__init__).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
        for name in kwargs.keys() - known.keys() if not takes_any else ():
            raise TypeError(f"{cls.__name__} has no option `{name}`{did_you_mean(name, known) or '.'}")
        return super().__new__(cls)
