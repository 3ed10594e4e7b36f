# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Questions to remote judges: Jinja files that say how a pair is put to the judge, and how its answer is read."""

import json
import math
import re
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

from ..base import Prompt, joined
from .file import QuestionFile
from .verdicts import VerdictPattern, without_thinking


PROMPTS = Path(__file__).parent / "prompts"
MOST_UNKNOWN = 0.02  # that labels which the server does not list may move a probability
LABEL_MASS = 0.1  # of the probability of the answer's first token, below which labels are no answer

# Special tokens and turn marks of chat templates, which a server may parse wherever they stand.
SPECIAL_TOKENS = (
    r"<\|[^<>|\s]{1,64}\|>",
    r"<｜[^<>｜\s]{1,64}｜>",
    r"</?s>",
    r"\[/?INST\]",
    r"<</?SYS>>",
    r"<(?:start|end)_of_turn>",
)
ENTITIES = {"<": "&lt;", "[": "&#91;", "#": "&#35;"}


class QuestionTemplate:
    """
    A Jinja file that renders the message to the judge from `prompt` (text), `first` and `second`, and from columns of
    the dataset that it names. It sets

    * either `labels`, two words of which the judge answers one (the first means that `first` is better), or
      `verdicts`, a table of marks to look for in a longer answer and the probabilities that they stand for, or
      `verdict_pattern`, what else [`~judges.questions.verdicts.VerdictPattern`] finds verdicts with;
    * `delimiters`, what it writes around texts, so that texts cannot write them: their first character, and that of
      the marks and of special tokens, is replaced by its HTML entity;
    * if wanted, `system`, a system message;
    * `roles`, for judges whose chat templates give the two completions roles of their own: the conversation is then
      followed by a message of each, and the file renders nothing.

    Args:
        name (`str`): A file's name in `trl_nash/judges/questions/prompts` without `.jinja`, or the path of a file.
        verdict_pattern (`str` or `dict`, *optional*): In place of what the file says of answers.

    Raises:
        `ValueError`: If there is no such file or it does not say what it must.
    """

    def __init__(self, name: str, verdict_pattern: Any = None):
        file = QuestionFile(name, PROMPTS)
        path, settings, names = file.path, file.settings, file.names
        self.source, self._template = file.source, file.template
        self.roles: list[str] = settings.get("roles", [])
        if missing := not self.roles and sorted({"first", "second"} - names):
            raise ValueError(f"The prompt {path} does not use `{missing[0]}`, one of the two completions.")
        self.columns = sorted(names - {"prompt", "first", "second"})
        self.labels: list[str] | None = settings.get("labels")
        self.verdicts: dict[str, float] | None = settings.get("verdicts")
        pattern = settings.get("verdict_pattern")
        if verdict_pattern is not None:
            self.labels, self.verdicts, pattern = None, None, verdict_pattern
        self.pattern = (
            None if self.labels else VerdictPattern(pattern or self.verdicts) if pattern or self.verdicts else None
        )
        if (self.labels is None) == (self.pattern is None) or (self.labels and len(set(self.labels)) != 2):
            raise ValueError(
                f"The prompt {path} must set either `labels`, two different words, or `verdicts`, a table of marks "
                f'and probabilities; for example {{% set labels = ["A", "B"] %}}.'
            )
        patterns = []  # verdicts as they are looked for
        if self.pattern is not None and not self.pattern.scores:  # a pair of numbers may be honest
            patterns.append(rf"(?=[<\[])(?:{re.sub(r'[?]P<[a-z]+>', '?:', self.pattern.regex.pattern)})")
        self._marks = marks_of(path, settings.get("delimiters", []), self.verdicts or (), patterns)

    def neutralise(self, text: Any) -> Any:
        """`text` without the power to be anything but text in this question."""
        return harmless(self._marks, text)

    def render(
        self, prompt: Prompt, first: str, second: str, mode: str, strict: bool = False, **columns
    ) -> list[dict[str, str]]:
        """The messages to the judge: a system message if the file has one, and a user's; or those of its `roles`."""
        if self.roles:
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else joined(prompt)
            answers = [{"role": role, "content": text} for role, text in zip(self.roles, (first, second), strict=True)]
            return [{**turn, "content": self.neutralise(turn["content"])} for turn in [*turns, *answers]]
        texts = {"prompt": as_text(prompt), "first": first, "second": second, **columns}
        module = self._template.make_module({name: self.neutralise(text) for name, text in texts.items()})
        content = str(module).strip()
        if mode == "structured":
            options = " or ".join(json.dumps({"better": label}) for label in self.labels)
            content += f"\n\nAnswer as JSON, {options}, and nothing else."
        elif strict and self.labels:
            content += f"\n\nThe whole answer must be {self.labels[0]} or {self.labels[1]}: no other word or sign."
        elif strict and self.verdicts:
            content += f"\n\nThe answer must end with exactly one of {', '.join(self.verdicts)}, and name no other."
        elif strict:
            content += "\n\nThe answer must end with a verdict in exactly the form that was asked for."
        messages = [{"role": "user", "content": content}]
        if system := str(getattr(module, "system", "")).strip():
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def read(self, choice: dict[str, Any], mode: str) -> float | None:
        """The probability that `first` is better in the words of a server's reply; `None` if it does not say."""
        try:
            if (text := without_thinking(choice["message"]["content"])) is None:
                return None
            if self.pattern is not None:
                return self.pattern(text)
            if mode == "structured":
                label = json.loads(text)["better"]
            else:  # the label alone, or with quotes, stars, and what is labelled
                words = re.fullmatch(r"\W*(?:(?:response|output|answer|model)\b\W*)?(\w+)\W*", text, re.IGNORECASE)
                label = words[1]
            return 1.0 - self.labels.index(label)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError):
            return None

    def read_logprobs(self, choice: dict[str, Any]) -> tuple[float, float] | None:
        """
        P(first label) over P(either label) in the first token that is not blank, and P(either label). `None` if they
        are not listed such that the first is known to .02: a token that is not has at most the least probability of
        those that are.
        """
        try:
            positions = choice["logprobs"]["content"]
            entries = next(place["top_logprobs"] for place in positions if place["token"].strip())
            listed: list[float] = []
            mass, seen = dict.fromkeys(self.labels, 0.0), set()
            for entry in entries:
                if not isinstance(entry["logprob"], Real) or not entry["logprob"] <= 1e-3:
                    return None  # also nan; a positive one is no logarithm of a probability
                listed.append(math.exp(entry["logprob"]))
                if (label := entry["token"].strip()) in mass:
                    mass[label] += listed[-1]
                    seen.add(label)
            total = sum(mass.values())
            unlisted = min([*listed, max(0.0, 1.0 - sum(listed))]) if len(seen) < 2 else 0.0
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
            return None
        if total < LABEL_MASS or unlisted > MOST_UNKNOWN * (total + unlisted):
            return None
        return mass[self.labels[0]] / total, total


