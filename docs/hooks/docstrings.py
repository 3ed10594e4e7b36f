# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Docstrings in Hugging Face's style, as the site's parser of Google's style reads them."""

import re

import griffe


# "name (`list[str]` or `str`, *optional*, defaults to `2`):"
_HEADER = re.compile(r"^( +[\w*, ]+) \((.+?)\):(?=\s)", flags=re.MULTILINE)
# "`list[str]`: What is returned."
_RETURNED = re.compile(r"^(\s+)`([^`\n]+)`(?=: |$|\.$)", flags=re.MULTILINE)
# "[`~trl_nash.judges.PairwiseJudge`]", "[`NashTrainer`]"
_REFERENCE = re.compile(r"\[`(~?)([\w.]+)`\]")


# A line of "Raises:" that goes on with the one before it.
_RAISED = re.compile(r"^( +)(?!`?[\w.]+`?: )(?=\S)", flags=re.MULTILINE)


def _header(match: re.Match) -> str:
    kind = re.sub(r"(,\s*)?\*optional\*", "", _REFERENCE.sub(r"\2", match[2]))
    kind = re.sub(r",?\s*defaults to .*", "", kind)
    kind = kind.replace("`", "").replace(" or ", " | ")
    return f"{match[1]} ({kind}):"


def _reference(match: re.Match) -> str:
    return f"`{match[2].rpartition('.')[2] if match[1] else match[2]}`"


def google(docstring: str) -> str:
    """The docstring, with the types and references of Hugging Face's style in Google's."""
    text = _HEADER.sub(_header, docstring)
    head, mark, returned = text.partition("\nReturns:\n")
    text = head + mark + _RETURNED.sub(r"\1\2", returned)
    head, mark, raised = text.partition("\nRaises:\n")
    raised, blank, rest = raised.partition("\n\n")
    raised = re.sub(r"^( +)`([\w.]+)`: ", r"\1\2: ", raised, flags=re.MULTILINE)
    text = head + mark + _RAISED.sub(r"\1    ", raised) + blank + rest
    return _REFERENCE.sub(_reference, text)


class HuggingFaceDocstrings(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        if obj.docstring:
            obj.docstring.value = google(obj.docstring.value)
