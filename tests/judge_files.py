# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A file of pairs, judges of it that are named as `judge_files:name`, and `trl-nash judge` with both."""

import json
from itertools import permutations

from trl_nash import RandomJudge
from trl_nash.cli.main import main
from trl_nash.judges import Abstained, JudgeError, PairwiseJudge


PAIRS = [
    {"prompt": f"{a}{b}", "first": a * 2, "second": b * 3, "note": a, "label": label}
    for (a, b), label in zip(permutations("abcde", 2), [1, 0, 0.5, None, 0.8] * 4, strict=True)
]


def biased(prompts, first, second):
    """.1 for the first position; abstains on what begins with c in either order."""
    return [
        None if "c" in (a[0], b[0]) else min(max(0.5 + (ord(b[0]) - ord(a[0])) / 10 + 0.1, 0), 1)
        for a, b in zip(first, second, strict=True)
    ]


def asked_back(prompts, first, second):
    """.9 for the dialogue with more turns of the user; both sides are lists of messages, or text."""
    asked = [[sum(m["role"] == "user" for m in d) if isinstance(d, list) else 0 for d in side]
             for side in (first, second)]  # fmt: skip
    return [0.5 + 0.4 * ((a > b) - (a < b)) for a, b in zip(*asked, strict=True)]


def by_note(prompts, first, second, note):
    return [1.0 if a.startswith(n) else 0.0 for a, n in zip(first, note, strict=True)]


class Longer(PairwiseJudge):
    """The longer text wins: what it reads of a dialogue is a text."""

    symmetric = True

    def judge(self, prompts, first, second):
        return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


class Reasons(PairwiseJudge):
    symmetric = True

    def judge(self, prompts, first, second):
        return [Abstained("too long") if "e" in a + b else 0.25 for a, b in zip(first, second, strict=True)]


class Unanswered(PairwiseJudge):
    """A server that is away for the texts of `away`; writes down what it was asked."""

    symmetric = True
    asked: list[str] = []
    away: set[str] = set()

    def judge(self, prompts, first, second):
        Unanswered.asked += prompts
        answers = RandomJudge().judge(prompts, first, second)
        rows = zip(answers, prompts, first, second, strict=True)
        return [Abstained("server") if self.away & set(texts) else answer for answer, *texts in rows]


def tie(prompts, first, second):
    return [0.5] * len(prompts)


def odd(prompts, first, second):
    return [Abstained("[/b] [red]")] * len(prompts)


class Ends(PairwiseJudge):
    """Cannot go on when `stop` is there; writes down what it was asked."""

    symmetric = True
    asked: list[str] = []
    stop: str | None = None
    error: type[BaseException] = JudgeError

    def judge(self, prompts, first, second):
        if self.stop in prompts:
            raise self.error("the server is gone.")
        Ends.asked += prompts
        return RandomJudge().judge(prompts, first, second)


def judged(folder, file: str, spec: str, *options: str) -> tuple[list[dict], dict]:
    """Runs the command with `folder` / out as its output directory; returns the judgements and the figures."""
    assert main(["judge", file, "--judge", spec, "--output_dir", str(folder / "out"), *options]) == 0
    return lines(folder / "out" / "judgements.jsonl"), json.loads((folder / "out" / "judge.json").read_text())


def lines(path) -> list[dict]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted(records, key=lambda record: (record["row"], record["first_index"], record["second_index"]))


def complaint(capsys, *argv: str, code: int = 2) -> str:
    assert main(["judge", *argv]) == code
    text = capsys.readouterr().err
    assert text.startswith("trl-nash: ") and text.count("\n") == 1
    return text
