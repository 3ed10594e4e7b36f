# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A dialogue as a judge gets it: messages, and for a judge of texts a transcript in which nobody can speak as another.
"""

import json
import re
from typing import Any


# What a reader would take for the beginning of a turn; a tool has its name behind it.
_LABEL = re.compile(
    r'\W*(?:system|user|human|assistant|tool|call)\b(?:[^\w\n"]*"(?:[^"\\\n]|\\.)*")?[^\w\n]*[:\uff1a]', re.IGNORECASE
)


class Transcript(str):
    """
    The messages behind a prompt as one text: `User: ...`, `Assistant: ...`, one turn below the other. A line that
    reads like the beginning of a turn and is none has `> ` in front, as in a mail. So every judge of texts can judge
    dialogues, and two dialogues that differ are two texts that differ.

    Args:
        messages (`list[dict]`): with a `role` and a `content`; calls of tools are lines of their own.

    Attributes:
        messages (`list[dict]`): the same, for judges that read messages.
    """

    messages: list[dict[str, Any]]

    def __new__(cls, messages: list[dict[str, Any]]):
        transcript = super().__new__(cls, "\n\n".join(map(_turn, messages)))
        transcript.messages = messages
        return transcript

    def __reduce__(self):
        return Transcript, (self.messages,)

    @property
    def own(self) -> str:
        """What the policy says in it, without labels: its length is the policy's."""
        return "\n\n".join(m["content"] or "" for m in self.messages if m["role"] == "assistant")


def own_words(completion: str) -> str:
    """What the policy says in a completion: in a dialogue others speak, too."""
    return getattr(completion, "own", completion)


def messages_of(completion: str) -> list[dict[str, Any]]:
    """A completion as messages: a text is one turn of the assistant."""
    return getattr(completion, "messages", None) or [{"role": "assistant", "content": completion}]


def plain_messages(completion: str) -> list[dict[str, str]]:
    """
    The same for readers that know users and assistants only: calls are part of the assistant's text, and what a tool
    answers is a turn of the user that says so.
    """
    found: list[dict[str, str]] = []
    for message in messages_of(completion):
        if message["role"] == "assistant":
            found.append({"role": "assistant", "content": words(message)})
        elif message["role"] == "tool":
            found.append({"role": "user", "content": f"Tool: {message['content']}"})
        else:
            found.append({"role": "user", "content": message["content"]})
        if len(found) > 1 and found[-1]["role"] == found[-2]["role"]:  # templates want them to take turns
            last = found.pop()
            found[-1]["content"] += f"\n\n{last['content']}"
    return found


def speaker(message: dict[str, Any]) -> str:
    """What the one who says it is called."""
    name = f" {json.dumps(message['name'])}" if message["role"] == "tool" and message.get("name") else ""
    return message["role"].capitalize() + name


def _turn(message: dict[str, Any]) -> str:
    return "\n".join([f"{speaker(message)}: {quoted(message['content'] or '')}", *_calls(message)])


def words(message: dict[str, Any]) -> str:
    """What is said in a turn, with the tools that are called in it."""
    return "\n".join([message["content"] or "", *_calls(message)]).strip()


def _calls(message: dict[str, Any]) -> list[str]:
    return [f"Call: {json.dumps(call.get('function', call))}" for call in message.get("tool_calls") or ()]


def quoted(text: str) -> str:
    """A text in which no line reads like the beginning of a turn."""
    lines = text.splitlines(keepends=True)
    return "".join(f"> {line}" if _LABEL.match(line) else line for line in lines)
