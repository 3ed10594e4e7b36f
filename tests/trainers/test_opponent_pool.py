# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The opponent pool: against games whose truth is known, best models, early stopping, resuming, the arena."""

import json
import math
import shutil
from itertools import combinations

import pytest
import torch
from helpers import CountingJudge, build_copier, equal, make_trainer, prompt_dataset, weights
from tiny import build_model, build_tokenizer
from transformers import EarlyStoppingCallback, TrainerCallback

from trl_nash import OpponentPoolCallback
from trl_nash.algorithms import INITIAL, Policy
from trl_nash.evaluation.arena import Arena, Sampling, read_contestants
from trl_nash.evaluation.arena.report import sentences
from trl_nash.evaluation.pool import PoolGame
from trl_nash.judges import JudgeError
from trl_nash.planning.run import Run
from trl_nash.planning.run.evaluation import pool_calls, pool_samplings
from trl_nash.trainers.run.pool.play import Play
from trl_nash.usage import UsageError


WORDS = "abcdefgh"
PROMPTS = list("abcd")
ROUNDS = {"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1, "max_nan_rate": 1.0}
BY_WORST = {
    "metric_for_best_model": "policy/win_rate_worst",
    "load_best_model_at_end": True,
    "save_strategy": "steps",
    "save_steps": 1,
}


def judge_of(beats):
    """`beats(d)` is P(an answer beats one that is d letters before it); one pair of letters, one verdict."""

    def judge(prompts, first, second):
        distances = [WORDS.index(a) - WORDS.index(b) for a, b in zip(first, second, strict=True)]
        return [beats(d) if d > 0 else 1 - beats(-d) for d in distances]

    judge.symmetric = True
    return judge


CYCLIC = judge_of(lambda d: [0.5, 0.9, 0.1][d % 3])
TRANSITIVE = judge_of(lambda d: 0.8)
FADING = judge_of(lambda d: 0.55 if d == 1 else 0.9)


def copier(tokenizer, shift: int = 0):
    """A model that answers with the letter `shift` places behind the last one of the prompt."""
    model = build_copier(tokenizer)
    answer(model, tokenizer, shift)
    return model


def answer(model, tokenizer, shift: int) -> None:
    ids = tokenizer.convert_tokens_to_ids(list(WORDS))
    embedded = model.get_input_embeddings().weight.detach()
    with torch.no_grad():
        head = torch.zeros_like(model.get_output_embeddings().weight)
        for place, token in enumerate(ids):
            head[ids[(place + shift) % len(ids)]] = 100 * embedded[token]
        model.get_output_embeddings().weight.copy_(head)


class Moves(TrainerCallback):
    """After each round the policy is another one: its answers are `shifts[round]` letters further."""

    def __init__(self, shifts, tokenizer):
        self.shifts, self.tokenizer = shifts, tokenizer

    def on_step_end(self, args, state, control, model=None, **kwargs):
        answer(model, self.tokenizer, self.shifts[state.global_step - 1])


def run_of(shifts, judge, folder, callbacks=(), **options):
    """A trainer whose policy takes a course that is known; every optimizer step is a round, with an evaluation."""
    tokenizer = build_tokenizer(chat=False)
    options = {"opponent_pool_rounds": 1, "max_steps": len(shifts)} | ROUNDS | options
    return make_trainer(
        "ipo",
        folder,
        model=copier(tokenizer),
        tokenizer=tokenizer,
        judge=judge,
        dataset=prompt_dataset(PROMPTS),
        extra={"eval_dataset": prompt_dataset(PROMPTS), "callbacks": [*callbacks, Moves(shifts, tokenizer)]},
        max_new_tokens=1,
        learning_rate=1e-12,
        **options,
    )


def evaluations(trainer) -> list[dict]:
    return [entry for entry in trainer.state.log_history if "eval_loss" in entry]


def pool_metrics(entry: dict) -> dict[str, float]:
    return {name.removeprefix("eval_"): value for name, value in entry.items() if "pool/" in name or "worst" in name}


# ---- Against the truth ----


def test_a_cycle_is_seen(tmp_path):
    """Rock, paper, scissors: each beats the one before in 90 %, and the fourth policy is the start again."""
    trainer = run_of([1, 2, 0], CYCLIC, tmp_path)
    trainer.train()
    first, second, third = map(pool_metrics, evaluations(trainer))
    certain = {"policy/win_rate_worst_se": 0.0, "policy/win_rate_worst_n": 4.0}
    assert first == pytest.approx(
        {"pool/win_rate_start": 0.9, "policy/win_rate_worst": 0.9, "pool/duality_gap": 0, "pool/size": 2} | certain
    )
    assert second == pytest.approx(
        {
            "pool/win_rate_start": 0.1,
            "pool/win_rate_round_1": 0.9,
            "policy/win_rate_worst": 0.1,
            "pool/duality_gap": 0.8,  # each of the three loses .4 more than half, and both players count
            "pool/size": 3,
        }
        | certain,
        abs=1e-6,
    )
    # It is known already, so it is neither sampled nor judged nor put in the pool again.
    pool = trainer.opponent_pool
    assert pool.members == ["start", "round_1", "round_2"] and pool.games["eval"].current == "start"
    assert third["pool/win_rate_round_1"] == pytest.approx(0.1) and third["pool/win_rate_round_2"] == pytest.approx(
        0.9
    )
    (standings,) = pool.save_report().values()
    assert [line.weight.value for line in standings.lines] == pytest.approx([1 / 3] * 3)
    (cycle,) = standings.cycles
    assert set(cycle.policies) == {"start", "round_1", "round_2"} and cycle.strength == pytest.approx(0.4)
    assert "with 4 prompts" in " ".join(sentences(standings))  # which are too few to be sure, though all say the same
    assert {"arena.html", "arena.json", "win_rates-light.svg", "win_rates-dark.svg"} <= {
        path.name for path in (tmp_path / "pool").iterdir()
    }


def test_without_a_cycle_the_best_policy_has_no_gap(tmp_path):
    trainer = run_of([2, 3, 1], TRANSITIVE, tmp_path)
    trainer.train()
    worst = [entry["eval_policy/win_rate_worst"] for entry in evaluations(trainer)]
    assert worst == pytest.approx([0.8, 0.8, 0.2])
    assert all(entry["eval_pool/duality_gap"] == pytest.approx(0) for entry in evaluations(trainer))


def test_win_rates_of_a_policy_that_draws_are_those_of_its_probabilities(tmp_path):
    """
    400 prompts of one answer of one token: the win rates of three policies of a real model, each against each, are
    within four standard errors of `Σ π_i(a) π_j(b) P(a ≻ b)`, whose probabilities are the frozen policies' own.
    """

    def beats(first, second):
        return 0.5 if first == second else [0.5, 0.9, 0.1][(sum(map(ord, first)) - sum(map(ord, second))) % 3]

    def judge(prompts, first, second):
        return [beats(a, b) for a, b in zip(first, second, strict=True)]

    judge.symmetric = True
    tokenizer = build_tokenizer(chat=False)
    trainer = make_trainer(
        "ipo",
        tmp_path,
        tokenizer=tokenizer,
        judge=judge,
        extra={"eval_dataset": prompt_dataset(["c"] * 400)},
        max_new_tokens=1,
        learning_rate=0.05,
        max_steps=2,
        opponent_pool_rounds=1,
        per_device_eval_batch_size=100,
    )
    trainer.train()
    pool = trainer.opponent_pool
    pool.evaluate(trainer.get_eval_dataloader(), "eval")
    p = pool.games["eval"].preferences(pool.members)
    policies = []
    for policy in (INITIAL, Policy(1), Policy(2)):
        with trainer.policies.active(policy) as model, torch.no_grad():
            logits = model(torch.tensor([tokenizer("c").input_ids])).logits[0, -1]
        policies.append(logits.double().softmax(-1))
    texts = tokenizer.batch_decode([[i] for i in range(len(policies[0]))], skip_special_tokens=True)
    game = torch.tensor([[beats(a, b) for b in texts] for a in texts], dtype=torch.float64)
    for i, j in combinations(range(3), 2):
        truth = float(policies[i] @ game @ policies[j])
        error = p[:, i, j].std(ddof=1) / 20
        assert abs(p[:, i, j].mean() - truth) < 4 * error
    assert (policies[0] - policies[2]).abs().max() > 0.05  # they are not all the same


def test_no_pair_is_judged_twice(tmp_path):
    """An evaluation asks for the pairs of the newcomer alone, and the same one again for none."""
    judge = CountingJudge(TRANSITIVE)
    trainer = run_of([1, 2], judge, tmp_path, eval_strategy="no")
    trainer.train()
    pool, judge.calls = trainer.opponent_pool, []
    first = pool.evaluate(trainer.get_eval_dataloader(), "eval")
    pairs = [(p, *sorted(pair)) for call in judge.calls for p, *pair in zip(*list(call.values())[:3], strict=True)]
    assert len(pairs) == len(set(pairs)) == 3 * len(PROMPTS)  # three policies, weights of two of which were kept
    planned = pool_calls(Run(rounds=2, opponent_pool_rounds=1, judge="function", judge_orders=1))
    assert 3 <= planned  # "at most", for each prompt
    judge.calls = []
    assert pool.evaluate(trainer.get_eval_dataloader(), "eval") == first and not judge.calls


def test_a_pool_samples_what_is_planned(tmp_path):
    """An answer of the start, of the second round, which joins the pool, and of the third, which is evaluated."""
    trainer = run_of([2, 3, 1], TRANSITIVE, tmp_path, opponent_pool_rounds=2, eval_steps=3)
    sampled, generate = [], trainer.generate

    def counting(prompts, count, policy=None):
        sampled.extend(prompts * (count == 1))  # two of each to train on
        return generate(prompts, count, policy)

    trainer.generate = counting
    trainer.train()
    planned = pool_samplings(Run(rounds=3, opponent_pool_rounds=2, evaluations=1))
    assert len(sampled) == planned * len(PROMPTS) == 3 * len(PROMPTS)


# ---- The best model, and stopping ----


@pytest.mark.parametrize("name", ["policy/win_rate_worst", "eval_policy/win_rate_worst"])
def test_early_stopping_stops_and_the_best_model_is_loaded(name, tmp_path):
    """
    The second policy beats all others, so two evaluations later the run ends, and it is what is left; the callback
    that stops was there before the pool.
    """
    stopping = EarlyStoppingCallback(early_stopping_patience=2)
    options = BY_WORST | {"metric_for_best_model": name}
    trainer = run_of([2, 3, 1, 0, 0, 0], TRANSITIVE, tmp_path, callbacks=[stopping], **options)
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2
    assert trainer.state.best_metric == pytest.approx(0.8)
    best = copier(trainer._tokenizer, shift=3)
    assert torch.allclose(trainer.model.lm_head.weight, best.lm_head.weight, atol=1e-6)
    assert trainer.evaluate()["eval_policy/win_rate_worst"] == pytest.approx(0.8)
    assert trainer.opponent_pool.games["eval"].current == "round_2"  # by its weights, not by the step


def test_the_best_policy_has_to_beat_newcomers_too(tmp_path):
    """
    Each policy beats all before it, by less and less as the pool grows: a metric that stood still would take the first
    one, which had played the start alone, for the best, and stop.
    """
    stopping = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = run_of(
        [2, 3, 4],
        FADING,
        tmp_path,
        callbacks=[stopping],
        metric_for_best_model="policy/win_rate_worst",
    )
    trainer.train()
    worst = [entry["eval_policy/win_rate_worst"] for entry in evaluations(trainer)]
    assert worst == pytest.approx([0.9, 0.55, 0.55])
    assert trainer.state.global_step == 3 and trainer.state.best_metric == pytest.approx(0.55)
    assert trainer.opponent_pool.games["eval"].best == "round_3"


# ---- Resuming ----


def real_run(folder, lora, judge=None, **options):
    options = {
        "steps_per_generation": 2,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "max_steps": 8,
        "opponent_pool_rounds": 2,
    } | options
    extra = {"eval_dataset": prompt_dataset(["a", "b c", "d"])}
    judge = {} if judge is None else {"judge": judge}
    tokenizer, base = build_tokenizer(chat=False), folder.parent / "base"
    if not base.exists():
        build_model(tokenizer).save_pretrained(base)
        tokenizer.save_pretrained(base)
    model = str(base)
    return make_trainer(
        "onpo-one", folder, model=model, tokenizer=tokenizer, lora=lora, extra=extra, **judge, **options
    )


@pytest.fixture(scope="module", params=[False, True], ids=["full", "lora"])
def whole(request, tmp_path_factory):
    """A run of four rounds, of which every second one joins the pool."""
    trainer = real_run(tmp_path_factory.mktemp("whole") / "run", request.param)
    trainer.train()
    trainer.save_model()
    return trainer, request.param


def test_a_pool_changes_nothing_of_the_training(whole, tmp_path):
    trainer, lora = whole
    alone = real_run(tmp_path / "alone", lora, opponent_pool_rounds=None)
    alone.train()
    assert equal(weights(alone.model), weights(trainer.model))


def test_it_survives_a_kill(whole, tmp_path, monkeypatch):
    """
    Resumed from step 4 (two rounds, one of which has joined), the run samples and judges what it had not, and ends
    with the same weights, answers and verdicts.
    """
    trainer, lora = whole
    source = tmp_path / "checkpoint-4"
    shutil.copytree(f"{trainer.args.output_dir}/checkpoint-4", source)
    sampled, judged = [], []
    sample, add = Play._sample, PoolGame.add
    monkeypatch.setattr(Play, "_sample", lambda self, name, policy: sampled.append(name) or sample(self, name, policy))
    monkeypatch.setattr(PoolGame, "add", lambda self, *verdict: judged.append(verdict[:3]) or add(self, *verdict))
    resumed = real_run(tmp_path / "resumed", lora)
    resumed.train(resume_from_checkpoint=str(source))
    assert sampled == ["round_3", "round_4"] and len(judged) == len(set(judged))
    assert not any({first, second} <= {"start", "round_2"} for first, second, _ in judged)
    assert resumed.opponent_pool.members == trainer.opponent_pool.members == ["start", "round_2", "round_4"]
    assert resumed.opponent_pool.games["eval"].state() == trainer.opponent_pool.games["eval"].state()
    assert equal(weights(resumed.model), weights(trainer.model))
    assert pool_metrics(evaluations(resumed)[-1]) == pool_metrics(evaluations(trainer)[-1])


def test_another_judge_or_other_prompts_play_anew(whole, tmp_path):
    trainer, lora = whole
    state = trainer.opponent_pool.games["eval"].state()
    game = PoolGame.of(json.loads(json.dumps(state)))
    assert game.state() == state
    rows, keys = game.rows, state["keys"]
    assert not game.begin(rows, keys, state["sampled_by"], state["judged_by"]) and game.answers and game.verdicts
    assert game.begin(rows, keys, state["sampled_by"], "another") and game.answers and not game.verdicts
    assert game.begin(rows, keys[::-1], state["sampled_by"], "another") and not game.answers


def test_a_judge_that_fails_loses_nothing(tmp_path):
    """What it has said, and all answers, are in the checkpoint that is saved."""
    judge = CountingJudge()
    trainer = real_run(
        tmp_path / "run", False, judge, max_steps=2, opponent_pool_rounds=1, per_device_eval_batch_size=1
    )
    evaluate, calls = trainer.opponent_pool.evaluate, judge.verdict

    def failing(prompts, first, second):
        if len(judge.calls) > 2:
            raise JudgeError("Its server is gone.")
        return calls(prompts, first, second)

    def play(*args):
        judge.calls, judge.verdict = [], failing
        return evaluate(*args)

    trainer.opponent_pool.evaluate = play
    with pytest.raises(JudgeError, match="Its server is gone. A checkpoint of step 2 is in"):
        trainer.train()
    game = PoolGame.of(json.loads((tmp_path / "run/checkpoint-2/nash/pool.json").read_text())["games"]["eval"])
    assert list(game.answers) == ["start", "round_1"]
    assert len(game.verdicts["round_1", "start"]) == 2  # of three


# ---- The arena ----


def test_the_arena_takes_a_pool_and_what_a_checkpoint_has_frozen(whole, tmp_path):
    """Its policies answer as they did in the run: greedily, token for token, as the trainer's own frozen policies."""
    trainer, lora = whole
    out = trainer.args.output_dir
    contestants = read_contestants([f"{out}/pool", f"then={out}/checkpoint-6/nash"])
    names = [contestant.name for contestant in contestants]
    assert names[:3] == ["start", "round_2", "round_4"]
    assert "then-round_2" in names and "then-round_4" not in names
    assert contestants[0].kind == ("model" if lora else "frozen")  # the start of an adapter is its base model
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ["a", "b c", "d e f"]))
    arena = Arena(
        [f"{out}/pool", f"last={out}"], prompts, tmp_path / "arena", Sampling(temperature=0, max_new_tokens=4)
    )
    arena.sample()
    for name, policy in {"start": INITIAL, "round_2": Policy(2), "round_4": Policy(4)}.items():
        with trainer.policies.active(policy) as model:
            for record in arena.answers[name].records.values():
                ids = torch.tensor([trainer._tokenizer(record["prompt"]).input_ids])
                found = model.generate(ids, do_sample=False, max_new_tokens=4)[0, ids.shape[1] :]
                assert record["completion"] == trainer._tokenizer.decode(found, skip_special_tokens=True)
    answers = {name: [r["completion"] for r in found.records.values()] for name, found in arena.answers.items()}
    assert answers["round_4"] == answers["last"] != answers["start"]


