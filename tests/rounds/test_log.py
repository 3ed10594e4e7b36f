# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Rounds that are stopped in the middle: what was sampled is not sampled again, and the run is the undisturbed one."""

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ALGORITHMS, equal, history, make_trainer, prompt_dataset
from tiny import build_model, build_tokenizer

from trl_nash.rounds.batch import Samples
from trl_nash.rounds.log import RoundLog, random_state, set_random_state
from trl_nash.trainers.run import collector
from trl_nash.trainers.run.stops import Stopped


# 3 rounds of 8 prompts, which are sampled in 4 chunks and fitted in 4 steps.
OPTIONS = {
    "dataset": prompt_dataset(["a", "b c", "c d e", "d", "e f", "f g h", "g", "h a"]),
    "steps_per_generation": 4,
    "num_train_epochs": 3,
    "learning_rate": 0.05,
    "save_strategy": "steps",
    "save_steps": 4,
}


class Killed(BaseException):
    """What no code catches, like a SIGKILL."""


def build(algorithm, folder, *, at=None, then=None, **options):
    """A trainer that counts its chunks, and does `then` when it is about to sample chunk `at`."""

    class Counting(ALGORITHMS[algorithm][0]):
        chunks = 0

        def sample_pairs(self, prompts):
            if self.chunks == at:
                then(self)
            self.chunks += 1
            return super().sample_pairs(prompts)

    return make_trainer(algorithm, folder, trainer_class=Counting, **OPTIONS | options)


def kill(trainer):
    raise Killed


def assert_same(first, second):
    assert equal(first.model.state_dict(), second.model.state_dict())
    for name in ("loss", "policy/kl_reference", "judge/preference", "completions/mean_length"):
        assert history(first, name)[-4:] == history(second, name)[-4:]


@pytest.mark.parametrize("selection", ["all", "tournament"])
def test_a_round_goes_on_where_it_was_killed(selection, tmp_path):
    """Killed before chunk 7, the third of round 2: two chunks are read, the other two and round 3 are sampled."""
    options = {"pair_selection": selection, "num_generations": 3, "preference_label": "sampled"}
    whole = build("ipo", tmp_path / "whole", **options)
    whole.train()
    killed = build("ipo", tmp_path / "run", at=6, then=kill, **options)
    with pytest.raises(Killed):
        killed.train()
    resumed = build("ipo", tmp_path / "run", **options)
    resumed.train(resume_from_checkpoint=True)
    assert (whole.chunks, killed.chunks, resumed.chunks) == (12, 6, 2 + 4)
    assert_same(resumed, whole)
    assert not (tmp_path / "run" / collector.ROUND_FOLDER).exists()


def test_a_kill_in_the_fit_costs_no_samples(tmp_path):
    """The round's samples are there until the next round: a kill after them samples nothing again."""
    whole = build("comal", tmp_path / "whole")
    whole.train()
    killed = build("comal", tmp_path / "run")
    fit = killed.compute_loss
    killed.compute_loss = lambda *args, **kw: kill(killed) if killed.state.global_step == 6 else fit(*args, **kw)
    with pytest.raises(Killed):
        killed.train()
    resumed = build("comal", tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)  # of step 4, the beginning of round 2
    assert resumed.chunks == 4
    assert_same(resumed, whole)


CHANGES = {
    "nothing": dict,
    "options": lambda: {"temperature": 0.9},
    "length": lambda: {"max_new_tokens": 4},
    "policy": lambda: {"model": build_model(build_tokenizer(chat=False), seed=5)},
    "template": lambda: {"tokenizer": build_tokenizer()},
}


@pytest.mark.parametrize("change", CHANGES)
def test_samples_of_another_policy_are_not_taken(change, tmp_path):
    """Killed behind two chunks and started anew with other options, policy or prompt texts, a run samples its own."""
    killed = build("ipo", tmp_path, at=2, then=kill, save_strategy="no")
    with pytest.raises(Killed):
        killed.train()
    again = build("ipo", tmp_path, save_strategy="no", **CHANGES[change]())
    again.train()
    assert again.chunks == (10 if change == "nothing" else 12)


