# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Messages in the forms in which they are published, as a list of `{"role": ..., "content": ...}`."""

import json
import re
from typing import Any


Message = dict[str, Any]

# Under which names a message's role and text are kept, and what its roles are called.
_ROLE_KEYS, _TEXT_KEYS = ("role", "from"), ("content", "value", "text")
_ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
ANSWER = "\n\nAssistant:"  # opens an answer in dialogue text: Anthropic's HH, Nectar, and the sets that follow them


class Dialogue(list):
    """Messages, with the tools that may be called in them, and the row that they are from."""

    def __init__(self, messages: list[Message], tools: list | None, columns: dict[str, Any] | None = None):
        super().__init__(messages)
        self.tools = tools
        self.columns = columns


def prompt_of(row: dict[str, Any]) -> str | list[Message]:
    """
    What the policy is asked of a row with a `prompt`: this, and its `tools` where there are any.

    Raises `ValueError` if `tools` are no descriptions of tools.
    """
    prompt, tools = row["prompt"], tools_of(row)
    if tools is None:
        return prompt
    return Dialogue([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, tools)


def tools_of(row: dict[str, Any]) -> list[dict] | None:
    """The JSON schemas in a row's `tools`, which many data sets keep as JSON; `None` if there are none."""
    tools = row.get("tools")
    if tools in (None, "", []):
        return None
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools
        tools = [json.loads(tool) if isinstance(tool, str) else tool for tool in tools]
    except (ValueError, TypeError):
        tools = [None]
    if not all(isinstance(tool, dict) for tool in tools):
        raise ValueError(
            f"`tools` are a list of JSON schemas, as objects or as JSON, got {row['tools']!r:.80} (rename a column "
            "that means something else)"
        )
    return without_nulls(tools) or None


def without_nulls(value: Any) -> Any:
    """A value without the empty entries that tables add where some rows have a key and others do not."""
    if isinstance(value, dict):
        return {key: without_nulls(entry) for key, entry in value.items() if entry is not None}
    return [without_nulls(entry) for entry in value] if isinstance(value, list) else value


def without_empty_keys(message: Message) -> Message:
    """A message without the keys that a table gave it; its content may be empty."""
    return without_nulls(message) | ({"content": message["content"]} if "content" in message else {})


def is_messages(value: Any) -> bool:
    """Whether a value is a list of messages, under whichever names."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, dict) and _key(m, _ROLE_KEYS) for m in value)


def as_message(value: Message) -> Message:
    """A message under the usual names. Raises `ValueError` if it has no role or no place for a text."""
    role, text = _key(value, _ROLE_KEYS), _key(value, _TEXT_KEYS)
    if role is None or text is None:
        raise ValueError('its messages need a "role" and a "content" each')
    message = {"role": value[role], "content": value[text]}
    if isinstance(message["role"], str):
        message["role"] = _ROLES.get(message["role"], message["role"])
    return message | without_nulls({key: entry for key, entry in value.items() if key not in _ROLE_KEYS + _TEXT_KEYS})


def dialogue(text: str) -> list[Message] | None:
    """
    The turns of a text that is a dialogue: `"\\n\\nHuman: ... \\n\\nAssistant: ... \\n\\nHuman: ..."`, and so on.
    An answer that is opened and empty is left out.

    Returns:
        `list[dict]`, or `None` if the text is none.
    """
    _, *parts = _TURN.split(text.lstrip("\n"))
    speakers, contents = parts[::2], parts[1::2]
    if speakers[:2] != ["Human", "Assistant"] or not _TURN.match(text.lstrip("\n")):
        return None
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [{"role": roles[who], "content": said.strip()} for who, said in zip(speakers, contents, strict=True)]
    return turns[:-1] if turns[-1] == {"role": "assistant", "content": ""} else turns


def _key(message: Message, names: tuple[str, ...]) -> str | None:
    """The first of some keys that holds something, or that is there."""
    found = [name for name in names if name in message]
    return next((name for name in found if message[name] is not None), found[0] if found else None)
