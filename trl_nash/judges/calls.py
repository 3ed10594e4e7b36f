# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Calling functions that others wrote: what they take, what they read, and what they return."""

import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from numbers import Real
from typing import Any

import numpy as np

from .tally import Abstained


def accepted(function: Callable, keywords: dict[str, Any], positional: int) -> dict[str, Any]:
    """
    Those of `keywords` that `function` takes beside its first `positional` arguments: by name, or all with `**kwargs`.
    """
    signature = inspect.signature(function)
    taken = signature.bind_partial(*[None] * positional).arguments
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items() if name not in taken}
    if inspect.Parameter.VAR_KEYWORD in kinds.values():
        return {name: value for name, value in keywords.items() if name not in taken}
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: value for name, value in keywords.items() if kinds.get(name) in named}


def required(function: Callable, positional: int) -> frozenset[str]:
    """The arguments without a default that `function` takes beside its first `positional` ones."""
    signature = inspect.signature(function)
    taken = signature.bind_partial(*[None] * positional).arguments
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return frozenset(
        name
        for name, parameter in signature.parameters.items()
        if name not in taken and parameter.kind not in variable and parameter.default is parameter.empty
    )


def joined(prompt: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """
    A prompt in which contents that come in parts are one text each.

    Raises `ValueError` if a part is no text.
    """
    if not isinstance(prompt, list):
        return prompt
    return [
        {**message, "content": "".join(map(_text_of_part, message["content"]))}
        if isinstance(message, dict) and isinstance(message.get("content"), list)
        else message
        for message in prompt
    ]


def _text_of_part(part: Any) -> str:
    if isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    kind = part.get("type") if isinstance(part, dict) else None
    raise ValueError(f"a message has a part {f'of type {kind!r}' if kind else repr(part)[:80]} that is no text")


def pairs_of_each(pairs: list[tuple[int, int]] | np.ndarray, num_prompts: int) -> np.ndarray:
    """The pairs that are compared, of shape (B, M, 2), where they may be given once for all prompts."""
    pairs = np.asarray(pairs, dtype=np.int64)
    pairs = pairs if pairs.ndim == 3 else pairs.reshape(-1, 2)
    return np.broadcast_to(pairs, (num_prompts, *pairs.shape[-2:]))


def as_floats(values: Any, count: int, source: str) -> list[float]:
    """
    What a judge or reward function returned (a list, array or tensor) as `count` floats, `nan` for `None`. The reasons
    of [`Abstained`] are kept.

    Raises `ValueError` naming `source` if it is anything else.
    """
    # Bytes, tables and sets can be iterated over, but not for an answer to each row in its place.
    unordered = isinstance(values, bytes | Mapping | Set)
    if not isinstance(values, Iterable) or unordered or getattr(values, "ndim", 1) == 0:
        raise ValueError(f"{source} returned {values!r:.200}; expected a list of {count} numbers.")
    values = [_as_number(value) for value in values]
    if len(values) != count:
        raise ValueError(f"{source} returned {len(values)} values; expected {count}, one for each row it was given.")
    for value in values:
        if not isinstance(value, Real | None):
            raise ValueError(
                f"{source} returned {value!r:.200} ({type(value).__name__}); expected numbers, or nan for no opinion."
            )
        if isinstance(value, int) and abs(value) > sys.float_info.max:
            raise ValueError(f"{source} returned a number that is too large to compute with.")
    return [value if isinstance(value, Abstained) else math.nan if value is None else float(value) for value in values]


def _as_number(value: Any) -> Any:
    """The Python number of an array or tensor that holds one; anything else as it is."""
    try:
        return value.item() if hasattr(value, "item") else value
    except (ValueError, RuntimeError):  # of NumPy and torch, where there are several
        return value