def test_what_is_no_pool_is_said(tmp_path, whole):
    trainer, _ = whole
    pool = tmp_path / "pool"
    shutil.copytree(f"{trainer.args.output_dir}/pool", pool)
    with pytest.raises(UsageError, match="no folder above it has a model: save the trainer's model"):
        read_contestants([str(pool)])
    (pool / "policies" / "round_2-00000.safetensors").unlink()
    with pytest.raises(UsageError, match="round_2-00000.safetensors is missing: copy the whole folder"):
        read_contestants([str(pool)])
    (pool / "members.json").write_text("{")
    with pytest.raises(UsageError, match="members.json is damaged: name the folder"):
        read_contestants([str(pool)])


# ---- Bad input ----


def test_bad_input_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="`opponent_pool_rounds` must be at least 1, got 0"):
        make_trainer("ipo", tmp_path, opponent_pool_rounds=0)
    with pytest.raises(ValueError, match="`opponent_pool_rounds=1` plays in evaluations, and no prompts are held out"):
        make_trainer("ipo", tmp_path, opponent_pool_rounds=1)
    with pytest.raises(ValueError, match="give the trainer an `eval_dataset`"):
        OpponentPoolCallback(make_trainer("ipo", tmp_path))
    options = {"extra": {"eval_dataset": prompt_dataset(["a"])}, "max_steps": 1}
    trainer = make_trainer("ipo", tmp_path, **options, metric_for_best_model="policy/win_rate_worst")
    with pytest.raises(ValueError, match="needs an opponent pool: set `opponent_pool_rounds`"):
        trainer.train()
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        OpponentPoolCallback(trainer, rounds=0)
    trainer.add_callback(OpponentPoolCallback(trainer))
    with pytest.raises(ValueError, match="has an opponent pool: leave `opponent_pool_rounds` or this callback out"):
        OpponentPoolCallback(trainer)
    trainer.train()
    assert trainer.opponent_pool.members == ["start", "round_1"]
    assert trainer.opponent_pool.save_report() == {}  # of one prompt there are no intervals


def test_a_judge_without_opinion_gives_no_metric(tmp_path):
    """No figure is made up, no policy is the best, and the report shows the hole."""
    never = judge_of(lambda d: math.nan)
    trainer = run_of([1, 2], never, tmp_path, **BY_WORST)
    trainer.train()
    assert [pool_metrics(entry) for entry in evaluations(trainer)] == [{"pool/size": 2.0}, {"pool/size": 3.0}]
    assert trainer.state.best_metric is None
    assert any("The judge had no opinion in an evaluation" in message for message in trainer.reporter.said)
    (standings,) = trainer.opponent_pool.save_report().values()
    assert "Never compared" in " ".join(sentences(standings))
    assert trainer.opponent_pool.games["eval"].missing(["start", "round_1"], 0) == []  # it was asked, and is not again


def test_the_start_alone_wins_half_of_the_time(tmp_path):
    trainer = run_of([1], TRANSITIVE, tmp_path)
    expected = {"policy/win_rate_worst": 0.5, "pool/duality_gap": 0.0, "pool/size": 1.0}
    assert pool_metrics(trainer.evaluate()) == expected
