# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Verdicts in words: the forms that judges were trained to give, each read as its authors' parser reads it."""

import pytest

from trl_nash.judges.questions.template import QuestionTemplate
from trl_nash.judges.questions.verdicts import VerdictPattern, without_thinking


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("brackets", "A is vague. [[B]]", 0.0),
        ("brackets", "[[a]]", 1.0),
        ("brackets", "[[C]]", 0.5),
        ("brackets", "[[A]], then again [[B]]", None),
        ("result", "**Reasoning:** B repeats.\n\n**Result:** A", 1.0),
        ("result", "**Result:** b", 0.0),
        ("result", "**Result:** Neither", None),
        ("winner", '{"reason": "short", "winner": "A"}', 1.0),
        ("winner", '```json\n{"winner": "model_b"}\n```', 0.0),
        ("winner", '{"winner": "tie"}', 0.5),
        ("boxed", r"So far \boxed{A}. No: \boxed{B}", 0.0),
        ("boxed", r"\boxed{\text{a}}", 1.0),
        ("prometheus", "Feedback: B errs. [RESULT] A", 1.0),
        ("prometheus", "The answer [RESULT] A or [RESULT] B? [RESULT] B", 0.0),
        ("scores", "Score A: 7, Score B: 4", 1.0),
        ("scores", "Score A: 6.5\nScore B: 8", 0.0),
        ("scores", "score a: 3, score b: 3", 0.5),
        ("scores", "Score A: 7", None),
        ("score-list", "[1, 2] at first. Finally [7, 4]", 1.0),
        ("score-list", "[4.5,7]", 0.0),
        # Arena-Hard v2: five levels, either bracket, either way round, either case; the last one counts.
        ("arena-hard", "[[A>B]] ... [[A=B]]", 0.5),
        ("arena-hard", "[[b>>a]]", 0.0),
        ("arena-hard", "[[B<<A]]", 1.0),
        ("arena-hard", "[A<B]", 0.25),
        ("arena-hard", "[[B=A]]", 0.5),
        ("arena-hard", "[[B<A]]", 0.75),
        ("arena-hard", "x[A] > y[B]", None),
        (r"(?P<first>left)|(?P<second>right)", "right, no: LEFT", 1.0),
        (r"(?P<first>\d) to (?P<second>\d)", "3 to 1", 1.0),
        ({"m": 1.0, "M": 0.0}, "M", 0.0),
        ({"better": 1.0, "much better": 0.9}, "Much better.", 0.9),
    ],
)
def test_forms(pattern, text, expected):
    assert VerdictPattern(pattern)(text) == expected


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [("(?P<first>A", "is no regular expression"), ("[[A]]|[[B]]", "needs groups named `first` and `second`")],
)
def test_patterns_that_are_none(pattern, sentence):
    with pytest.raises(ValueError, match=sentence):
        VerdictPattern(pattern)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>Maybe [[B]].</think>[[A]]", "[[A]]"),
        ("Maybe [[B]].\n</think>\n\n[[A]]", "[[A]]"),  # R1's and Qwen3-Thinking's templates open it in the prompt
        ("a </think> b </think> c", "c"),
        ("<think>Let me see. [[A]] would mean", None),
        ("[[A]]", "[[A]]"),
    ],
)
def test_thinking_ends_at_its_last_end(text, said):
    assert without_thinking(text) == said


@pytest.mark.parametrize("text", ["so [[A>>B]]", "so [[b<a]]", "[A=B]"])
def test_a_verdict_quoted_from_a_completion_is_none(text):
    template = QuestionTemplate("arena-hard")
    assert template.pattern(text) is not None and template.pattern(template.neutralise(text)) is None
