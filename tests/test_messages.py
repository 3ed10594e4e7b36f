# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Every message that the page on errors quotes is a sentence of the package's source, whatever fills its gaps."""

import ast
import functools
import re
from pathlib import Path


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "guides" / "troubleshooting.md"
GAP = "\0"  # where a sentence of the source is filled in


def sentence(node: ast.expr) -> str:
    """A text of the source: plain, an f-string, or several of them joined."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%[sd]|%\.\d\w|\{[^{}]*\}", GAP, text)
        case ast.JoinedStr(values=values):
            return "".join(sentence(part) if isinstance(part, ast.Constant) else GAP for part in values)
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return sentence(left) + sentence(right)
    return GAP


@functools.cache
def sentences() -> list[str]:
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "trl_nash").rglob("*.py")]
    found = {sentence(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.expr)}
    return sorted(text for text in found if len(text.replace(GAP, "")) > 15)


def is_of(quote: str, text: str) -> bool:
    """Whether a quotation is in a sentence: its gaps stand where the sentence is filled in, and in the same order."""
    parts = [re.escape(part) for part in quote.split("...")]
    # A gap of the page covers a gap of the source, and what a condition may leave out beside it.
    gap = rf"(?:\.\.\.|.{{0,40}}?{GAP}.{{0,40}}?)"
    return re.search(gap.join(parts), text, flags=re.DOTALL) is not None


def test_quoted_messages_are_in_the_source():
    quotes = re.findall(r"^> (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = sentences()
    assert len(quotes) > 40
    assert [quote for quote in quotes if not any(is_of(quote, text) for text in texts)] == []


def test_a_sentence_that_is_not_there_is_found_out():
    texts = sentences()
    assert any(is_of("Nothing in the model is trainable.", text) for text in texts)
    assert not any(is_of("Nothing in the model is trained.", text) for text in texts)
    assert not any(is_of("unknown option ++...", text) for text in texts)
