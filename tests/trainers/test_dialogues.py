# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Trainers on whole dialogues: what reaches the loss against the model's own forward, judges, failures, resuming."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import ALGORITHMS, equal, history, make_trainer, prompt_dataset
from tiny import build_model, build_tokenizer

from trl_nash.algorithms import INITIAL
from trl_nash.evaluation.pool import PoolGame
from trl_nash.judges.transcript import Transcript
from trl_nash.rounds.batch import IGNORED, Samples, collate


CHAT = build_tokenizer()
OPTIONS = {"max_new_tokens": 12, "max_length": 120, "max_turns": 3, "num_generations": 2}


def sceptic(messages):
    """Asks on, until the policy has said "a"."""
    return None if "a" in messages[-1]["content"].split() else f"no {messages[0]['content']}"


def favours_talk(prompts, first, second):
    """P(first ≻ second) = sigmoid of how many more words the policy says in it, of messages."""
    scores = [
        [sum(len(m["content"].split()) for m in turns if m["role"] == "assistant") for turns in side]
        for side in (first, second)
    ]
    return [1 / (1 + math.exp(j - i)) for i, j in zip(*scores, strict=True)]


favours_talk.symmetric = True


def shout(word: str) -> str:
    """
    Says a word aloud.

    Args:
        word: which one.

    Returns:
        The word.
    """
    return f"{word}!"


def talker(tokenizer=CHAT):
    """A tiny model whose turns end: about every third token is <eos>, and the others are anything."""
    model = build_model(tokenizer)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
        model.lm_head.bias[tokenizer.eos_token_id] = 2.5
    return model


def build(algorithm, folder, **options):
    extra = {"user": sceptic} | options.pop("extra", {})
    defaults = {"tokenizer": build_tokenizer(), "model": talker(), "judge": favours_talk, **OPTIONS}
    return make_trainer(algorithm, folder, extra=extra, **defaults | options)


def collected(trainer, count=2):
    trainer.policies.ensure_initial()
    rows = [trainer.train_dataset[k] for k in range(count)]
    (judged,) = trainer.collector.collect(rows)
    return judged, trainer.collector.micro_batches(judged)


# ---- What reaches the loss ----


@pytest.mark.parametrize("algorithm", [*ALGORITHMS])
def test_log_probs_are_the_models_own_at_the_policys_own_tokens(algorithm, tmp_path):
    """Of every method: the scorer gives log_softmax of the model's forward there, and 0 at what others said."""
    trainer = build(algorithm, tmp_path, temperature=0.7)
    judged, batches = collected(trainer)
    trained = trainer.args.num_generations
    scored = torch.cat([trainer.score(trainer.model, batch).detach() for batch in batches], dim=1)
    assert len(batches) == 1
    rows = [
        (prompt, ids, mask)
        for prompt, own, masks in zip(
            judged.samples.prompt_ids, judged.samples.completion_ids, judged.samples.masks, strict=True
        )
        for ids, mask in list(zip(own, masks, strict=True))[:trained]
    ]
    assert any(0 in mask for _, _, mask in rows)  # somebody else has spoken
    for found, (prompt, ids, mask) in zip(scored, rows, strict=True):
        logits = trainer.model(torch.tensor([prompt + ids])).logits[0].double() / 0.7
        truth = logits.log_softmax(-1)
        expected = torch.zeros(len(found), dtype=torch.float64)
        for place, (token, mine) in enumerate(zip(ids, mask, strict=True)):
            if mine:
                expected[len(prompt) + place - 1] = truth[len(prompt) + place - 1, token]
        torch.testing.assert_close(found.double(), expected, atol=2e-5, rtol=1e-5)


