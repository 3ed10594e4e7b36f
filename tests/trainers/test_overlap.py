# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A judge that waits is asked while the next completions are sampled: nothing else about a run changes."""

import signal
import threading

import pytest
from helpers import equal, favours_a, history, make_trainer, prompt_dataset, weights
from waiting import PATIENCE

from trl_nash import JudgeError
from trl_nash.trainers.run import judging
from trl_nash.trainers.run.stops import Stopped


PROMPTS = ["a", "b c", "c d e", "d", "e f", "f g h", "g", "h a"]
ROUNDS = {"dataset": prompt_dataset(PROMPTS), "steps_per_generation": 4, "num_train_epochs": 2, "learning_rate": 0.05}


class WaitingJudge:
    """Says `favours_a`, and what it saw: the chunks, and who was at work."""

    symmetric = True

    def __init__(self, waits: bool, fails_at: int | None = None):
        self.waits = waits
        self.fails_at = fails_at
        self.seen = []
        self.threads = set()

    def __call__(self, prompts, first, second):
        self.seen.append((list(prompts), list(first), list(second)))
        self.threads.add(threading.current_thread() is threading.main_thread())
        if len(self.seen) == self.fails_at:
            raise JudgeError("The server is gone.")
        return favours_a(prompts, first, second)


def run(tmp_path, waits: bool, algorithm="comal", judge=None, **options):
    judge = judge or WaitingJudge(waits)
    trainer = make_trainer(algorithm, tmp_path / str(waits), judge=judge, **ROUNDS | options)
    trainer.train()
    return trainer, judge


@pytest.mark.parametrize(
    "algorithm, options",
    [
        ("comal", {}),
        ("nash-md", {"gradient_accumulation_steps": 4}),
        ("ipo", {"pair_selection": "tournament", "num_generations": 4}),
        ("onpo-two", {"per_device_generation_batch_size": 3}),
    ],
)
def test_a_run_is_the_same(algorithm, options, tmp_path):
    """The same questions in the same order, the same metrics, the same weights bitwise, from another thread."""
    runs = [run(tmp_path, waits, algorithm, **options) for waits in (False, True)]
    (one, asked), (other, asked_beside) = runs
    assert asked.seen == asked_beside.seen
    assert asked.threads == {True} and asked_beside.threads == {False}
    assert equal(weights(one.model), weights(other.model))
    for metric in ("loss", "judge/preference", "judge/longer_wins", "completions/mean_length", "judge/abstained"):
        assert history(one, metric) == history(other, metric)


def test_the_next_completions_are_sampled_while_the_judge_has_these(tmp_path):
    """The judge answers about a chunk only when the next one has been sampled (or there is none)."""
    sampled, judged = [], []
    more = threading.Condition()

    def judge(prompts, first, second):
        with more:
            judged.append(len(prompts))
            place, last = len(judged), len(judged) % 4 == 0
            # Without another chunk sampled this would wait for ever: the limit is for a test that fails.
            assert last or more.wait_for(lambda: len(sampled) > place, timeout=600)
        return favours_a(prompts, first, second)

    judge.symmetric = judge.waits = True
    trainer = make_trainer("ipo", tmp_path, judge=judge, **ROUNDS)
    sample_pairs = trainer.sample_pairs

    def sample(prompts):
        samples = sample_pairs(prompts)
        with more:
            sampled.append(len(prompts))
            more.notify_all()
        return samples

    trainer.sample_pairs = sample
    trainer.train()
    assert len(sampled) == len(judged) == 8


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("fails_at", [1, 3, 4])
def test_a_judge_that_fails_stops_the_run_as_it_would_alone(waits, fails_at, tmp_path):
    """Wherever in the round it fails, it is asked no more, and the run stops with a checkpoint of the step before."""
    judge = WaitingJudge(waits, fails_at=fails_at)
    with pytest.raises(JudgeError, match=r"The server is gone. A checkpoint of step 0 is in"):
        run(tmp_path, waits, judge=judge)
    assert len(judge.seen) == fails_at


@pytest.mark.parametrize("waits", [False, True])
def test_an_error_of_the_judge_is_raised(waits, tmp_path):
    """Also from its own thread."""

    def judge(prompts, first, second):
        raise ZeroDivisionError("of the user's own")

    judge.waits = waits
    trainer = make_trainer("ipo", tmp_path, judge=judge, **ROUNDS)
    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        trainer.train()
    trainer.judge.function = favours_a  # and the next run knows nothing of it
    assert trainer.train().global_step == 8


@pytest.mark.parametrize("label", ["soft", "sampled"])
def test_labels_do_not_depend_on_when_verdicts_come(label, tmp_path):
    """12 chunks, which are more than are kept at once: the labels of the first are drawn while others are sampled."""
    prompts = prompt_dataset(PROMPTS + PROMPTS[:4])
    options = {"dataset": prompts, "per_device_train_batch_size": 1, "steps_per_generation": 12, "max_steps": 24}
    (one, asked), (other, same) = (
        run(tmp_path, waits, "ipo", preference_label=label, **options) for waits in (False, True)
    )
    assert asked.seen == same.seen and equal(weights(one.model), weights(other.model))


def test_a_failure_that_a_stop_came_before_is_forgotten(tmp_path):
    """The judge fails at the first chunk and the run is stopped at the second: the next run asks it again."""
    judge = WaitingJudge(True, fails_at=1)
    trainer = make_trainer("ipo", tmp_path, judge=judge, **ROUNDS)
    sample_pairs = trainer.sample_pairs

    def sample(prompts):
        trainer.request_stop("A test")
        return sample_pairs(prompts)

    trainer.sample_pairs = sample
    with pytest.raises(Stopped):
        trainer.train()
    trainer.sample_pairs = sample_pairs
    assert trainer.stopped and trainer.train().global_step == 8 and not trainer.stopped


def test_ctrl_c_while_a_slow_judge_is_asked_is_ctrl_c(tmp_path, monkeypatch):
    """It is not waited for longer than promised, and the interrupt is what the caller gets."""
    monkeypatch.setattr(judging, "LONGEST_FAREWELL", 0.01)
    asked, over = threading.Event(), threading.Event()

    def judge(prompts, first, second):
        asked.set()
        assert over.wait(PATIENCE)
        return favours_a(prompts, first, second)

    judge.waits = True
    trainer = make_trainer("ipo", tmp_path, judge=judge, **ROUNDS)
    sample_pairs, sampled = trainer.sample_pairs, []

    def sample(prompts):
        sampled.append(prompts)
        if len(sampled) == 2:
            assert asked.wait(PATIENCE)
            signal.raise_signal(signal.SIGINT)
        return sample_pairs(prompts)

    trainer.sample_pairs = sample
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    over.set()


def test_a_stop_waits_for_no_more_than_what_was_asked(tmp_path):
    """Asked to stop while it judges, a run stops before the next generation; what was judged is judged once."""
    judge = WaitingJudge(True)
    trainer = make_trainer("ipo", tmp_path, judge=judge, save_strategy="steps", save_steps=4, **ROUNDS)
    sample_pairs, sampled = trainer.sample_pairs, []

    def sample(prompts):
        sampled.append(prompts)
        if len(sampled) == 2:
            trainer.request_stop("A test")
        return sample_pairs(prompts)

    trainer.sample_pairs = sample
    with pytest.raises(Stopped, match="A test: stopped in a round. A checkpoint of step 0 is in"):
        trainer.train()
    assert len(sampled) == 2 and len(judge.seen) <= 2
