# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How answers are sampled: from a model in memory, one at a time, or from a server."""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from ...generation.dialogue import TURNS
from ...usage import UsageError
from ..rows import Row
from .contestants import Contestant


if TYPE_CHECKING:
    from ...generation.dialogue.users import User

_NO_MATTER = ("batch_size", "trust_remote_code", "user", "max_turns")  # to answers, or told otherwise
Draw = Callable[[str, list[Row]], Iterator[list[dict[str, Any]]]]  # of a name, for the seed, and of prompts


class SamplingError(RuntimeError):
    """A server cannot go on. What it has answered is kept."""


@dataclass(frozen=True)
class Sampling:
    """
    How answers are sampled.

    Args:
        temperature (`float`, *optional*, defaults to `1.0`): 0 takes the likeliest token.
        top_p (`float`, *optional*, defaults to `1.0`): the share of the likeliest tokens that are drawn from.
        max_new_tokens (`int`, *optional*, defaults to `512`): after which an answer is cut.
        seed (`int`, *optional*, defaults to `0`): of the draws.
        batch_size (`int`, *optional*, defaults to `16`): prompts in a call of a model, and requests at a time.
        dtype (`str`, *optional*, defaults to `"auto"`): of the weights of models.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether code that comes with a model is run.
        chat_template_kwargs (`dict`, *optional*): passed to the chat template, of servers too.
        strip_thinking (`bool`, *optional*, defaults to `False`): whether what is judged begins behind `</think>`.
        user (*optional*):
            Who answers the policies, so that an answer is a dialogue: a callable `(messages) -> str | None`,
            `"openai:MODEL@URL"`, `"local:PATH"` or `"package.module:name"`, as in training. It gets the other columns.
        max_turns (`int`, *optional*): of the policy in a dialogue, as in training.

    Raises:
        `UsageError`: If a value is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 512
    seed: int = 0
    batch_size: int = 16
    dtype: str = "auto"
    trust_remote_code: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    strip_thinking: bool = False
    user: Any = None
    max_turns: int | None = None

    def __post_init__(self):
        for name, low, high in (("temperature", 0, 100), ("top_p", 1e-6, 1), ("max_new_tokens", 1, 10**7)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"{name} must be from {low:g} to {high:g}, got {getattr(self, name)!r}.")
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {self.batch_size}.")
        if self.max_turns is not None and self.user is None:
            raise UsageError("max_turns is of dialogues: name a user, or leave it out.")
        if self.max_turns is not None and self.max_turns < 1:
            raise UsageError(f"max_turns must be at least 1, got {self.max_turns}.")
        if self.user == "initial":
            raise UsageError("the user 'initial' is the start of a training run: name it as local:PATH.")

    @property
    def turns(self) -> int:
        """The policy's turns in an answer, at most."""
        return 1 if self.user is None else self.max_turns or TURNS

    @property
    def settings(self) -> dict[str, Any]:
        """What answers depend on."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NO_MATTER}
        return known | ({} if self.user is None else {"user": name_of(self.user), "max_turns": self.turns})


def name_of(user: Any) -> str:
    """What a user is called."""
    if isinstance(user, str):
        return user
    return getattr(user, "__qualname__", None) or getattr(user, "name", None) or type(user).__qualname__


def user_of(sampling: Sampling) -> "User | None":
    """Who answers the policies, if dialogues are to be played."""
    if sampling.user is None:
        return None
    from ...generation.dialogue.users import load_user

    return load_user(sampling.user, sampling)


def sampler(contestant: Contestant, sampling: Sampling, user: "User | None" = None) -> AbstractContextManager[Draw]:
    """
    What samples the answers of a policy, within a context in which a model is in memory.

    Args:
        contestant ([`Contestant`]): a model or a server.
        sampling ([`Sampling`]): how.
        user ([`~generation.dialogue.users.User`], *optional*): who answers it, where answers are dialogues.

    Returns:
        A context of a function of a name, by which the draws are seeded, and of rows, the prompts. It yields lists of
        records as [`Answers`] has them, as they come.
    """
    if contestant.kind == "server":
        from .served import served

        return served(contestant, sampling, user)
    from .loaded import loaded

    return loaded(contestant, sampling, user)


class SaysOnce:
    """Says what goes wrong with the dialogues of a policy, once for each name of it."""

    def __init__(self, policy: str):
        self._policy, self._said = policy, set()

    def __call__(self, message: str, name: str) -> None:
        if name not in self._said:
            self._said.add(name)
            logging.getLogger(__name__).warning("%s: %s", self._policy, message)


def columns_of(row: Row) -> dict[str, Any]:
    """The row as a user gets it."""
    return row.columns | {"prompt": row.prompt}


def seed_of(name: str, row: Row, sampling: Sampling) -> int:
    """Another one for each name: win rates are those of answers that are drawn independently."""
    text = f"{sampling.seed} {name} {row.index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