def test_the_loss_is_that_of_the_masked_log_ratios(tmp_path):
    """IPO's loss by hand: sums over the policy's own tokens, against a start that has moved away."""
    trainer = build("ipo", tmp_path, step_size=2.0)
    judged, (batch,) = collected(trainer)
    start = trainer.score(trainer.model, batch).detach()
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    (batch,) = trainer.scorer.centre(trainer.fit, [batch], trainer.live, 0, {})
    import dataclasses

    batch = dataclasses.replace(batch, centre_logps=start)
    loss = trainer.compute_loss(trainer.model, batch).item()
    h = []
    for prompt, own, masks in zip(
        judged.samples.prompt_ids, judged.samples.completion_ids, judged.samples.masks, strict=True
    ):
        for ids, mask in zip(own, masks, strict=True):
            logps = trainer.model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
            places = [len(prompt) + place - 1 for place, mine in enumerate(mask) if mine]
            h.append(sum(logps[place, (prompt + ids)[place + 1]].item() for place in places))
    h = np.array(h).reshape(2, 2) - start.sum(-1).view(2, 2).numpy()
    target = 2.0 * (judged.preference[:, 0].numpy() - 0.5)
    assert loss == pytest.approx(np.mean((h[:, 0] - h[:, 1] - target) ** 2), rel=1e-4)


def test_masks_by_hand():
    """Labels are the policy's own tokens; a mask of ones is the batch without a mask, bitwise."""
    masked = collate([[1, 2]], [[[3, 4, 5, 6]]], torch.zeros(1, 0, 2), torch.zeros(1, 0), 0, masks=[[[1, 0, 0, 1]]])
    assert masked.labels.tolist() == [[IGNORED, IGNORED, 3, IGNORED, IGNORED, 6]]
    plain = collate([[1, 2]], [[[3, 4, 5, 6]]], torch.zeros(1, 0, 2), torch.zeros(1, 0), 0)
    ones = collate([[1, 2]], [[[3, 4, 5, 6]]], torch.zeros(1, 0, 2), torch.zeros(1, 0), 0, masks=[[[1] * 4]])
    assert all(torch.equal(a, ones.tensors[name]) for name, a in plain.tensors.items())
    # Dialogues that begin differently have no prompt in common: each log-prob stays at its token all the same.
    apart = collate([[], [1]], [[[3, 4, 5]], [[3, 4]]], torch.zeros(2, 0, 2), torch.zeros(2, 0), 0,
                    [[[0.0, -1.0, -2.0]], [[0.0, -3.0]]], masks=[[[0, 1, 1]], [[0, 1]]])  # fmt: skip
    assert apart.sampled_logps.tolist() == [[-1.0, -2.0], [0.0, -3.0]]
    samples = Samples([[1], [2]], [[[3], [4]], [[5], [6]]], [(0, 1)], None, [[[1], [0]], [[1], [1]]])
    assert Samples.together(samples.split()) == samples and samples.lengths == [[1, 0], [1, 1]]


@pytest.mark.parametrize("algorithm", ["ipo", "onpo-two", "nash-md"])
def test_one_turn_is_training_without_dialogues_bitwise(algorithm, tmp_path):
    """With one turn the user is never asked: the same tokens, losses and weights, to the last bit."""

    def judge(prompts, first, second):
        texts = [
            [turns if isinstance(turns, str) else turns[0]["content"] for turns in side] for side in (first, second)
        ]
        return [float(len(a) > len(b)) if len(a) != len(b) else 0.5 for a, b in zip(*texts, strict=True)]

    judge.symmetric = True
    runs = []
    for number, extra in enumerate([{"user": None}, {"user": sceptic}]):
        turns = {"max_turns": None if number == 0 else 1}
        trainer = build(algorithm, tmp_path / str(number), judge=judge, max_steps=3, extra=extra, **turns)
        trainer.train()
        runs.append(trainer)
    assert history(runs[0], "loss") == history(runs[1], "loss")
    assert equal(runs[0].model.state_dict(), runs[1].model.state_dict())
    assert set(history(runs[1], "rollouts/turns")) == {1.0}


