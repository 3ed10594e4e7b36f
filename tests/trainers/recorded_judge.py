# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A judge that keeps what it was asked, and fails. Run as a script, it trains and kills itself while it judges."""

import math
import os
import signal
import sys
from pathlib import Path

from helpers import favours_a, make_trainer

from trl_nash import PairwiseJudge
from trl_nash.judges.base import JudgeError
from trl_nash.judges.store import as_store


class RecordedJudge(PairwiseJudge):
    """
    Answers one by one, as a server does.

    Args:
        cache: path of a store.
        fails_after: questions that it answers.
        kill: whether it then ends the process at once, as a cluster does, or raises.
    """

    identity = "recorded"

    def __init__(self, cache=None, fails_after=None, kill=False):
        self.cache = as_store(cache)
        self.fails_after = math.inf if fails_after is None else fails_after
        self.kill = kill
        self.asked: list[tuple[str, str, str]] = []
        self.failures = 0

    def judge(self, prompts, first, second):
        return [answer for _, answer in self.judge_each(prompts, first, second)]

    def judge_each(self, prompts, first, second):
        for row, question in enumerate(zip(prompts, first, second, strict=True)):
            if len(self.asked) >= self.fails_after:
                if self.kill:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.failures += 1
                raise JudgeError("The server at 127.0.0.1 is gone.")
            self.asked.append(question)
            yield row, favours_a(*[[part] for part in question])[0]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    make_trainer(
        "ipo",
        folder / "run",
        judge=RecordedJudge(folder / "cache.sqlite", int(sys.argv[2]), kill=True),
        learning_rate=0.05,
        steps_per_generation=2,
        max_steps=8,
        save_strategy="steps",
        save_steps=1,
    ).train()
