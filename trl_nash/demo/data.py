# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The demo's prompts: the user's file, or the questions that come with the package."""

import json
import re
from pathlib import Path
from typing import NamedTuple

from ..usage import UsageError


_EMBEDDED = Path(__file__).with_name("prompts.jsonl")


class Example(NamedTuple):
    prompt: str
    answers: list[str]  # texts for the warm-up; the judge never sees them


def read_examples(file: str | None) -> list[Example]:
    """
    Reads a JSON Lines file of prompts, by default the one that comes with the package.

    Args:
        file (`str`, *optional*):
            A file with `{"prompt": ...}` on each line: a string or a list of messages, whose last user turn is taken.
            `"answers"`, a list of strings, is optional. Where it is missing the model warms up on sentences of the
            prompt's own text (or of the prompt before it, when it has no whole sentence).

    Returns:
        `list[Example]`

    Raises:
        UsageError: If the file is missing or a line is not such an object.
    """
    path = Path(file) if file else _EMBEDDED
    hint = 'a JSON Lines file with {"prompt": "..."} on each line'
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"cannot read {path} ({reason}): give --prompts {hint}, or leave it out.") from None
    examples: list[Example] = []
    sentences: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt = row["prompt"]
            if isinstance(prompt, list):
                prompt = [turn["content"] for turn in prompt if turn["role"] == "user"][-1]
            answers = row.get("answers") or []
            if not prompt.strip() or not (isinstance(answers, list) and all(isinstance(a, str) for a in answers)):
                raise ValueError
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise UsageError(
                f"line {number} of {path} has no prompt, or answers that are no list of texts: --prompts takes {hint}."
            ) from None
        sentences = _sentences(prompt) or sentences or [prompt]
        examples.append(Example(prompt, answers or sentences))
    if not examples:
        raise UsageError(f"{path} is empty: --prompts takes {hint}.")
    return examples


def _sentences(text: str) -> list[str]:
    """The sentences of 3 to 24 words in a text."""
    parts = [part.strip() for part in re.split(r"(?<=[.!?])\s+|\n+", text)]
    return [part for part in parts if part[-1:] in ".!?" and 3 <= len(part.split()) <= 24]