# ---- Whole runs ----


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """COMAL on dialogues, with an evaluation, judged by a judge that keeps what it sees."""
    seen = []

    def judge(prompts, first, second):
        seen.extend(zip(prompts, first, second, strict=True))
        return favours_talk(prompts, first, second)

    judge.symmetric = True
    folder = tmp_path_factory.mktemp("run")
    extra = {"eval_dataset": prompt_dataset(["a", "b"])}
    trainer = build("comal", folder, judge=judge, max_steps=3, extra=extra, log_completions=True, learning_rate=0.05)
    trainer.train()
    return trainer, seen, trainer.evaluate()


def test_a_judge_sees_whole_dialogues_as_messages(run):
    _, seen, _ = run
    assert any(len(first) > 1 for _, first, _ in seen)
    for prompt, *sides in seen:
        for turns in sides:
            assert [m["role"] for m in turns] == ["assistant", "user", "assistant", "user", "assistant"][: len(turns)]
            assert turns[-1]["role"] == "assistant"
            assert all(m["content"] == f"no {prompt}" for m in turns if m["role"] == "user")


def test_what_a_run_says_of_its_dialogues(run):
    trainer, _, evaluation = run
    for name in ("rollouts/turns", "rollouts/other_tokens", "rollouts/max_turns", "rollouts/failed"):
        assert len(history(trainer, name)) == 3
    assert all(1 <= turns <= 3 for turns in history(trainer, "rollouts/turns"))
    assert 0 <= evaluation["eval_policy/win_rate_reference"] <= 1 and "eval_rollouts/turns" in evaluation
    # Lengths are the policy's own: three turns of twelve tokens at most.
    assert all(length <= 36 for length in history(trainer, "completions/mean_length"))
    assert history(trainer, "fit/r2")


def test_the_start_of_the_policy_can_be_the_user(tmp_path):
    """It speaks while the live policy is trained, and its weights are back in place when it has spoken."""
    trainer = build("onpo-two", tmp_path, extra={"user": "initial"}, max_steps=2, max_length=240, max_nan_rate=1.0)
    trainer.policies.ensure_initial()
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    judged, _ = collected(trainer)
    assert equal(before, trainer.model.state_dict())
    assert any(m["role"] == "user" for own in judged.samples.turns for turns in own for m in turns)
    trainer.train()
    assert trainer.policies.resolve(INITIAL) in trainer.policies and len(history(trainer, "rollouts/turns")) == 1


@pytest.mark.parametrize("continuous", [True])
def test_continuous_batching_plays_dialogues(continuous, tmp_path):
    trainer = build("ipo", tmp_path, max_steps=1, use_transformers_continuous_batching=continuous)
    trainer.train()
    assert history(trainer, "rollouts/turns")[0] > 1


# ---- Failures and resuming ----


def test_a_failed_rollout_abstains_and_is_counted(tmp_path):
    """Of the pairs of three completions only the one of the two that came to an end is judged."""
    asked, failed = [], set()

    def user(messages):
        if messages[0]["content"] == "b c" and not failed:
            failed.add(1)
            raise TimeoutError("slow")
        return None

    def judge(prompts, first, second):
        asked.extend(prompts)
        return [0.75] * len(prompts)

    judge.symmetric = True
    trainer = build("ipo", tmp_path, extra={"user": user}, judge=judge, num_generations=3)
    judged, (batch,) = collected(trainer)
    (failing,) = [own for own in judged.samples.endings if "user" in own]
    assert sorted(failing) == ["over", "over", "user"]
    row = judged.samples.endings.index(failing)
    k = failing.index("user")
    abstains = [k in pair for pair in judged.pairs[row].tolist()]
    assert judged.preference[row].isnan().tolist() == abstains and not judged.preference[1 - row].isnan().any()
    assert asked.count("b c") <= 1
    metrics = trainer.reporter.metrics.flush()
    assert metrics["rollouts/failed"] == metrics["rollouts/failed/user"] == pytest.approx(1 / 6)
    assert metrics["judge/abstained/user"] == pytest.approx(2 / 6)
    loss = trainer.compute_loss(trainer.model, trainer.scorer.centre(trainer.fit, [batch], trainer.live, 1, {})[0])
    assert torch.isfinite(loss)


