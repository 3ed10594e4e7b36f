# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges in a run: what is logged of them, and that no judgement is lost when they or the run fail."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import ALGORITHMS, equal, history, make_trainer, prompt_dataset, weights
from recorded_judge import RecordedJudge
from tiny import build_tokenizer

from trl_nash import PairwiseJudge
from trl_nash.judges import as_judge
from trl_nash.judges.base import Abstained, JudgeError
from trl_nash.rounds.batch import Samples
from trl_nash.rounds.pairings import pairing_of
from trl_nash.trainers.run.judging import Judging


# Rounds of 4 prompts in chunks of 2, two optimizer steps each; two rounds an epoch.
OPTIONS = {"learning_rate": 0.05, "steps_per_generation": 2, "max_steps": 8}


# ---- Metrics ----


class Opinionated(PairwiseJudge):
    """The first position wins with .8; refuses prompts that end with "d", and finds those with "f" too long."""

    def judge(self, prompts, first, second):
        reasons = {"d": Abstained("refused"), "f": Abstained("too long")}
        return [reasons.get(prompt[-1], 0.8) for prompt in prompts]


def answer_differently(trainer):
    """The completions of a prompt are "a", "a b", "a b c" ...: no two are equal, the later is the longer."""
    encode = trainer._tokenizer

    def generate(prompts, count, policy=None):
        rows = [encode("a b c d e"[: 2 * k + 1] + " <eos>")["input_ids"] for k in range(count)]
        return [encode(prompt)["input_ids"] for prompt in prompts], [rows] * len(prompts)

    trainer.generate = generate


def test_metrics_of_the_judge(tmp_path):
    """Of four prompts one is refused and one too long; .8 in both orders is .5 with a bias of .6."""
    prompts = ["a", "d", "f", "b"]
    trainer = make_trainer(
        "ipo",
        tmp_path,
        judge=Opinionated(),
        dataset=prompt_dataset(prompts),
        extra={"eval_dataset": prompt_dataset(prompts)},
        steps_per_generation=2,
        gradient_accumulation_steps=2,
        max_steps=1,
    )
    answer_differently(trainer)
    trainer.train()
    expected = {
        "judge/abstained": 0.5,
        "judge/abstained/refused": 0.25,
        "judge/abstained/too_long": 0.25,
        "judge/position_bias": 0.6,
        "judge/cached": 0.0,
        "judge/preference": 0.5,
        "judge/longer_wins": 0.5,
    }
    logged = trainer.state.log_history[0]
    assert {name: value for name, value in logged.items() if name.startswith("judge/")} == pytest.approx(expected)
    evaluated = trainer.evaluate()
    for name, value in expected.items():
        assert evaluated[f"eval_{name}"] == pytest.approx(value)


def test_longer_wins(tmp_path):
    """The second of the two completions is longer, and wins with .9."""

    def judge(prompts, first, second):
        return [0.9 if len(a) > len(b) else 0.1 for a, b in zip(first, second, strict=True)]

    trainer = make_trainer("ipo", tmp_path, judge=judge, max_steps=1)
    answer_differently(trainer)
    trainer.train()
    assert history(trainer, "judge/longer_wins") == pytest.approx([0.9])
    assert history(trainer, "judge/position_bias") == pytest.approx([0.0])
    assert history(trainer, "judge/preference") == pytest.approx([0.1])


def test_abstentions_of_reward_functions_have_a_reason_too(tmp_path):
    def reward(prompts, completions):
        return [None if prompt == "d" else 1.0 for prompt in prompts]

    trainer = make_trainer(
        "ipo",
        tmp_path,
        judge=None,
        dataset=prompt_dataset(["a", "d"]),
        extra={"reward_funcs": reward},
        max_steps=1,
    )
    answer_differently(trainer)
    trainer.train()
    assert history(trainer, "judge/abstained/no_opinion") == history(trainer, "judge/abstained") == [0.5]
    assert history(trainer, "judge/position_bias") == history(trainer, "judge/cached") == []


