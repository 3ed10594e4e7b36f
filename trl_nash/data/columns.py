# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What a row's prompt is.

A column of prompts, messages or questions is one wherever it holds something; only where there is none do the texts of
`chosen` and `rejected` say it, by what they share.
"""

import difflib
import json
import os
from collections.abc import Iterable
from typing import Any

from ..judges.calls import joined
from .messages import ANSWER, Message, as_message, dialogue, is_messages


Prompt = str | list[Message]

MESSAGE_COLUMNS = ("context_messages", "messages", "conversations", "conversation")
TEXT_COLUMNS = ("instruction", "question", "input")
SYSTEM_COLUMNS = ("system", "system_prompt")
PROMPT_COLUMNS = ("prompt", *MESSAGE_COLUMNS, "chosen", *TEXT_COLUMNS)
LAST_ROLES = ("user", "tool", "assistant")  # of a message that a model can go on from


def find_prompt_column(row: dict[str, Any], wanted: str | None, dataset: str) -> str:
    """
    The column that holds the prompts, by what a row holds: `wanted`, or the first of `prompt`, a column of messages,
    `chosen` with `rejected` if these are dialogues, `instruction`, `question`, `input`, and any `chosen` with
    `rejected`.

    Args:
        row (`dict[str, Any]`): a row.
        wanted (`str`, *optional*): the name that the user gives.
        dataset (`str`): its name, for the message.

    Returns:
        `str`

    Raises:
        `ValueError`: if there is none.
    """
    if wanted is not None and wanted not in row:
        near = difflib.get_close_matches(wanted, row, n=1)
        hint = f": did you mean {near[0]}?" if near else f": it has {_listed(row)}."
        raise ValueError(f"--prompt_column {wanted}: {dataset} has no such column{hint}")
    if wanted is not None:
        return wanted
    answers = "chosen" in row and "rejected" in row
    if _is_text(row.get("prompt")) or is_messages(row.get("prompt")):
        return "prompt"
    found = [column for column in MESSAGE_COLUMNS if is_messages(row.get(column))]
    if answers and _share_a_dialogue(row["chosen"], row["rejected"]):
        found.append("chosen")
    found += [column for column in TEXT_COLUMNS if _is_text(row.get(column))]
    found += ["chosen"] if answers else []
    found += [column for column in PROMPT_COLUMNS if column in row and column != "chosen"]  # to say what is wrong
    if found:
        return found[0]
    raise ValueError(
        f"{dataset} has no prompt column among {_listed(PROMPT_COLUMNS)}; it has {_listed(row)}. Name the one to use "
        "with --prompt_column."
    )


def read_prompt(row: dict[str, Any], column: str, *, chat: bool = True) -> Prompt:
    """
    The prompt of a row.

    Args:
        row (`dict[str, Any]`):
            The row.
        column (`str`):
            Where it is. Of messages, trailing assistant turns are answers and are dropped (but in a column named
            `prompt`, where they are a beginning to be continued); of `chosen`, what it shares with `rejected` is
            taken; `instruction`, `question` and `input` are a question, with `system` and `history`.
        chat (`bool`, *optional*, defaults to `True`):
            Whether what holds several turns becomes messages. A model without a chat template reads it as text.

    Returns:
        `str` or `list[dict]`: messages have a `role` and a `content` that is one text.

    Raises:
        `ValueError`: if the prompt is empty or of another kind.
    """
    value = row.get(column)
    if column == "chosen" and "rejected" in row:
        value = shared_start(value, row["rejected"])
    elif column in TEXT_COLUMNS and _is_text(value):
        value = _question(row, column, chat)
    if isinstance(value, str):
        if not _is_text(value):
            raise ValueError("it is empty")
        check_characters(value)
        value = (dialogue(value) if chat else None) or value
        return value if isinstance(value, str) else _turns(value, keep_answer=column == "prompt")
    if not isinstance(value, list):
        raise ValueError(f"it is neither text nor a list of messages but {value!r:.80}")
    turns = [as_message(turn if isinstance(turn, dict) else {}) for turn in value]
    if column in MESSAGE_COLUMNS and _is_text(_first(row, SYSTEM_COLUMNS)) and turns and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": _first(row, SYSTEM_COLUMNS)})
    return _turns(turns, keep_answer=column == "prompt")


def beside(columns: Iterable[str], column: str) -> list[str]:
    """Those of a dataset's columns that are read beside the one of the prompts, where they hold something."""
    read = {
        "chosen": ("rejected",),
        **dict.fromkeys(MESSAGE_COLUMNS, SYSTEM_COLUMNS),
        **dict.fromkeys(TEXT_COLUMNS, (*SYSTEM_COLUMNS, "history")),
        "instruction": ("input", *SYSTEM_COLUMNS, "history"),
    }
    return [name for name in read.get(column, ()) if name in columns]