def test_a_user_that_is_gone_ends_the_run_with_a_checkpoint(tmp_path):
    """And is named: the judge, which abstains on the pairs that it sees, is not to blame for the others."""

    def gone(messages):
        if messages[0]["content"] != "a":
            raise ConnectionError
        return None

    def silent(prompts, first, second):
        return [None] * len(prompts)

    trainer = build("ipo", tmp_path, judge=silent, extra={"user": gone}, max_steps=2)
    with pytest.raises(RuntimeError) as error:
        trainer.train()
    assert "2 of the 2 pairs of round 1 have no verdict, more than `max_nan_rate` (0.5) allows: " in str(error.value)
    assert "the judge abstained on 1 and a dialogue of 1 failed (user 1). See why, then" in str(error.value)


class Killed(BaseException):
    pass


def test_a_kill_in_the_middle_of_a_dialogue_repeats_its_chunk_only(tmp_path):
    """Killed while the third of four chunks is played: two are read, and the run is the undisturbed one."""
    options = {
        "dataset": prompt_dataset(["a", "b c", "c d e", "d", "e f", "f g h", "g", "h a"]),
        "steps_per_generation": 4,
        "num_train_epochs": 1,
        "learning_rate": 0.05,
    }
    whole = build("ipo", tmp_path / "whole", **options)
    whole.train()
    chunks = []

    class Counting(ALGORITHMS["ipo"][0]):
        def sample_pairs(self, prompts):
            chunks.append(len(prompts))
            return super().sample_pairs(prompts)

    def dying(messages):
        if len(chunks) == 3:
            raise Killed
        return sceptic(messages)

    dying.__qualname__ = sceptic.__qualname__
    killed = build("ipo", tmp_path / "run", trainer_class=Counting, extra={"user": dying}, **options)
    with pytest.raises(Killed):
        killed.train()
    chunks.clear()
    resumed = build("ipo", tmp_path / "run", trainer_class=Counting, **options)
    resumed.train()
    assert chunks == [2, 2]
    assert equal(whole.model.state_dict(), resumed.model.state_dict())
    assert history(whole, "rollouts/turns") == history(resumed, "rollouts/turns")


# ---- What does not go together ----


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"extra": {"user": None}, "max_turns": 2}, "`max_turns=2` is of dialogues that are played turn by turn"),
        (
            {"extra": {"rollout_func": print}, "max_turns": None},
            "`rollout_func` plays whole dialogues: leave `user` out",
        ),
        ({"extra": {"user": None, "rollout_func": 3}, "max_turns": None}, "`rollout_func` is a function .*got 3"),
        ({"extra": {"user": ""}}, "Unknown user ''"),
        ({"raw_prompts": True}, "`raw_prompts` makes no turns of prompts"),
        ({"max_turns": 0}, "`max_turns` must be at least 1"),
        ({"extra": {"tools": [sceptic]}}, "The tool sceptic cannot be shown to a model: .*missing a type hint"),
        ({"extra": {"tools": [shout]}}, "need a chat template that shows the model tools"),
    ],
)
def test_what_does_not_go_together_is_refused(options, sentence, tmp_path):
    with pytest.raises((TypeError, ValueError), match=sentence):
        build("ipo", tmp_path, **options)


def test_a_run_that_goes_on_without_its_user_is_told(tmp_path):
    trainer = build("ipo", tmp_path)
    from trl_nash.trainers.run.settings import settings_of

    assert "sceptic" in settings_of(trainer)["dialogues"]
    plain = make_trainer("ipo", tmp_path / "plain", tokenizer=build_tokenizer(), model=build_model(CHAT))
    assert "dialogues" not in settings_of(plain)


