# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Whom the real model plays for: raters that vote, one rater alone, and a cycle over the first letters of answers.

Each is a function `(prompts, first, second) -> P(first ≻ second)` without a memory, and does not mind the order.
"""

import re
from functools import cache

import numpy as np

from trl_nash.games import load_game


WORD = re.compile(r"[a-z']+")
COMMON = frozenset(
    "the a an of to in and is are for on with that this it as be or by from at can i you your my we our how what "
    "which who do does did not".split()
)
SHORTEST = 3  # words of an answer that is one


@cache
def _sentiment():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()


@cache
def _linter():
    from harper import Linter

    return Linter()


def sentiment(prompt: str, answer: str) -> float:
    """How positive the words are, in [-1, 1]: VADER's compound score."""
    return _sentiment().polarity_scores(answer)["compound"]


def grammar(prompt: str, answer: str) -> float:
    """Faults that Harper finds, a word, with a minus."""
    return -len(_linter().lint(answer)) / max(len(answer.split()), 1)


def brevity(prompt: str, answer: str) -> float:
    """Characters, with a minus."""
    return -len(answer)


def relevance(prompt: str, answer: str) -> float:
    """The share of the prompt's words that the answer takes up, but for the most common ones."""
    asked = set(WORD.findall(prompt.lower())) - COMMON
    return len(asked & set(WORD.findall(answer.lower()))) / max(len(asked), 1)


RATERS = {"sentiment": sentiment, "grammar": grammar, "brevity": brevity, "relevance": relevance}


@cache
def ratings(prompt: str, answer: str) -> tuple[float, ...]:
    """What each of `RATERS` gives an answer."""
    return tuple(rater(prompt, answer) for rater in RATERS.values())


def majority(prompts: list, first: list[str], second: list[str]) -> list[float]:
    """1 if more raters prefer the first, 0 if fewer do, ½ if as many. An answer of fewer than three words loses."""
    found = []
    for prompt, *answers in zip(map(text, prompts), first, second, strict=True):
        a, b = (len(answer.split()) >= SHORTEST for answer in answers)
        votes = np.sign(np.subtract(*(ratings(prompt, answer) for answer in answers))).sum() if a and b else a - b
        found.append(0.5 + 0.5 * float(np.sign(votes)))
    return found


def one_rater(prompts: list, first: list[str], second: list[str]) -> list[float]:
    """σ(4 x the difference of sentiments): a Bradley-Terry preference, which has no cycle."""
    scores = [[sentiment("", answer) for answer in answers] for answers in (first, second)]
    return (1 / (1 + np.exp(4 * np.subtract(scores[1], scores[0])))).tolist()


CYCLE = load_game("comal-cycle")  # over three classes of answers; its equilibrium is (4, 3, 4) / 11
CLASSES = ("A to C", "D to T", "others")


def opening(answer: str) -> int:
    """The class of an answer, read off its first character: A to C, D to T, or anything else (none, too)."""
    letter = answer[:1].upper()
    return 0 if letter and letter in "ABC" else 1 if letter and letter in "DEFGHIJKLMNOPQRST" else 2


def cycle(prompts: list, first: list[str], second: list[str]) -> list[float]:
    """COMAL's cycle over the classes of the answers."""
    return [float(CYCLE.preferences[opening(a), opening(b)]) for a, b in zip(first, second, strict=True)]


JUDGES = {"cycle": cycle, "majority": majority, "one-rater": one_rater}
for judge in JUDGES.values():
    judge.symmetric = True  # P(a ≻ b) = 1 - P(b ≻ a) as it is: asked once


def text(prompt) -> str:
    """The words of a prompt, of the last turn if it is messages."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]