@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
def test_asked_to_stop_in_a_round(algorithm, tmp_path):
    """Between two chunks a checkpoint is saved; resumed, the run is the undisturbed one and samples the rest."""
    own = {"gradient_accumulation_steps": 4} if algorithm == "nash-md" else {}
    own |= {"save_steps": 100}
    whole = build(algorithm, tmp_path / "whole", **own)
    whole.train()
    stopped = build(algorithm, tmp_path / "run", at=5, then=lambda trainer: trainer.request_stop("SIGTERM"), **own)
    step = 1 if algorithm == "nash-md" else 4
    with pytest.raises(Stopped, match=f"SIGTERM: stopped in a round. A checkpoint of step {step} is in"):
        stopped.train()
    resumed = build(algorithm, tmp_path / "run", **own)
    resumed.train(resume_from_checkpoint=True)
    assert (stopped.chunks, resumed.chunks) == (6, 6)
    assert equal(resumed.model.state_dict(), whole.model.state_dict())


def test_asked_to_stop_in_a_fit(tmp_path):
    """The step is finished, a checkpoint is saved, and `train` returns."""
    whole = build("onpo-two", tmp_path / "whole", save_steps=100)
    whole.train()
    stopped = build("onpo-two", tmp_path / "run", save_steps=100)
    fit = stopped.compute_loss

    def asked(*args, **kwargs):
        if stopped.state.global_step == 5:
            stopped.request_stop("SIGTERM")
        return fit(*args, **kwargs)

    stopped.compute_loss = asked
    stopped.train()
    assert stopped.state.global_step == 6
    resumed = build("onpo-two", tmp_path / "run", save_steps=100)
    resumed.train(resume_from_checkpoint=True)
    assert equal(resumed.model.state_dict(), whole.model.state_dict())


def test_few_samples_are_lists_at_a_time(tmp_path, monkeypatch):
    """Lists of tokens become micro-batches after a few chunks; the round is the same."""
    sizes = []

    def run(folder, chunks):
        monkeypatch.setattr(collector, "CHUNKS_AT_ONCE", chunks)
        trainer = build("ipo", folder, per_device_generation_batch_size=1)
        micro_batches = trainer.collector.micro_batches
        trainer.collector.micro_batches = lambda judged, *labels: (
            sizes.append(len(judged.rows)) or micro_batches(judged, *labels)
        )
        trainer.train()
        return trainer

    run(tmp_path / "few", 3)  # 3 chunks of a prompt, to the next whole micro-batch of 2
    assert sizes == [4, 4] * 3
    sizes.clear()
    run(tmp_path / "many", 100)
    assert sizes == [8] * 3


def test_long_rounds_show_their_progress(tmp_path, capsys, monkeypatch):
    """Prompts that are sampled and judged, and micro-batches that are scored, each with rate and time left."""
    monkeypatch.setattr("trl_nash.trainers.run.reports.reporter.BAR_SECONDS", 0)
    build("ipo", tmp_path, disable_tqdm=False, max_steps=4).train()
    shown = capsys.readouterr().err
    assert "Round 1: sampling and judging:" in shown and "/8 [" in shown and "prompt/s, sampling]" in shown
    assert "prompt/s, judging]" in shown
    assert "Round 1: scoring:" in shown and "micro-batch/s]" in shown


# ---- The file ----


def draw(log: RoundLog, index: int) -> Samples:
    def sample():
        value = int(torch.randint(1000, ()) + np.random.randint(1000) + random.randrange(1000))
        return Samples([[index]], [[[value], [index]]], [(0, 1)])

    return log.draw(sample)


def open_log(folder: Path, key="key", agree=lambda count: count) -> RoundLog:
    return RoundLog(folder / "round" / "0.jsonl", key, agree)


def test_samples_and_random_numbers_are_those_of_the_first_time(tmp_path):
    """Half a line, which a kill has left behind, is drawn again; behind each line the generators stand as before."""
    state = random_state()
    log = open_log(tmp_path)
    first = [draw(log, index) for index in range(4)]
    file = tmp_path / "round" / "0.jsonl"
    text = file.read_text()
    file.write_text(text[: len(text) - 9])
    set_random_state(state)
    log = open_log(tmp_path)
    assert len(log._lines) == 3
    assert [draw(log, index) for index in range(4)] == first
    assert file.read_text() == text


def test_ranks_take_what_all_of_them_have(tmp_path):
    log = open_log(tmp_path)
    first = [draw(log, index) for index in range(3)]
    again = open_log(tmp_path, agree=lambda count: min(count, 1))
    assert draw(again, 0) == first[0] and len(again._lines) == 0


def test_another_key_begins_anew(tmp_path):
    draw(open_log(tmp_path), 0)
    assert open_log(tmp_path, "other")._lines == []
    assert open_log(tmp_path)._lines == []


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    log = open_log(tmp_path)
    first = draw(log, 0)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(RuntimeError, match=r"0.jsonl cannot be written \(No space left on device\). Make room"):
            draw(log, 1)
    assert draw(open_log(tmp_path), 0) == first
