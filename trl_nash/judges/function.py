# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Any callable of the judge contract as a judge."""

import inspect
from collections.abc import Callable

from .base import PairwiseJudge, accepted


class CallableJudge(PairwiseJudge):
    """
    A judge made of a function `(prompts, first, second, **columns) -> list[float]`.

    Args:
        function (`Callable`):
            Returns one probability per row that `first` is better than `second`; `nan` or `None` abstains. Of the
            dataset's columns it gets those that its signature names, or all with `**kwargs`.
        symmetric (`bool`, *optional*):
            Whether `P(a ≻ b) = 1 - P(b ≻ a)` by construction, so that one order is asked instead of both. Defaults to
            the function's own attribute `symmetric`, `False` if it has none.

    Raises:
        `TypeError`: If `function` is not callable, is a class or a coroutine function, or does not take three
        positional arguments.
    """

    def __init__(self, function: Callable, symmetric: bool | None = None):
        if not callable(function):
            raise TypeError(
                f"A judge is a callable `(prompts, first, second) -> list[float]`; got {function!r} "
                f"({type(function).__name__})."
            )
        self.function = function
        self.symmetric = getattr(function, "symmetric", False) if symmetric is None else symmetric
        if inspect.isclass(function):
            raise TypeError(f"The judge {self.name} is a class; pass an instance of it: `{self.name}(...)`.")
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            raise TypeError(f"The judge {self.name} is asynchronous, which is not supported; pass a plain function.")
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

    def __call__(self, prompts, first, second, **columns):
        # Columns that the function does not see must not make two questions different.
        return super().__call__(prompts, first, second, **accepted(self.function, columns, positional=3))

    def judge(self, prompts, first, second, **columns):
        return self.function(prompts, first, second, **columns)
