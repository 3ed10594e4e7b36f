# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Arguments of older scripts."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar


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
