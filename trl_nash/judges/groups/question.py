# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Questions about groups of completions to remote judges: Jinja files, and how the answers to them are read."""

import json
import math
from numbers import Real
from pathlib import Path
from typing import Any

from ..base import Prompt
from ..questions.file import QuestionFile
from ..questions.template import as_text, harmless, marks_of
from ..questions.verdicts import without_thinking


PROMPTS = Path(__file__).parent / "prompts"


class GroupQuestion:
    """
    A Jinja file that renders the message to the judge from `prompt` (text) and the list `responses`, whose ids it
    counts from 1, and from columns of the dataset that it names. It sets

    * `returns`, `"scores"` or `"ranking"`: the answer is JSON, `{"scores": {"1": 7.5, ...}}` or
      `{"ranking": [2, [1, 3]]}`, which is ids from the best to the worst with ties in a list;
    * `delimiters` and, if wanted, `system`, as in a [`QuestionTemplate`].

    Args:
        name (`str`): `"scores"`, `"ranking"`, or the path of a file.

    Raises:
        `ValueError`: If there is no such file or it does not say what it must.
    """

    def __init__(self, name: str):
        file = QuestionFile(name, PROMPTS)
        path, settings, names = file.path, file.settings, file.names
        self.source, self._template = file.source, file.template
        if "responses" not in names or settings.get("returns") not in ("scores", "ranking"):
            raise ValueError(
                f"The prompt {path} must use the list `responses` and set `returns`, for example "
                '{% set returns = "scores" %}.'
            )
        self.columns = sorted(names - {"prompt", "responses"})
        self.returns: str = settings["returns"]
        self._marks = marks_of(path, settings.get("delimiters", []))

    def render(self, prompt: Prompt, responses: list[str], strict: bool = False, **columns) -> list[dict[str, str]]:
        """The messages to the judge: a system message if the file has one, and a user's."""
        texts = {name: harmless(self._marks, text) for name, text in {"prompt": as_text(prompt), **columns}.items()}
        module = self._template.make_module(
            {**texts, "responses": [harmless(self._marks, response) for response in responses]}
        )
        content = str(module).strip()
        if strict:
            content += f"\n\nThe answer must be that JSON alone, with each id from 1 to {len(responses)} once."
        messages = [{"role": "user", "content": content}]
        if system := str(getattr(module, "system", "")).strip():
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def schema(self, count: int) -> dict[str, Any]:
        """What a server may hold the answer about K responses to."""
        ids = [str(number) for number in range(1, count + 1)]
        if self.returns == "scores":
            value = {
                "type": "object",
                "properties": {name: {"type": "number"} for name in ids},
                "required": ids,
                "additionalProperties": False,
            }
        else:
            place = {"type": "integer", "enum": list(range(1, count + 1))}
            value = {"type": "array", "items": {"anyOf": [place, {"type": "array", "items": place}]}}
        return {
            "type": "object",
            "properties": {self.returns: value},
            "required": [self.returns],
            "additionalProperties": False,
        }

    def read(self, choice: dict[str, Any], count: int) -> list | None:
        """
        The answer about K responses in the words of a server's reply, as [`GroupJudge`] takes it: what it leaves out
        is `nan` or missing. `None` if it cannot be read, or says of an id that there is not, or of one twice.
        """
        text = choice["message"].get("content")
        text = without_thinking(text) if isinstance(text, str) else None
        found = None if text is None else last_object(text, self.returns)
        try:
            if self.returns == "scores":
                return _scores(found, count)
            ids = [[_place(place, count) for place in (step if isinstance(step, list) else [step])] for step in found]
        except (TypeError, ValueError, AttributeError):
            return None
        places = [place for step in ids for place in step]
        return ids if places and len(set(places)) == len(places) else None


def last_object(text: str, key: str) -> Any:
    """What stands under `key` in the last JSON object in a text that has it and no key twice; else `None`."""
    decoder, found, start = json.JSONDecoder(object_pairs_hook=_without_doubles), None, 0
    while (start := text.find("{", start)) >= 0:
        try:
            value, end = decoder.raw_decode(text, start)
        except ValueError:
            start += 1
            continue
        found = value[key] if key in value else found
        start = end
    return found


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _scores(found: dict[str, Any], count: int) -> list[float] | None:
    scores = [math.nan] * count
    for name, score in found.items():
        if isinstance(score, bool) or not isinstance(score, Real) or not math.isfinite(score):
            return None
        scores[_place(name, count)] = float(score)
    return None if all(map(math.isnan, scores)) else scores


def _place(name: Any, count: int) -> int:
    """The place, from 0, of an id, from 1."""
    if isinstance(name, bool | float) or int(name) not in range(1, count + 1):
        raise ValueError
    return int(name) - 1
