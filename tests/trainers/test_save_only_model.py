# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""With `save_only_model` there is nothing to resume from, and nothing says that there were."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import favours_a, make_trainer
from transformers import AutoModelForCausalLM

from trl_nash.cli.training.reports.ending import how_to_resume
from trl_nash.judges.base import JudgeError
from trl_nash.trainers.run.stops import Stopped


def silent(prompts, first, second):
    return [math.nan] * len(prompts)


def broken(prompts, first, second):
    raise JudgeError("The judge is out of money.")


class LateJudge:
    """Judges four rounds, then does as `verdict` does."""

    symmetric = True

    def __init__(self, verdict):
        self.calls, self.verdict = 0, verdict

    def __call__(self, prompts, first, second):
        self.calls += 1
        return (favours_a if self.calls <= 4 else self.verdict)(prompts, first, second)


STOPS = {
    "judge that abstains": {"judge": LateJudge(silent)},
    "judge that fails": {"judge": LateJudge(broken)},
    "divergence": {"learning_rate": 1e30, "lr_scheduler_type": "constant"},
    "loss": {"judge": LateJudge(lambda prompts, first, second: [1.0] * len(prompts)), "step_size": [1] * 4 + [1e300]},
}


@pytest.mark.parametrize("save_only_model", [False, True])
@pytest.mark.parametrize("stop", STOPS)
def test_what_stops_say(stop, save_only_model, tmp_path):
    """Each stop says how to go on: resume, or begin again from a model."""
    options = dict(STOPS[stop])
    if "judge" in options:
        options["judge"].calls = 0
    trainer = make_trainer(
        "ipo", tmp_path, save_only_model=save_only_model, save_strategy="steps", save_steps=1, max_steps=6, **options
    )
    with pytest.raises((RuntimeError, JudgeError)) as error:
        trainer.train()
    message = str(error.value)
    if not save_only_model:
        assert re.search("resume from|A checkpoint of step", message)
    else:
        assert "resum" not in message and "checkpoint of step" not in message
        assert re.search("start a new run from (an earlier|the last) saved model|The model of step 4 is in", message)


@pytest.mark.parametrize("save_only_model", [False, True])
def test_a_run_that_is_asked_to_stop(save_only_model, tmp_path):
    """The command says how to go on. What was saved can be loaded as a model either way."""
    trainer = make_trainer("ipo", tmp_path, save_only_model=save_only_model, max_steps=4)
    trainer.request_stop("SIGTERM")
    with pytest.raises(Stopped) as error:
        trainer.train()
    assert ("The model of step 0 is in" in str(error.value)) == save_only_model
    said = how_to_resume(trainer)
    assert ("--resume_from_checkpoint" in said) == (not save_only_model)
    if save_only_model:
        assert said.startswith("--save_only_model keeps nothing to resume from")
    AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-0")


def test_resuming_finds_what_can_be_resumed(tmp_path):
    """Of a run's whole checkpoint and a later model without state, the checkpoint is found; a model alone is not."""
    options = {"save_strategy": "steps", "save_steps": 1}
    make_trainer("ipo", tmp_path, max_steps=1, **options).train()
    trainer = make_trainer("ipo", tmp_path, save_only_model=True, max_steps=2, **options)
    trainer.train(resume_from_checkpoint=True)
    assert not (tmp_path / "checkpoint-2" / "nash").exists()
    again = make_trainer("ipo", tmp_path, max_steps=3, **options)
    assert Path(again.keeper.choose(True)).name == "checkpoint-1"

    alone = make_trainer("ipo", tmp_path / "alone", save_only_model=True, max_steps=1, **options)
    alone.train()
    with pytest.raises(ValueError, match="no complete checkpoint .*it holds a model and no state of a run, as `save"):
        alone.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"Start a new run without it\.$"):  # and not: resume from checkpoint-1
        alone.train(resume_from_checkpoint=str(tmp_path / "alone" / "checkpoint-7"))


def test_nothing_was_trained_yet():
    assert how_to_resume(None) == "Nothing was trained yet."
    nowhere = SimpleNamespace(args=SimpleNamespace(save_only_model=False, output_dir="nowhere"))
    assert "There is no checkpoint yet" in how_to_resume(nowhere)