def marks_of(
    path: Path, delimiters: Iterable[str], verdicts: Iterable[str] = (), patterns: Iterable[str] = ()
) -> re.Pattern:
    """What texts must not contain in the question of a file: its delimiters, special tokens, and patterns."""
    if bad := [mark for mark in [*delimiters, *verdicts] if mark[:1] not in ENTITIES]:
        raise ValueError(f"The `delimiters` and `verdicts` of the prompt {path} begin with <, [ or #; got {bad[0]!r}.")
    # Delimiters whatever their case and spaces, as a model would take them.
    marks = [r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", mark))) for mark in delimiters]
    return re.compile("|".join([*marks, *patterns, *SPECIAL_TOKENS]), re.IGNORECASE)


def harmless(marks: re.Pattern, text: Any) -> Any:
    """`text` in which the first character of marks, as often as it stands there, is its HTML entity."""
    if not isinstance(text, str):
        return text

    def replaced(match: re.Match) -> str:
        rest = match[0].lstrip(match[0][0])
        return ENTITIES[match[0][0]] * (len(match[0]) - len(rest)) + rest

    return marks.sub(replaced, text)


def as_text(prompt: Prompt) -> str:
    """A prompt as one text: a lone user's message is its content, a conversation has its roles in front."""
    if isinstance(prompt, str):
        return prompt
    messages = joined(prompt)
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content']}" for message in messages)