# ---- Nothing is lost ----


def run(algorithm, folder, cache=None, fails_after=None, resume=None, **options):
    judge = RecordedJudge(cache, fails_after)
    trainer = make_trainer(algorithm, folder, judge=judge, **OPTIONS | options)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, judge


def last_checkpoint(folder: Path) -> Path:
    return max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


@pytest.mark.parametrize(
    "algorithm, done, step",
    [
        ("ipo", 0, 0),  # nothing was judged yet
        ("ipo", 0.1, 0),  # in the first round
        ("ipo", 0.3, 2),  # in the second
        ("ipo", 0.6, 4),  # in the first round of the second epoch
        ("comal", 0.9, 6),
        ("onpo-two", 0.6, 4),
    ],
)
def test_a_judge_that_fails_stops_the_run_with_a_checkpoint(algorithm, done, step, tmp_path):
    """
    The judge fails in the middle of a round, and once more after it was resumed. Together the three runs ask each
    question of the run that never failed once, and end in the same weights, bitwise.
    """
    whole, never_failed = run(algorithm, tmp_path / "whole", tmp_path / "another.sqlite")
    questions = never_failed.asked
    cache, folder, asked, resume = tmp_path / "cache.sqlite", tmp_path / "run", [], None
    for fails_after in (int(done * len(questions)), 2):
        judge = RecordedJudge(cache, fails_after)
        trainer = make_trainer(algorithm, folder, judge=judge, **OPTIONS)
        with pytest.raises(JudgeError, match=r"^The server at 127.0.0.1 is gone\. A checkpoint of step \d is in"):
            trainer.train(resume_from_checkpoint=resume)
        asked += judge.asked
        resume = str(last_checkpoint(folder))
        if algorithm != "onpo-two":
            assert Path(resume).name == f"checkpoint-{step}"
    resumed, judge = run(algorithm, folder, cache, resume=resume)
    asked += judge.asked
    assert sorted(asked) == sorted(questions)
    assert equal(weights(resumed.model), weights(whole.model))
    assert history(resumed, "loss") == history(whole, "loss")
    rounds = history(resumed, "judge/cached")
    assert len(asked) == len(judge.asked) or max(rounds) > 0


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if name.startswith("nash")])
def test_on_policy_methods_resume_too(algorithm, tmp_path):
    options = {"steps_per_generation": 1, "max_steps": 3, "save_strategy": "steps", "save_steps": 1}
    whole, never_failed = run(algorithm, tmp_path / "whole", tmp_path / "another.sqlite", **options)
    cache, folder = tmp_path / "cache.sqlite", tmp_path / "run"
    half = len(never_failed.asked) // 2
    with pytest.raises(JudgeError):
        run(algorithm, folder, cache, fails_after=half, **options)
    resumed, judge = run(algorithm, folder, cache, resume=str(last_checkpoint(folder)), **options)
    assert len(judge.asked) == len(never_failed.asked) - half
    assert equal(weights(resumed.model), weights(whole.model))


def test_a_judge_that_fails_is_not_asked_again(tmp_path):
    """The rest of the round is sampled, for other processes may wait in it; each further question would fail too."""
    judge = RecordedJudge(None, fails_after=0)
    trainer = make_trainer("ipo", tmp_path, judge=judge, **OPTIONS)
    with pytest.raises(JudgeError):
        trainer.train()
    assert judge.failures == 1


def test_a_judge_that_fails_in_evaluation(tmp_path):
    judge = RecordedJudge(None, fails_after=0)
    trainer = make_trainer("ipo", tmp_path, judge=judge, extra={"eval_dataset": prompt_dataset()}, **OPTIONS)
    with pytest.raises(JudgeError, match=r"^The server at 127.0.0.1 is gone\.$"):
        trainer.evaluate()
    judge.fails_after = math.inf
    assert trainer.evaluate()["eval_judge/abstained"] == 0.0  # it has forgotten the failure


