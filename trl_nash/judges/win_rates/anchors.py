# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Whom completions are compared with, if not with one another: a column, a function, or a policy that is sampled."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from ...data.messages import is_messages
from ...usage import UsageError
from ..calls import accepted, required
from ..transcript import Transcript
from .processes import Exchange


MODEL, SERVER = "model:", "openai:"
_KEPT = ("prompt", "prompts", "completion", "completions", "completion_ids")  # by trainers, whatever is in the dataset


class Anchor(ABC):
    """
    Somebody whose answers to prompts there are.

    Attributes:
        name (`str`): what metrics call it.
        needs (`frozenset[str]`): the dataset's columns that it cannot answer without.
    """

    name: str
    needs: frozenset[str] = frozenset()

    @abstractmethod
    def answers(self, exchange: Exchange, prompts: list, columns: dict[str, list], step: int) -> list[list[str]]:
        """
        The answers to the prompts of all processes, none or several to each, the same on all of them.

        Args:
            exchange ([`Exchange`]): of the processes, which call this together.
            prompts (`list`): one of each group.
            columns (`dict[str, list]`): the groups' values.
            step (`int`): optimizer steps so far.
        """


class ColumnAnchor(Anchor):
    """
    What is in a column of the dataset.

    Raises:
        `ValueError`: If it cannot be one. Whether the dataset has it is seen when the columns come.
    """

    def __init__(self, name: str):
        if name in _KEPT:
            raise ValueError(
                f"`anchor={name!r}`: no trainer passes the column {name!r} on to a reward function: rename it in the "
                "dataset, and name that."
            )
        policy = SERVER if "@http" in name else MODEL if os.sep in name and os.path.isdir(name) else None
        if policy is not None:
            raise ValueError(f"`anchor={name!r}` is no column: write '{policy}{name}' for that policy.")
        self.name, self.needs = name, frozenset({name})

    def answers(self, exchange, prompts, columns, step):
        if self.name not in columns:
            raise ValueError(
                f"`anchor={self.name!r}` is no column of the dataset, which has "
                f"{', '.join(columns) or 'none beside the prompt'}: name one, or pass a function, '{MODEL}PATH' or "
                f"'{SERVER}MODEL@URL'."
            )
        return [_answers(value, prompt) for value, prompt in zip(columns[self.name], prompts, strict=True)]


class FunctionAnchor(Anchor):
    """A function `(prompts, **columns) -> list`, each group asked about by one process."""

    def __init__(self, function: Callable[..., list]):
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        self.needs = required(function, positional=1)

    def answers(self, exchange, prompts, columns, step):
        def ask(places: list[int]) -> list[list[str]]:
            taken = {name: [values[place] for place in places] for name, values in columns.items()}
            taken = accepted(self.function, taken, positional=1)
            asked = [prompts[place] for place in places]
            found = self.function(asked, **taken)
            if not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping):
                raise ValueError(
                    f"`anchor` returned {found!r:.200} for {len(asked)} prompts: return a list with a completion, or "
                    "a list of them, for each."
                )
            found = list(found)
            if len(found) != len(asked):
                raise ValueError(
                    f"`anchor` returned {len(found)} values for {len(asked)} prompts: return one for each, a "
                    "completion or a list of them."
                )
            return list(map(_answers, found, asked))

        return exchange.shared_out(ask, len(prompts))