def as_turn(prompt: Prompt) -> list[Message]:
    """A prompt as messages: a text is one turn of the user."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def shared_start(chosen: Any, rejected: Any) -> Any:
    """
    What two answers share: the messages before them; the dialogue up to the last answer that both open; or the text up
    to the word in which they part.

    Raises:
        `ValueError`: if they are not both text, or both messages.
    """
    if type(chosen) is not type(rejected):
        raise ValueError("`chosen` and `rejected` must both be text, or both messages")
    if isinstance(chosen, list):
        pairs = zip(chosen, rejected, strict=False)
        different = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
        return chosen[:different]
    if not isinstance(chosen, str):
        raise ValueError(f"`chosen` is neither text nor a list of messages but {chosen!r:.80}")
    shared = os.path.commonprefix([chosen, rejected])
    if dialogue(chosen) and dialogue(rejected):
        return shared[: shared.rfind(ANSWER) + len(ANSWER)] if ANSWER in shared else ""
    return shared[: shared.rfind(" ") + 1].rstrip()


def check_characters(texts: Any) -> None:
    """Refuses what JSON can escape but nobody can write, and no tokenizer reads."""
    try:
        json.dumps(texts, ensure_ascii=False, default=repr).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"it has half of a surrogate pair, {error.object[error.start]!r}, which is no character"
        ) from None


def check_turns(turns: list[Message]) -> None:
    """Refuses messages that say nothing, or that nobody answers."""
    if not all(isinstance(turn["role"], str) and isinstance(turn["content"], str | None) for turn in turns):
        raise ValueError('the "role" and the "content" of its messages must be text')
    if not turns or (isinstance(turns[-1]["content"], str) and not turns[-1]["content"].strip()):
        raise ValueError("it is empty")
    for number, turn in enumerate(turns):
        if turn["content"] is None and not turn.get("tool_calls"):
            raise ValueError(f"the content of its message {number} ({turn['role']}) is null")
    if turns[-1]["role"] not in LAST_ROLES:
        raise ValueError(f"its last message is of the role {turns[-1]['role']!r:.80}, which nobody answers")


def _turns(turns: list[Message], keep_answer: bool) -> list[Message]:
    check_characters(turns)
    turns = joined(turns)
    while turns and not keep_answer and turns[-1]["role"] == "assistant":
        turns.pop()
    check_turns(turns)
    return turns


def _share_a_dialogue(chosen: Any, rejected: Any) -> bool:
    """Whether two answers begin with the same messages, or are dialogues in text."""
    if is_messages(chosen) and is_messages(rejected):
        return bool(shared_start(chosen, rejected))
    return all(isinstance(text, str) and dialogue(text) is not None for text in (chosen, rejected))


def _question(row: dict[str, Any], column: str, chat: bool) -> Prompt:
    """A question with what stands beside it: an instruction's input, the system's message, and earlier turns."""
    texts = [row[column]]
    if column == "instruction" and _is_text(row.get("input")):
        texts.append(row["input"])
    system, history = _first(row, SYSTEM_COLUMNS), row.get("history") or []
    earlier = [{"role": "system", "content": system}] if _is_text(system) else []
    for pair in history if isinstance(history, list) else []:
        if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair))):
            raise ValueError(f"`history` is a list of [question, answer], got {history!r:.80}")
        earlier += [{"role": role, "content": text} for role, text in zip(("user", "assistant"), pair, strict=True)]
    if not earlier:
        return "\n\n".join(texts)
    if not chat:
        return "\n\n".join([turn["content"] for turn in earlier] + texts)
    return [*earlier, {"role": "user", "content": "\n\n".join(texts)}]


def _first(row: dict[str, Any], columns: Iterable[str]) -> Any:
    return next((row[column] for column in columns if _is_text(row.get(column))), None)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
