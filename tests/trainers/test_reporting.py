# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import warnings
from collections import Counter

import pytest
from accelerate import Accelerator
from helpers import make_trainer, prompt_dataset

import trl_nash.trainers.run.reports.reporter as reporter_module
from trl_nash import NashTrainer
from trl_nash.judges.tally import Tally
from trl_nash.rounds.pairings import All
from trl_nash.rounds.rows import Filler
from trl_nash.trainers.run.judging import Asked, Judged
from trl_nash.trainers.run.reports.reporter import Reporter


def test_any_reason_to_abstain_is_counted():
    """A slash in it would make it a part of another metric."""
    reporter = Reporter(None, Accelerator(cpu=True), mode=lambda: "eval", round=lambda: 0, eos_token_ids=[])
    tally = Tally(abstained=Counter({"n/a": 1, "too long": 2}))
    asked = [Asked(tally, abstained=3, pairs=4)]
    # A row that is a filler is not counted, but what the judge was asked of the others is.
    reporter.record_judged(Judged([Filler()], None, [], All(), None, asked))
    reporter.record_tallies(asked)
    assert reporter.flush_evaluation() == pytest.approx(
        {"judge/abstained": 0.75, "judge/abstained/n_a": 0.25, "judge/abstained/too_long": 0.5}
    )


@pytest.mark.parametrize("algorithm, lora", [("ipo", False), ("ipo", True), ("nash-md", True)])
def test_progress_moves_within_a_generation_call(algorithm, lora, tmp_path, monkeypatch, capsys):
    """A round and an evaluation of one call each: the bar tells every token, of the policy and of the start."""
    monkeypatch.setattr(reporter_module, "BAR_SECONDS", 0)
    rows = prompt_dataset()
    options = {"per_device_train_batch_size": 8, "max_steps": 1, "eval_strategy": "steps", "disable_tqdm": False}
    trainer = make_trainer(algorithm, tmp_path, lora=lora, extra={"eval_dataset": rows}, **options)
    trainer.train()
    shown = capsys.readouterr().err
    for what in (
        "Round 1: sampling and judging",
        "Evaluation: sampling and judging",
        "Evaluation: the start's answers",
    ):
        bar = "".join(part for part in shown.replace("\n", "\r").split("\r") if what in part)
        assert "sampling, token 1]" in bar and "sampling, token 3]" in bar
        assert f"sampling, token {trainer.args.max_new_tokens + 1}]" not in bar


@pytest.mark.parametrize("lora", [False, True])
def test_a_library_warns_once_of_what_will_change(lora, tmp_path):
    """Here in every generation call and evaluation, after somebody has changed the filters, as PEFT's merging does."""

    class Sampled(NashTrainer):
        def sample_pairs(self, prompts):
            with warnings.catch_warnings():
                pass
            warnings.warn(f"`{tmp_path}` is deprecated", FutureWarning)
            warnings.warn(f"`{tmp_path}` is odd", UserWarning)
            return super().sample_pairs(prompts)

    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        extra = {"eval_dataset": prompt_dataset()}
        trainer = make_trainer("ipo", tmp_path, trainer_class=Sampled, lora=lora, max_steps=3, extra=extra)
        trainer.train()
        trainer.evaluate()
    messages = [str(warning.message) for warning in caught if str(tmp_path) in str(warning.message)]
    assert messages.count(f"`{tmp_path}` is deprecated") == 1 and messages.count(f"`{tmp_path}` is odd") > 3
    future = [str(warning.message) for warning in caught if issubclass(warning.category, FutureWarning)]
    assert len(future) == len(set(future))


def test_what_is_over_soon_shows_no_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reporter_module, "BAR_SECONDS", 1000)
    make_trainer("ipo", tmp_path, max_steps=1, disable_tqdm=False).train()
    assert "Round 1" not in capsys.readouterr().err
