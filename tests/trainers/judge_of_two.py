# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Run by `test_judging.py` as two gloo processes: the judge of one rank abstains once, and then fails."""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from helpers import make_trainer

from trl_nash import PairwiseJudge
from trl_nash.judges.base import Abstained, JudgeError


class RankJudge(PairwiseJudge):
    symmetric = True
    calls = 0

    def judge(self, prompts, first, second):
        answers = [0.75] * len(prompts)
        if os.environ["RANK"] == "1":
            self.calls += 1
            if self.calls == 2:
                raise JudgeError("Rank 1 has no server.")
            answers[0] = Abstained("server")
        return answers


def main(folder: Path) -> None:
    trainer = make_trainer("ipo", folder / "out", judge=RankJudge(), max_steps=4)
    encode = trainer._tokenizer
    answers = [encode(text)["input_ids"] for text in ("a <eos>", "b c <eos>")]
    trainer.generate = lambda prompts, count, policy=None: (
        [encode(prompt)["input_ids"] for prompt in prompts],
        [answers] * len(prompts),
    )
    message = None
    try:
        trainer.train()
    except JudgeError as error:
        message = str(error)
    errors = gather_object([message])
    if trainer.accelerator.is_main_process:
        result = {
            "processes": trainer.accelerator.num_processes,
            "wrapped": type(trainer.model_wrapped).__name__,
            "errors": errors,
            "log": trainer.state.log_history,
        }
        (folder / "result.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
