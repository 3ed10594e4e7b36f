# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The demo's judge: three raters who agree on what is good and disagree in a circle on how long it should be."""

import math
import re


# Points for a short, a medium and a long answer. Two of three prefer short to medium, medium to long, long to short.
TASTES = {"hurried": (2, 1, 0), "curious": (0, 2, 1), "thorough": (1, 0, 2)}
SHORT, LONG = 6, 15  # words: short up to the first, long from the second

_QUESTION_WORDS = {"what", "why", "how", "when", "where", "which", "who", "does", "the", "and", "for", "you", "can"}


def three_raters(prompts: list, first: list[str], second: list[str]) -> list[float]:
    """
    The chance that a rater, drawn from three, prefers `first` to `second`.

    All three give a point to an answer that is a whole sentence (a capital, a full stop), three to one that takes up
    a word of the question, and take off points for repeated words. Each adds points for length by [`TASTES`], and
    prefers `first` with probability `sigmoid(points of first - points of second)`.

    Among equally good answers the majority therefore goes round in a circle, so that no reward function describes it:
    every length is beaten by another. The best reply to all of them is a good answer of any length, each as often.

    Args:
        prompts (`list[str]` or `list[list[dict]]`): B questions, as strings or messages.
        first (`list[str]`): B answers.
        second (`list[str]`): B answers.

    Returns:
        `list[float]`: B probabilities in [0, 1], the same whichever order is asked.
    """
    return [_preference(_text(p), a, b) for p, a, b in zip(prompts, first, second, strict=True)]


three_raters.symmetric = True  # P(a > b) + P(b > a) = 1, so one order is enough


def length_class(answer: str) -> int:
    """0 for a short answer, 1 for a medium one, 2 for a long one."""
    words = len(answer.split())
    return 0 if words <= SHORT else 1 if words < LONG else 2


def quality(question: str, answer: str) -> float:
    """The points that all raters give: up to 4, less 4 times the share of repeated words."""
    words = re.findall(r"\w+", answer.lower())
    if not words:
        return 0.0
    whole_sentence = answer[0].isupper() and answer[-1] in ".!?"
    on_topic = bool(_stems(answer) & _stems(question))
    return 1.0 * whole_sentence + 3.0 * on_topic - 4.0 * (1 - len(set(words)) / len(words))


def _preference(question: str, first: str, second: str) -> float:
    better = quality(question, first) - quality(question, second)
    i, j = length_class(first), length_class(second)
    votes = [1 / (1 + math.exp(-(better + taste[i] - taste[j]))) for taste in TASTES.values()]
    return sum(votes) / len(votes)


def _stems(text: str) -> set[str]:
    words = set(re.findall(r"\w{3,}", text.lower())) - _QUESTION_WORDS
    return {word[:4] for word in words}


def _text(prompt: str | list[dict]) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
