# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tools that the policy calls, and environments whose methods are tools, as TRL's GRPOTrainer takes them."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils import get_json_schema

from ...compat import chat_template_utils
from ...data.messages import Message
from ...judges.function import wait_for
from ..prompts import strip_thinking
from .rollout import Rollout, RolloutFailed


CHOICE = "environment"  # column that names a row's environment, where there are several
_NO_TOOLS = ("reset", "get_reward")  # methods of an environment
_OUTSIDE = (ConnectionError, TimeoutError)  # what is no fault of the call


class Room(NamedTuple):
    """The tools of one rollout, by name."""

    tools: dict[str, Callable]


class Toolbox:
    """
    What rollouts can call.

    A call that fails is answered with `{"error": ...}`, as by TRL, and the policy goes on; a tool that raises
    `ConnectionError` or `TimeoutError`, and an environment that cannot be made or reset, fail the rollout.

    Args:
        tools (`list[Callable]`, *optional*):
            Functions with typed arguments and a docstring of Google's style. They may be asynchronous.
        environment_factory (`Callable` or `dict[str, Callable]`, *optional*):
            Makes environments: their public methods are tools, and `reset(**row)` begins a dialogue and may return a
            text that is put behind the prompt. Each rollout has one of its own, which is used again by later ones.
            With a dictionary the column `environment` says which one a row has.

    Raises:
        `ValueError`: if an environment has no `reset`, or a tool is none.
    """

    def __init__(
        self,
        tools: list[Callable] | None = None,
        environment_factory: Callable | dict[str, Callable] | None = None,
        say_once: Callable[[str, str], None] = lambda message, name: None,
    ):
        if not isinstance(tools, list | tuple | None):
            raise TypeError(f"`tools` is a list of functions, got {tools!r:.80}.")
        self._tools = list(tools or [])
        for tool in self._tools:
            if not callable(tool):
                raise ValueError(f"`tools` are functions with typed arguments and a docstring, got {tool!r:.80}.")
        several = isinstance(environment_factory, Mapping)
        self._several = several
        self._factories = dict(environment_factory) if several else {None: environment_factory}
        if environment_factory is None:
            self._factories = {}
        self._spare: dict[Any, list] = {}
        self._methods: dict[Any, list[Callable]] = {}
        for name, factory in self._factories.items():
            if not callable(factory):
                raise TypeError(
                    f"`environment_factory` makes environments: it is a class, or a dictionary of classes, got "
                    f"{factory!r:.80}."
                )
            environment = factory()
            if not callable(getattr(environment, "reset", None)):
                raise ValueError(
                    f"The environment {type(environment).__name__} has no method `reset`, which begins a dialogue."
                )
            if hasattr(environment, "get_reward"):
                say_once(
                    f"`get_reward` of {type(environment).__name__} is not asked: dialogues are compared by the judge.",
                    f"get_reward {name}",
                )
            self._methods[name] = _tools_of(environment)
            self._spare[name] = [environment]
        self.tools = [*self._tools, *(tool for methods in self._methods.values() for tool in methods)]
        if not self.tools:
            raise ValueError("`tools` and `environment_factory` together name no tool.")
        for tool in self.tools:
            try:
                get_json_schema(tool)
            except Exception as error:  # of transformers, which has kinds of its own
                name = getattr(tool, "__name__", tool)
                raise ValueError(f"The tool {name} cannot be shown to a model: {error}") from error
        # Those that wait for something are called side by side.
        self.waits = any(inspect.iscoroutinefunction(tool) or getattr(tool, "waits", False) for tool in self.tools)
        self._tokenizer: PreTrainedTokenizerBase | None = None
        self._taken: list[tuple[Any, Any]] = []

    def leave_all(self) -> None:
        """All rollouts are over: their environments are there for the next ones."""
        for name, environment in self._taken:
            self._spare[name].append(environment)
        self._taken.clear()

    @property
    def names(self) -> list[str]:
        """Of all tools."""
        return [tool.__name__ for tool in self.tools]

    def read_with(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """
        Has calls read as TRL reads them.

        Raises:
            `ValueError`: if nobody says how the model writes its calls.
        """
        known = [getattr(tokenizer, name, None) for name in ("response_template", "response_schema")]
        if known == [None, None]:
            try:
                chat_template_utils().add_response_schema(tokenizer)
            except ValueError as error:
                raise ValueError(
                    "Nobody knows how this model writes calls of tools: TRL has no pattern for its chat template, so "
                    f"set `response_template` of the tokenizer ({error})"
                ) from error
        self._tokenizer = tokenizer

    def check_names(self, names: Iterable) -> None:
        """
        Refuses what rows call an environment, and is none.

        Raises:
            `ValueError`: names it.
        """
        for name in set(names):
            self._name({CHOICE: name})

    def tools_of(self, columns: dict[str, Any]) -> list[Callable]:
        """What the policy is shown in a row's prompt."""
        name = self._name(columns)
        return [*self._tools, *self._methods.get(name, [])]

    def enter(self, columns: dict[str, Any]) -> tuple[Room, str | None]:
        """
        A row's tools for one rollout, and what its environment says at the beginning.

        Raises:
            `RolloutFailed`: if the environment cannot be reset.
        """
        if not self._factories:
            return Room({tool.__name__: tool for tool in self._tools}), None
        name = self._name(columns)
        row = {key: value for key, value in columns.items() if not (self._several and key == CHOICE)}
        spare = self._spare[name]
        try:
            environment = spare.pop() if spare else self._factories[name]()
            seen = environment.reset(**row)
        except Exception as error:
            raise RolloutFailed("reset", f"an environment raised {type(error).__name__}: {error}") from error
        if not isinstance(seen, str | None):
            raise RolloutFailed("reset", f"`reset` returns a text or None, got {seen!r:.80}")
        room = Room({tool.__name__: tool for tool in [*self._tools, *_tools_of(environment)]})
        self._taken.append((name, environment))
        return room, seen

    def parse(self, ids: list[int], rollout: Rollout, read: Callable) -> Message:
        """A turn of the policy as a message, with its calls."""
        assert self._tokenizer is not None
        tools = self.tools_of(rollout.columns)
        message = chat_template_utils().parse_response(self._tokenizer, ids, prefix=rollout.context, tools=tools)
        if not message.get("tool_calls"):
            return {"role": "assistant", "content": read(ids, rollout.context)}
        content = message.get("content") or ""
        return {"role": "assistant", "content": strip_thinking(content), "tool_calls": message["tool_calls"]}

    def answers(self, rollouts: list[Rollout]) -> list[list[Message] | RolloutFailed]:
        """What the tools answer that the last turn of each rollout calls."""
        return [self._answer(rollout) for rollout in rollouts]

    def _answer(self, rollout: Rollout) -> list[Message] | RolloutFailed:
        found: list[Message] = []
        for call in rollout.turns[-1]["tool_calls"]:
            function = call.get("function") or {}
            name = function.get("name", "unknown")
            try:
                result = self._call(rollout.room, name, function.get("arguments"))
            except _OUTSIDE as error:
                return RolloutFailed("tool", f"the tool {name} raised {type(error).__name__}: {error}")
            except Exception as error:
                result = {"error": str(error)}
            found.append({"role": "tool", "name": name, "content": str(result)})
        return found

    def _call(self, room: Room, name: str, arguments: dict[str, Any] | None) -> Any:
        if name not in room.tools:
            raise ValueError(f"Tool {name} not found.")
        result = room.tools[name](**(arguments or {}))
        return wait_for(result) if inspect.isawaitable(result) else result

    def _name(self, columns: dict[str, Any]) -> Any:
        if not self._several:
            return None
        name = columns.get(CHOICE)
        if name not in self._factories:
            raise ValueError(
                f"A row's `{CHOICE}` is {name!r}, and `environment_factory` has {list(self._factories)}: the column "
                "names one of them."
            )
        return name


def _tools_of(environment: Any) -> list[Callable]:
    """The public methods of an environment, which its class defines."""
    members = inspect.getmembers(type(environment), predicate=inspect.isfunction)
    names = [name for name, _ in members if not name.startswith("_") and name not in _NO_TOOLS]
    return [getattr(environment, name) for name in names]