class PolicyAnchor(Anchor):
    """
    A policy that does not change: a model here, or one behind a server. Each prompt of a call is answered once, by one
    process, and anew whenever it comes again: an answer that was kept would be an opponent that always says the same.

    Args:
        policy (`str` or [`~transformers.PreTrainedModel`]): `model:PATH`, `openai:MODEL@URL`, or a model.
        sampling (`dict[str, Any]`): arguments of [`~evaluation.arena.Sampling`].
    """

    def __init__(self, policy: Any, sampling: dict[str, Any]):
        from ...evaluation.arena.contestants import Contestant, contestants_of
        from ...evaluation.arena.sampling import Sampling, name_of

        try:
            self._sampling = Sampling(**sampling)
        except (TypeError, UsageError) as error:
            raise ValueError(f"`anchor_kwargs` say how a policy is sampled: {error}") from None
        if self._sampling.user is not None:
            raise ValueError(
                f"`anchor_kwargs` have the user {name_of(self._sampling.user)!r}, and an anchor answers once: leave "
                "`user` and `max_turns` out."
            )
        self._model = None if isinstance(policy, str) else policy.eval()
        if isinstance(policy, str):
            found = contestants_of(policy.removeprefix(MODEL))
            if len(found) > 1:
                names = ", ".join(one.name for one in found)
                raise ValueError(f"`anchor={policy!r}` is {len(found)} policies, {names}: name the file of one.")
            if found[0].kind == "file":
                raise ValueError(f"`anchor={policy!r}` is a file and no policy: have its answers in a column.")
            self._contestant = found[0]
            if found[0].kind == "model":
                from ...evaluation.arena.loaded import check_there

                check_there(found[0], self._sampling)
        elif policy.name_or_path:
            self._contestant = Contestant(policy.name_or_path.rpartition("/")[2], "model", "")
        else:
            raise ValueError(
                f"`anchor` is a {type(policy).__name__} that knows no tokenizer: load it with `from_pretrained`, from "
                "a path or hub id that has one."
            )
        self.name = self._contestant.name
        self._draw: Callable | None = None
        self._loaded = ExitStack()  # it stays in memory
        if self._contestant.kind == "server":
            self._open()  # which says what is missing

    def _open(self) -> None:
        from ...evaluation.arena.loaded import drawing
        from ...evaluation.arena.sampling import sampler

        if self._model is not None:
            self._draw = drawing(self._model, self._contestant.name, self._sampling)
        else:
            self._draw = self._loaded.enter_context(sampler(self._contestant, self._sampling))

    def answers(self, exchange, prompts, columns, step):
        from ...evaluation.rows import Row

        keys = [json.dumps(prompt, default=repr) for prompt in prompts]
        rows = {key: Row(place, prompt, [], {}) for place, (key, prompt) in enumerate(zip(keys, prompts, strict=True))}
        seed = hashlib.sha256(json.dumps([step, *rows]).encode()).hexdigest()  # another one at every step

        def ask(places: list[int]) -> list[str | None]:
            if self._draw is None:
                self._open()
            some = [list(rows.values())[place] for place in places]
            found = {record["row"]: record["completion"] for part in self._draw(seed, some) for record in part}
            return [found[row.index] for row in some]

        said = dict(zip(rows, exchange.shared_out(ask, len(rows)), strict=True))
        return [[] if said[key] is None else [said[key]] for key in keys]


def load_anchor(anchor: Any, kwargs: dict[str, Any] | None = None) -> Anchor | None:
    """
    The `anchor` of [`as_reward_func`].

    Args:
        anchor (`str`, `Callable` or [`~transformers.PreTrainedModel`], *optional*): who it is.
        kwargs (`dict[str, Any]`, *optional*): how a policy is sampled.

    Raises:
        `ValueError`: If `kwargs` belong to no policy, or are none of its sampling.
        `TypeError`: If it is something else.
    """
    if hasattr(anchor, "generate") or isinstance(anchor, str) and anchor.startswith((MODEL, SERVER)):
        return PolicyAnchor(anchor, kwargs or {})
    if kwargs:
        raise ValueError(
            f"`anchor_kwargs={kwargs}` say how a policy is sampled, and `anchor={anchor!r}` is none: leave them out, "
            f"or name '{MODEL}PATH' or '{SERVER}MODEL@URL'."
        )
    if anchor is None:
        return None
    if isinstance(anchor, str):
        return ColumnAnchor(anchor)
    if callable(anchor):
        return FunctionAnchor(anchor)
    raise TypeError(
        f"`anchor` is a column, a function, a model, '{MODEL}PATH' or '{SERVER}MODEL@URL'; got {anchor!r:.80}."
    )


def text_of(completion: str | list[dict[str, Any]]) -> str:
    """What a judge sees of a completion: a text, or messages."""
    if isinstance(completion, str):
        return completion
    first, *others = completion
    return Transcript(completion) if others or first.get("tool_calls") else first.get("content") or ""


def _answers(value: Any, prompt: Any) -> list[str]:
    """An anchor's answers to a prompt: one or a list of them, as text or messages; none for `None`."""
    from ...evaluation.rows import read_text

    one = isinstance(value, str | dict) or is_messages(value)
    try:
        return [] if value is None else [read_text(answer, prompt, "it") for answer in ([value] if one else value)]
    except (TypeError, ValueError):
        raise ValueError(
            f"`anchor` has {value!r:.200} for a prompt: it takes a completion, as text or messages, or a list of them."
        ) from None