def test_a_judge_that_abstains_too_often_loses_no_verdict_either(tmp_path):
    """Three of four prompts get no verdict; the one of the fourth is not asked for again."""

    class Silent(RecordedJudge):
        def judge_each(self, prompts, first, second):
            for row, answer in super().judge_each(prompts, first, second):
                yield row, answer if prompts[row] == "g" else Abstained("server")

    cache = tmp_path / "cache.sqlite"
    judge = Silent(cache)
    with pytest.raises(RuntimeError, match=r"\d of the 8 pairs of round 1 have no verdict"):
        make_trainer("ipo", tmp_path, judge=judge, **OPTIONS | {"steps_per_generation": 4}).train()
    kept = [question for question in judge.asked if question[0] == "g"]
    resumed = RecordedJudge(cache)
    trainer = make_trainer("ipo", tmp_path, judge=resumed, **OPTIONS | {"steps_per_generation": 4})
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-0"))
    assert kept and not set(kept) & set(resumed.asked)
    assert set(judge.asked) - set(kept) <= set(resumed.asked)


def launch(script: str, *arguments, processes: int = 0) -> subprocess.CompletedProcess:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes else []
    return subprocess.run(
        [sys.executable, *launcher, str(Path(__file__).with_name(script)), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_a_run_killed_in_the_middle_of_a_round_asks_only_for_what_is_missing(tmp_path):
    """SIGKILL while the judge answers, in the second of four rounds; resumed from the end of the first."""
    options = {"save_strategy": "steps", "save_steps": 1}
    whole, never_killed = run("ipo", tmp_path / "whole", tmp_path / "another.sqlite", **options)
    count = len(never_killed.asked)
    killed_at = count // 4 + 3
    killed = launch("recorded_judge.py", tmp_path, killed_at)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    checkpoint = last_checkpoint(tmp_path / "run")
    assert checkpoint.name == "checkpoint-2"
    resumed, judge = run("ipo", tmp_path / "run", tmp_path / "cache.sqlite", resume=str(checkpoint), **options)
    assert len(judge.asked) == count - killed_at
    assert sorted(judge.asked) == sorted(never_killed.asked[killed_at:])
    assert equal(weights(resumed.model), weights(whole.model))


def test_two_processes(tmp_path):
    """One rank's judge fails: both stop with its sentence and one checkpoint. Reasons of one rank count for all."""
    for _ in range(2):  # gloo may abort when it leaves
        process = launch("judge_of_two.py", tmp_path, processes=2)
        if (tmp_path / "result.json").is_file():
            break
    else:
        raise AssertionError(process.stderr[-4000:])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["processes"] == 2 and result["wrapped"] == "DistributedDataParallel"
    sentence = f"Rank 1 has no server. A checkpoint of step 1 is in {tmp_path / 'out'}."
    assert result["errors"] == [sentence, sentence]
    assert (tmp_path / "out" / "checkpoint-1").is_dir()
    (logged,) = [entry for entry in result["log"] if "loss" in entry]
    assert logged["judge/abstained"] == logged["judge/abstained/server"] == pytest.approx(0.25)


def test_a_pair_is_asked_once_in_a_round():
    """By all waves of a knock-out, whatever was answered: two completions read the same, and a dialogue failed."""
    asked = []

    def silent(prompts, first, second):
        asked.extend(zip(first, second, strict=True))
        return [None] * len(first)

    silent.symmetric = True
    args = SimpleNamespace(strip_thinking=False, pairing=pairing_of("tournament"), num_generations=3, seed=0)
    judging = Judging(as_judge(silent), args, build_tokenizer(), lambda: SimpleNamespace(global_step=0))
    said = [[{"role": "assistant", "content": text}] for text in ("a", "b", "b")]
    ids = [[[5], [6], [6]]]
    for endings in (["over"] * 3, ["over", "user", "over"]):
        asked.clear()
        judging.verdicts([{"prompt": "c"}], Samples([[7]], ids, turns=[said], endings=[endings]))
        assert asked == [(said[0], said[1])]