def test_the_opponent_pool_plays_dialogues(tmp_path):
    """Its judge gets messages, as the round's does, and an answer that was kept is the same dialogue."""
    from trl_nash import OpponentPoolCallback

    rows = prompt_dataset(["c", "d e"] * 2)
    trainer = build("ipo", tmp_path, extra={"user": sceptic, "eval_dataset": rows}, max_steps=1)
    trainer.add_callback(OpponentPoolCallback(trainer, rounds=1))
    trainer.train()
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_policy/win_rate_worst"] <= 1 and metrics["eval_pool/size"] >= 1


def test_what_is_not_known_of_all_samples_is_known_of_none():
    """Of a rollout without tokens there are no log-probs: those of the other chunks are given up."""
    known = Samples([[1]], [[[3], [4]]], logps=[[[-1.0], [-2.0]]])
    unknown = Samples([[2]], [[[], [5]]])
    for parts in ([known, unknown], [unknown, known]):
        together = Samples.together(parts)
        assert together.logps is None and len(together.completion_ids) == 2


def test_failed_dialogues_are_no_empty_answers(tmp_path):
    """Half of the rollouts fail, and nobody else says nothing: the advice about empty answers has no cause."""
    told = iter([None, "b c"] * 100)

    def user(messages):
        if next(told) is None:
            raise ConnectionError("down")
        return "b c"

    trainer = build("ipo", tmp_path, extra={"user": user})
    collected(trainer)
    metrics = trainer.reporter.metrics.flush()
    assert metrics["rollouts/failed"] > 0
    assert metrics["completions/empty_ratio"] == metrics["completions/equal_pairs"] == 0


def test_a_pool_plays_dialogues(tmp_path):
    """Verdicts are the judge's on whole dialogues, one that failed is in none, and only newcomers play."""

    def user(messages, place):
        if place == 2:
            raise OSError("no line")
        return sceptic(messages)

    rows = prompt_dataset(list("bcde") * 3)
    rows = rows.add_column("place", list(range(len(rows))))
    trainer = build(
        "ipo",
        tmp_path,
        dataset=rows,
        extra={"user": user, "eval_dataset": rows},
        max_steps=2,
        opponent_pool_rounds=1,
        max_nan_rate=1.0,
    )
    pool = trainer.opponent_pool
    trainer.evaluate()
    start = json.dumps(pool.games["eval"].answers)
    with torch.no_grad():
        trainer.model.lm_head.bias[CHAT.convert_tokens_to_ids("b")] += 3.0
    found = trainer.evaluate()
    game = pool.games["eval"]
    names = list(game.answers)
    assert len(names) == 2 and json.dumps({"start": game.answers["start"]}) == start
    ((pair, verdicts),) = game.verdicts.items()
    for place, preference in verdicts.items():
        sides = [game.answers[name][place] for name in pair]
        beside = [side["beside"] for side in sides]
        for side, known in zip(sides, beside, strict=True):
            assert len(side["ids"]) == len(known["masks"]) and known["turns"][0]["role"] == "assistant"
        if any(known["endings"] == "user" for known in beside):
            assert place == 2 and math.isnan(preference)
        else:
            assert preference == pytest.approx(
                favours_talk(None, *([known["turns"]] for known in beside))[0], abs=1e-6
            )
    assert any(len(answer["beside"]["turns"]) > 2 for answer in game.answers["start"])
    known = [p if pair[0] != "start" else 1 - p for p in verdicts.values() if not math.isnan(p)]
    assert found["eval_pool/win_rate_start"] == pytest.approx(np.mean(known), abs=1e-6)
    again = PoolGame.of(json.loads(json.dumps(game.state())))
    assert again.answers == game.answers and again.verdicts.keys() == game.verdicts.keys()
    result = game.result(names, "favours_talk")
    assert all(isinstance(text, Transcript) for row in result.rows for text in row.completions if text is not None)
    page = next(iter(pool.save_report()))
    assert '["User", "no ' in page.read_text()
