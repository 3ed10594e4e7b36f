# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run says of itself: evaluation, and metrics that are right whatever the padding, the round or the rank."""

import math
import statistics
import sys
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from datasets import IterableDataset
from helpers import (
    ALGORITHMS,
    PAIR_ALGORITHMS,
    answer_with,
    equal,
    history,
    make_trainer,
    move,
    prompt_dataset,
    weights,
)
from recording import copy_in_fp64, logps_in_fp64, own_rows
from safetensors.torch import load_file
from tiny import build_model, build_tokenizer
from transformers import TrainerCallback
from two_ranks import result_of_two

from trl_nash import RandomJudge
from trl_nash.rounds import metrics as metrics_module
from trl_nash.rounds.batch import collate
from trl_nash.rounds.metrics import Metrics
from trl_nash.trainers.run.reports.completions import Verdict, log_verdicts


EVALUATED = {
    "eval_loss",
    "eval_judge/preference",
    "eval_judge/abstained",
    "eval_policy/win_rate_reference",
    "eval_policy/win_rate_reference_se",
    "eval_policy/win_rate_reference_n",
    "eval_policy/kl_reference",
    "eval_completions/mean_length",
    "eval_completions/mean_length_reference",
    "eval_completions/clipped_ratio",
    "eval_time/generate",
    "eval_time/judge",
    "eval_time/score",
}
FITTED = {"fit/margin", "fit/target", "fit/r2"}  # and in training "fit/r2_end"


def without_times(metrics: dict) -> dict:
    """What must not depend on the clock."""
    return {k: v for k, v in metrics.items() if not any(part in k for part in ("time", "per_second", "epoch"))}


def keep_rounds(trainer) -> list:
    """From now on: (weights, samples, preference) of all that is sampled and judged."""
    kept, collect = [], trainer.collector.collect

    def keep(rows, *args):
        state = weights(trainer.model)
        for judged in collect(rows, *args):
            kept.append((state, judged.samples, judged.preference))
            yield judged

    trainer.collector.collect = keep
    return kept


def tokens(trainer, text: str) -> list[int]:
    return trainer._tokenizer(text, add_special_tokens=False)["input_ids"]


def answer_by_table(trainer, table: dict[str, list[str]]) -> None:
    """Prompt p is answered with the texts `table[p]`."""

    def generate(prompts, count, policy=None):
        answers = [[tokens(trainer, text) for text in table[prompt][:count]] for prompt in prompts]
        return [tokens(trainer, prompt) for prompt in prompts], answers

    trainer.generate = generate


# ---- evaluate() ----


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_evaluate_before_during_and_after_training(algorithm, lora, tmp_path):
    """
    `evaluate()` works before training, every `eval_steps` and afterwards (stock: ValueError, trl#2228); it returns and
    logs every metric, as finite numbers, and leaves the weights as they are, bitwise.
    """
    trainer = make_trainer(
        algorithm,
        tmp_path,
        lora=lora,
        judge=RandomJudge(),
        extra={"eval_dataset": prompt_dataset(["a", "b c", "d"])},
        eval_strategy="steps",
        eval_steps=1,
        max_steps=2,
        per_device_eval_batch_size=2,
    )
    expected = EVALUATED | {f"eval_{name}" for name in FITTED if algorithm in PAIR_ALGORITHMS}
    for _ in range(2):
        before = weights(trainer.model)
        metrics = trainer.evaluate()
        assert expected <= metrics.keys()
        assert all(math.isfinite(metrics[name]) for name in expected)
        assert equal(weights(trainer.model), before)
        trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in logged[-2:]] == [1, 2]
    assert all(expected <= entry.keys() for entry in logged)
    assert not any(name.startswith("eval") for entry in trainer.state.log_history if "loss" in entry for name in entry)


def test_untrained_policy_has_no_kl_no_margin_and_the_hand_computed_loss(tmp_path):
    """
    Before training, policy and reference are one: KL 0, margin 0, R² 0, and with η = 2 and verdicts P the loss is the
    mean of (2 (P - .5))² over prompts.
    """
    trainer = make_trainer("ipo", tmp_path, step_size=2.0, extra={"eval_dataset": prompt_dataset(["a", "b c", "d"])})
    kept = keep_rounds(trainer)
    metrics = trainer.evaluate()
    (_, _, preference), *more = kept
    assert not more and preference.shape == (3, 1)
    assert metrics["eval_policy/kl_reference"] == metrics["eval_fit/margin"] == 0
    assert metrics["eval_fit/r2"] == 0
    assert metrics["eval_loss"] == pytest.approx((2 * (preference - 0.5)).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ["ipo", "comal", "nash-md"])
def test_metrics_of_evaluation_by_hand(algorithm, lora, tmp_path):
    """
    For a policy that has moved, recomputed from the sampled tokens alone: KL = mean over completions of
    Σ_t log π/π_0 (fp64, one unpadded sequence at a time), preference, abstentions, lengths and clipped share.
    """
    rows = prompt_dataset(["a", "b c", "d e f"])
    trainer = make_trainer(
        algorithm, tmp_path, lora=lora, extra={"eval_dataset": rows}, per_device_eval_batch_size=2, num_generations=3
    )
    initial = copy_in_fp64(weights(trainer.model), lora)
    trainer.evaluate()
    move(trainer, 0.05)
    live = copy_in_fp64(weights(trainer.model), lora)
    kept = keep_rounds(trainer)
    metrics = trainer.evaluate()
    completions = [row for _, samples, _ in kept for row in own_rows(samples, 3)]
    assert len(completions) == 9
    with torch.no_grad():
        kl = [(logps_in_fp64(live, *row) - logps_in_fp64(initial, *row)).sum().item() for row in completions]
    preference = torch.cat([p.flatten() for _, _, p in kept])
    eos = trainer._tokenizer.eos_token_id
    assert abs(sum(kl)) > 0.1
    assert metrics["eval_policy/kl_reference"] == pytest.approx(sum(kl) / 9, rel=1e-3)
    assert metrics["eval_judge/preference"] == pytest.approx(preference.nanmean().item(), rel=1e-5)
    assert metrics["eval_judge/abstained"] == 0
    assert metrics["eval_completions/mean_length"] == pytest.approx(sum(len(c) for _, c in completions) / 9)
    assert metrics["eval_completions/clipped_ratio"] == pytest.approx(sum(eos not in c for _, c in completions) / 9)


def longer_word(prompts, first, second):
    """A judge that is certain: the text that sorts later wins."""
    return [float(a > b) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_win_rate_against_the_reference_is_its_expectation(lora, moved, tmp_path):
    """
    With completions of one token, W = Σ_i Σ_j π(i) π_0(j) P(i beats j) is a sum over 21 x 21 pairs; it is .5 for an
    untrained policy. 300 prompts x 4 comparisons estimate it with a standard error below .5 / sqrt(1200) = .0144.
    """
    rows = prompt_dataset(["c"] * 300)
    trainer = make_trainer(
        "ipo",
        tmp_path,
        lora=lora,
        judge=longer_word,
        extra={"eval_dataset": rows},
        per_device_eval_batch_size=300,
        per_device_train_batch_size=100,
        dataset=rows,
        num_generations=4,
        max_new_tokens=1,
    )
    prompt = torch.tensor([tokens(trainer, "c")])

    @torch.no_grad()
    def distribution():
        return trainer.model(input_ids=prompt).logits[0, -1].double().softmax(-1)

    reference = distribution()
    if moved:
        move(trainer, 0.5, seed=2)
    policy = distribution()
    texts = [trainer.judging.decode([token]) for token in range(len(policy))]
    wins = torch.tensor([[(a > b) + 0.5 * (a == b) for b in texts] for a in texts], dtype=torch.float64)
    expected = (policy @ wins @ reference).item()
    assert abs(expected - 0.5) > 0.1 if moved else expected == pytest.approx(0.5)
    assert trainer.evaluate()["eval_policy/win_rate_reference"] == pytest.approx(expected, abs=4 * 0.0144)


def test_win_rate_pairs_completion_k_with_completion_k(tmp_path):
    """Two policies with fixed answers: ("a", "b") against ("b", "b") wins 1 and ties .5, whatever the order asked."""
    trainer = make_trainer("ipo", tmp_path, judge=longer_word, extra={"eval_dataset": prompt_dataset(["c", "d"])})
    answer_with(trainer, ["b <eos>", "a <eos>"], frozen=["a <eos>", "a a <eos>"])
    metrics = trainer.evaluate()
    assert metrics["eval_policy/win_rate_reference"] == (1.0 + 0.0) / 2
    assert metrics["eval_completions/mean_length"] == 2.0
    assert metrics["eval_completions/mean_length_reference"] == 2.5


def test_the_error_of_a_win_rate_is_over_prompts(tmp_path):
    """
    Eight pairs of four prompts are four observations: "c" and "d" win 1 and 1, "e" 1 and 0, "f" 0 and 0. Means 1, 1,
    .5 and 0 have the mean .625 and the standard error sqrt(.6875 / 3 / 4).
    """
    wins = {"c": (1, 1), "d": (1, 1), "e": (1, 0), "f": (0, 0)}

    def judge(prompts, first, second):
        verdicts = zip(prompts, first, second, strict=True)
        return [float((wins[p]["ab".index(min(x, y))] == 1) == (x < y)) for p, x, y in verdicts]

    trainer = make_trainer("ipo", tmp_path, judge=judge, extra={"eval_dataset": prompt_dataset(list(wins))})
    answer_with(trainer, ["a <eos>", "b <eos>"], frozen=["d <eos>", "e <eos>"])
    metrics = trainer.evaluate()
    assert metrics["eval_policy/win_rate_reference"] == pytest.approx(0.625)
    assert metrics["eval_policy/win_rate_reference_se"] == pytest.approx((0.6875 / 3 / 4) ** 0.5)
    assert metrics["eval_policy/win_rate_reference_n"] == 4


def test_abstentions_leave_the_win_rate(tmp_path):
    """Only judged pairs count: P = .75 on "c" and no opinion on "d" is a win rate of .75 and half abstained."""

    def judge(prompts, first, second):
        verdicts = zip(prompts, first, second, strict=True)
        return [(0.75 if a < b else 0.25) if prompt == "c" else math.nan for prompt, a, b in verdicts]

    trainer = make_trainer("ipo", tmp_path, judge=judge, extra={"eval_dataset": prompt_dataset(["c", "d"])})
    answer_with(trainer, ["a <eos>", "b <eos>"], frozen=["e <eos>", "e <eos>"])
    metrics = trainer.evaluate()
    assert metrics["eval_policy/win_rate_reference"] == pytest.approx(0.75)
    assert metrics["eval_policy/win_rate_reference_n"] == 1 and "eval_policy/win_rate_reference_se" not in metrics
    assert metrics["eval_judge/abstained"] == 0.5
    assert metrics["eval_judge/preference"] == pytest.approx(0.75)


def test_judge_without_any_opinion_does_not_end_an_evaluation(tmp_path):
    """Evaluation goes on where training would stop; what nobody judged is left out, not made up."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        judge=lambda prompts, first, second: [math.nan] * len(prompts),
        extra={"eval_dataset": prompt_dataset(["c", "d"])},
    )
    answer_with(trainer, ["a <eos>", "b <eos>"], frozen=["d <eos>", "e <eos>"])
    metrics = trainer.evaluate()
    assert metrics["eval_judge/abstained"] == 1.0 and metrics["eval_loss"] == 0.0
    assert "eval_policy/win_rate_reference" not in metrics and "eval_judge/preference" not in metrics


def test_explicit_reference_is_the_one_that_is_played_against(tmp_path):
    """With `ref_model=` win rate and KL are against that model, not the initial policy."""

    reference = build_model(build_tokenizer(), seed=9)
    trainer = make_trainer(
        "ipo", tmp_path, extra={"eval_dataset": prompt_dataset(["c d"] * 4), "ref_model": reference}
    )
    kept = keep_rounds(trainer)
    live = copy_in_fp64(weights(trainer.model))
    metrics = trainer.evaluate()
    rows = own_rows(kept[0][1], 2)
    other = build_model(build_tokenizer(), seed=9).double()
    with torch.no_grad():
        kl = [(logps_in_fp64(live, *row) - logps_in_fp64(other, *row)).sum().item() for row in rows]
    assert metrics["eval_policy/kl_reference"] == pytest.approx(sum(kl) / len(kl), rel=1e-3)


def test_several_eval_datasets(tmp_path):
    """A dict of datasets gives each its own metrics under its name."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        extra={"eval_dataset": {"easy": prompt_dataset(["a", "d"]), "hard": prompt_dataset(["b", "c"])}},
        eval_strategy="steps",
        eval_steps=1,
        max_steps=1,
    )
    trainer.train()
    names = {name for entry in trainer.state.log_history for name in entry}
    for part in ("easy", "hard"):
        assert {name.replace("eval_", f"eval_{part}_") for name in EVALUATED} <= names


def test_stream_is_evaluated(tmp_path):
    """An iterable dataset, and one that is handed to `evaluate`, under a prefix of one's own."""
    stream = IterableDataset.from_generator(lambda: ({"prompt": p} for p in ("a", "b", "c")))
    trainer = make_trainer("ipo", tmp_path)
    kept = keep_rounds(trainer)
    metrics = trainer.evaluate(stream, metric_key_prefix="test")
    assert sum(len(samples.prompt_ids) for _, samples, _ in kept) == 3
    assert "test_policy/win_rate_reference" in metrics and "eval_loss" not in metrics


def test_best_model_by_win_rate_is_loaded_at_the_end(tmp_path):
    """`metric_for_best_model="eval_policy/win_rate_reference"` keeps the checkpoint with the highest win rate."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        extra={"eval_dataset": prompt_dataset(["c", "d e"] * 4)},
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        max_steps=4,
        learning_rate=3e-2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_policy/win_rate_reference",
        greater_is_better=True,
    )
    trainer.train()
    rates = history(trainer, "eval_policy/win_rate_reference")
    best = rates.index(max(rates)) + 1
    assert len(set(rates)) > 1 and trainer.state.best_metric == max(rates)
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert equal(weights(trainer.model), load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors"))
    # The step after an evaluation is one of training.
    assert len(history(trainer, "time/fit")) == 4 and not history(trainer, "eval_time/fit")


@pytest.mark.parametrize("algorithm", ["ipo", "onpo-two", "comal"])
def test_evaluation_in_the_middle_of_a_round_leaves_the_round_alone(algorithm, tmp_path):
    """A round of 3 passes, evaluated after each step: losses and final weights are those without evaluation."""

    class Evaluate(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_evaluate = state.global_step < 3

    options = {"num_iterations": 3, "max_steps": 3, "steps_per_generation": 1}
    extra = {"eval_dataset": prompt_dataset(["a", "b"])}
    plain = make_trainer(algorithm, tmp_path / "plain", extra=extra, **options)
    plain.train()
    evaluated = make_trainer(algorithm, tmp_path / "evaluated", extra=extra | {"callbacks": [Evaluate()]}, **options)
    evaluated.train()
    assert len(history(evaluated, "eval_loss")) == 2
    assert history(evaluated, "loss") == history(plain, "loss")
    assert history(evaluated, "fit/margin") == history(plain, "fit/margin")
    assert equal(weights(evaluated.model), weights(plain.model))


# ---- Metrics by hand ----

TABLE = {
    "c": ["a a <eos>", "b", "d e f g h"],
    "d": ["a <eos>", "b b b <eos>", "c c"],
    "e": ["a b <eos>", "c", "d <eos>"],
}
# P(first beats second) for the pairs (0, 1), (0, 2), (1, 2): a cycle, an order, and one without a verdict.
VERDICTS = {"c": [0.9, 0.3, 0.8], "d": [0.6, 0.7, 0.8], "e": [math.nan, 0.4, 0.45]}


def by_table(prompts, first, second):
    """Looks the verdict up."""
    verdicts = []
    for prompt, a, b in zip(prompts, first, second, strict=True):
        texts = [text.replace(" <eos>", "") for text in TABLE[prompt]]
        i, j = texts.index(a), texts.index(b)
        p = VERDICTS[prompt][list(combinations(range(3), 2)).index((min(i, j), max(i, j)))]
        verdicts.append(p if i < j else 1 - p)
    return verdicts


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_metrics_of_a_crafted_round(chunk, mode, tmp_path):
    """
    9 completions of 3 + 1 + 5 + 2 + 4 + 2 + 3 + 1 + 2 = 23 tokens, 5 of them with an end; 8 of 9 pairs judged, of mean
    (.9 + .3 + .8 + .6 + .7 + .8 + .4 + .45) / 8 = 4.95 / 8; one of the 2 triples judged in full is a cycle. In
    evaluation the numbers do not depend on how many prompts go together.
    """
    rows = prompt_dataset(list(TABLE))
    trainer = make_trainer(
        "ipo",
        tmp_path,
        judge=by_table,
        dataset=rows,
        extra={"eval_dataset": rows},
        num_generations=3,
        per_device_train_batch_size=3,
        per_device_generation_batch_size=chunk,
        per_device_eval_batch_size=chunk,
        max_steps=1,
    )
    answer_by_table(trainer, TABLE)
    if mode == "train":
        trainer.train()
        metrics = trainer.state.log_history[0]
    else:
        trainer._record_win_rate = lambda rows, samples: None
        metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    assert metrics["completions/mean_length"] == pytest.approx(23 / 9)
    assert metrics["completions/clipped_ratio"] == pytest.approx(4 / 9)
    assert metrics["judge/preference"] == pytest.approx(4.95 / 8)
    assert metrics["judge/abstained"] == pytest.approx(1 / 9)
    assert metrics["judge/cycle_rate"] == pytest.approx(1 / 2)
    assert metrics["completions/equal_pairs"] == metrics["completions/empty_ratio"] == 0
    assert metrics["policy/kl_reference"] == 0


def test_pairs_of_one_text_and_texts_without_any_are_counted(tmp_path):
    """ "c" is answered a, a and nothing, "d" three times b: 1 + 3 of 6 pairs are equal, and 1 of 6 texts is empty."""
    table = {"c": ["a <eos>", "a", "<eos>"], "d": ["b <eos>"] * 3}
    trainer = make_trainer(
        "ipo", tmp_path, dataset=prompt_dataset(list(table)), num_generations=3, max_steps=1, max_nan_rate=1.0
    )
    answer_by_table(trainer, table)
    trainer.train()
    assert history(trainer, "completions/equal_pairs") == pytest.approx([4 / 6])
    assert history(trainer, "completions/empty_ratio") == pytest.approx([1 / 6])


def test_cycle_rate_weighs_triples_not_batches(tmp_path):
    """
    Evaluated in two batches: "c" and "d" hold 1 cycle in 2 triples, "e" and "f" none in 1, as "e" has no triple in
    full. Over all it is 1 of 3, not the mean of the batches' .5 and 0.
    """
    table = TABLE | {"f": TABLE["d"]}
    rows = prompt_dataset(list(table))

    def judge(prompts, first, second):
        return by_table(["d" if prompt == "f" else prompt for prompt in prompts], first, second)

    trainer = make_trainer(
        "ipo", tmp_path, judge=judge, extra={"eval_dataset": rows}, num_generations=3, per_device_eval_batch_size=2
    )
    answer_by_table(trainer, table)
    trainer._record_win_rate = lambda rows, samples: None
    assert trainer.evaluate()["eval_judge/cycle_rate"] == pytest.approx(1 / 3)


def test_no_cycle_rate_without_all_pairs(tmp_path):
    """Two completions, or pairs that are disjoint, have no triples."""
    for options in ({"num_generations": 2}, {"num_generations": 4, "pair_selection": "iid"}):
        trainer = make_trainer("ipo", tmp_path, max_steps=1, **options)
        trainer.train()
        assert history(trainer, "judge/cycle_rate") == []


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ["ipo", "onpo-one", "comal", "nash-md"])
def test_kl_in_training_is_of_the_policy_that_sampled(algorithm, lora, tmp_path):
    """`policy/kl_reference` of round r is the mean of Σ_t log π_r/π_0 over its completions; so is COMAL's anchor."""
    options = {"reference_rounds": 1} if algorithm == "comal" else {}
    trainer = make_trainer(algorithm, tmp_path, lora=lora, max_steps=3, learning_rate=5e-2, **options)
    kept = keep_rounds(trainer)
    trainer.train()
    policies = [copy_in_fp64(state, lora) for state, _, _ in kept]
    for r, (logged, (_, samples, _)) in enumerate(zip(history(trainer, "policy/kl_reference"), kept, strict=True)):
        with torch.no_grad():
            kl = [
                (logps_in_fp64(policies[r], *row) - logps_in_fp64(policies[0], *row)).sum().item()
                for row in own_rows(samples, 2)
            ]
        assert logged == pytest.approx(sum(kl) / len(kl), rel=2e-3, abs=1e-4)
        assert abs(logged) > 0.01 or r == 0
    # With `reference_rounds=1` COMAL's reference is the policy itself from round 2 on.
    anchors = history(trainer, "policy/kl_anchor")
    assert anchors == ([0.0, 0.0] if algorithm == "comal" else [])


def test_fit_metrics_by_hand(tmp_path):
    """
    With η = 2: margins h = (.3, -.4, .1) against targets t = 2 (P - .5) = (.6, .2, none):
    margin = (.3 - .4) / 2, target = (.6 + .2) / 2, R² = 1 - ((.3)² + (.6)²) / (.6² + .2²).
    """
    trainer = make_trainer("ipo", tmp_path, step_size=2.0)
    prompts = [tokens(trainer, text) for text in ("c", "d e", "f")]
    answers = [[tokens(trainer, "a b <eos>"), tokens(trainer, "c <eos>")] for _ in prompts]
    batch = collate(
        prompts,
        answers,
        torch.tensor([[[0, 1]]] * 3),
        torch.tensor([[0.8], [0.6], [math.nan]]),
        trainer._tokenizer.pad_token_id,
    )
    # The anchor is the policy but for one token of each row, whose log-ratio is set: h = first - second.
    with torch.no_grad():
        anchor = trainer.score(trainer.model, batch).clone()
    margins = [0.3, -0.4, 0.1]
    for row, logratio in enumerate([x for h in margins for x in (h + 0.7, 0.7)]):
        first_token = (batch.labels[row, 1:] != -100).nonzero()[0].item()
        anchor[row, first_token] -= logratio
    trainer.model.train()
    object.__setattr__(batch, "centre_logps", anchor)
    loss = trainer.compute_loss(trainer.model, batch).item()
    trainer.log({"loss": loss})
    logged = trainer.state.log_history[-1]
    assert loss == pytest.approx((0.3**2 + 0.6**2 + 0) / 3, rel=1e-4)
    assert logged["fit/margin"] == pytest.approx((0.3 - 0.4) / 2, rel=1e-4)
    assert logged["fit/target"] == pytest.approx((0.6 + 0.2) / 2, rel=1e-5)
    assert logged["fit/r2"] == pytest.approx(1 - (0.3**2 + 0.6**2) / (0.6**2 + 0.2**2), rel=1e-3)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_metrics_do_not_depend_on_padding(algorithm, tmp_path):
    """The same sampled tokens, padded by the engine to 5 and to 12, give the same numbers (stock: entropy 4x)."""
    results = []
    for width in (5, 12):
        options = {"max_length": 16 + width, "max_new_tokens": width}
        if algorithm == "nash-md":
            options["mixture_coef"] = 0.0
        trainer = make_trainer(
            algorithm, tmp_path, extra={"eval_dataset": prompt_dataset(["a", "b c", "d e f"])}, **options
        )
        move(trainer, 0.05)
        sampled = ["a b <eos>", "c <eos>", "d e f <eos>", "g <eos>", "a a <eos>", "b <eos>"]
        rows = [tokens(trainer, text) for text in sampled]

        def generate(input_ids, rows=rows, width=width, **kwargs):
            padded = [rows[r % 6] + [0] * (width - len(rows[r % 6])) for r in range(len(input_ids))]
            return torch.cat([input_ids, torch.tensor(padded)], dim=1)

        trainer.model.generate = generate
        results.append(without_times(trainer.evaluate()))
    narrow, wide = results
    assert narrow.keys() == wide.keys() and narrow["eval_policy/kl_reference"] != 0
    for name, value in narrow.items():
        assert wide[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_r2_rises_as_a_round_is_fitted(algorithm, tmp_path):
    """Over 40 passes of one round `fit/r2` goes from 0 (or below) towards 1 and `fit/margin` towards `fit/target`."""
    trainer = make_trainer(
        algorithm,
        tmp_path,
        num_iterations=40,
        max_steps=40 if algorithm != "onpo-two" else 80,
        learning_rate=5e-4,
        judge=longer_word,
        **({"reference_rounds": 100} if algorithm == "comal" else {}),
    )
    trainer.train()
    r2, margin, target = (history(trainer, f"fit/{name}") for name in ("r2", "margin", "target"))
    assert r2[0] == 0 and r2[-1] > 0.95
    end = history(trainer, "fit/r2_end")  # of the second half of each fit, of which ONPO has two
    assert end == r2[20:] if algorithm != "onpo-two" else end == r2[20:40] + r2[60:]
    assert margin[-1] == pytest.approx(target[-1], rel=0.05)


def test_round_counts_from_one(tmp_path):
    """`round` is the round that was fitted: 2 steps each."""
    trainer = make_trainer("ipo", tmp_path, num_iterations=2, max_steps=5)
    trainer.train()
    assert history(trainer, "round") == [1, 1, 2, 2, 3]


def test_metrics_between_two_logs_are_one_average(tmp_path):
    """Logged every second step, the numbers are those of both rounds together."""
    kept = {}
    for steps in (1, 2):
        trainer = make_trainer("ipo", tmp_path, max_steps=4, logging_steps=steps)
        trainer.train()
        kept[steps] = trainer
    for name in ("completions/mean_length", "judge/preference", "policy/kl_reference"):
        single, double = (history(kept[steps], name) for steps in (1, 2))
        assert double == pytest.approx([(single[0] + single[1]) / 2, (single[2] + single[3]) / 2], rel=1e-5)


# ---- Time ----


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_time_of_a_step_is_split(algorithm, tmp_path):
    """Each log splits the seconds of a step in generate, judge, score and fit, which do not exceed the run's time."""
    trainer = make_trainer(algorithm, tmp_path, max_steps=3)
    trainer.train()
    parts = {name: history(trainer, f"time/{name}") for name in ("generate", "judge", "score", "fit")}
    assert len(parts["fit"]) == 3 and all(seconds > 0 for part in parts.values() for seconds in part)
    runtime = history(trainer, "train_runtime")[0]
    assert sum(map(sum, parts.values())) <= runtime + 1e-3


def test_phases_share_the_clock(monkeypatch):
    """
    Fit from 0 to 10 s with generation from 2 to 5 s inside it: 7 s and 3 s, the whole of 10 s; divided by 2 steps.
    """
    clock = iter([0.0, 2.0, 5.0, 10.0])
    monkeypatch.setattr(metrics_module.time, "perf_counter", lambda: next(clock))
    accelerator = SimpleNamespace(reduce=lambda tensor, how: tensor, device="cpu")
    metrics = Metrics(accelerator)
    with metrics.phase("fit"):
        with metrics.phase("generate"):
            pass
    assert metrics.flush(steps=2) == {"time/fit": 3.5, "time/generate": 1.5}
    assert metrics.flush() == {}


def test_a_phase_that_fails_stops_its_clock(monkeypatch):
    """After an error within a phase the next phase starts its own clock."""
    clock = iter([0.0, 1.0, 10.0, 12.0])
    monkeypatch.setattr(metrics_module.time, "perf_counter", lambda: next(clock))
    metrics = Metrics(SimpleNamespace(reduce=lambda tensor, how: tensor, device="cpu"))
    with pytest.raises(KeyError), metrics.phase("judge"):
        raise KeyError
    with metrics.phase("fit"):
        pass
    assert metrics.flush() == {"time/fit": 2.0, "time/judge": 1.0}


def test_ratios_of_sums_and_nothing_from_nothing():
    """(1 + 5) / (2 + 2) = 1.5, not the mean of 1/2 and 5/2; a metric without any count is left out."""
    metrics = Metrics(SimpleNamespace(reduce=lambda tensor, how: tensor, device="cpu"))
    metrics.add("x", 1.0, 2)
    metrics.add("x", torch.tensor(5.0), torch.tensor(2))
    metrics.add("empty", 0.0, 0)
    assert metrics.flush() == {"x": 1.5}


# ---- log_completions ----


def test_completions_are_printed_and_kept(tmp_path, capsys, monkeypatch):
    """
    `log_completions=True` prints a table of prompt, two completions and P(first), and writes the same rows as parquet;
    an abstention is "none". Text that looks like markup is printed as it is.
    """
    monkeypatch.setenv("COLUMNS", "120")
    table = {"c": ["a a <eos>", "b <eos>"], "d": ["e <eos>", "f <eos>"]}

    def judge(prompts, first, second):
        known = {("a a", "b"): 0.9, ("b", "a a"): 0.1}
        return [known.get(pair, math.nan) for pair in zip(first, second, strict=True)]

    dataset = prompt_dataset(table)
    trainer = make_trainer("ipo", tmp_path, judge=judge, dataset=dataset, log_completions=True, max_steps=1)
    answer_by_table(trainer, table)
    decode = trainer.judging.decode
    trainer.judging.decode = lambda *ids: decode(*ids).replace("f", "[bold]f")
    trainer.train()
    frame = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet").sort_values("prompt")
    assert list(frame.columns) == ["step", "prompt", "first", "second", "preference"]
    assert frame["step"].tolist() == [1, 1] and frame["prompt"].tolist() == ["c", "d"]
    assert frame["first"].tolist() == ["a a", "e"] and frame["second"].tolist() == ["b", "[bold]f"]
    assert frame["preference"].iloc[0] == pytest.approx(0.9) and math.isnan(frame["preference"].iloc[1])
    printed = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    assert ["c", "a a", "b", "0.90"] in lines and ["d", "e", "[bold]f", "none"] in lines
    assert "Step 1" in printed and "P(first)" in printed


def test_number_of_completions_and_of_logs(tmp_path, capsys):
    """`num_completions_to_print` rows every `logging_steps`; nothing without `log_completions`."""
    options = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 4}
    make_trainer("ipo", tmp_path / "off", **options).train()
    assert not (tmp_path / "off" / "completions").exists() and "P(first)" not in capsys.readouterr().out
    make_trainer("ipo", tmp_path / "on", log_completions=True, num_completions_to_print=3, **options).train()
    files = sorted(path.name for path in (tmp_path / "on" / "completions").iterdir())
    assert files == ["completions_00002.parquet", "completions_00004.parquet"]
    assert [len(pd.read_parquet(tmp_path / "on" / "completions" / file)) for file in files] == [3, 3]
    assert capsys.readouterr().out.count("P(first)") == 2


def test_completions_of_conversations_show_the_last_message(tmp_path):
    """The prompt column of a conversation is what the user said last."""
    prompt = [{"role": "system", "content": "a"}, {"role": "user", "content": "b c"}]
    options = {"tokenizer": build_tokenizer(), "log_completions": True, "max_steps": 1, "max_length": 24}
    trainer = make_trainer("ipo", tmp_path, dataset=prompt_dataset([prompt] * 2), **options)
    trainer.train()
    frame = pd.read_parquet(tmp_path / "completions" / "completions_00001.parquet")
    assert frame["prompt"].tolist() == ["b c", "b c"]


def test_evaluation_does_not_overwrite_the_completions_of_training(tmp_path):
    """Logged at the same step, both tables are kept."""
    trainer = make_trainer(
        "ipo",
        tmp_path,
        dataset=prompt_dataset(["c", "d"]),
        extra={"eval_dataset": {"x": prompt_dataset(["e"]), "y": prompt_dataset(["f"])}},
        eval_strategy="steps",
        eval_steps=1,
        max_steps=1,
        log_completions=True,
    )
    trainer.train()
    frames = [pd.read_parquet(file) for file in (tmp_path / "completions").iterdir()]
    prompts = {prompt for frame in frames for prompt in frame["prompt"]}
    assert prompts == {"c", "d", "e", "f"}


def test_completions_of_an_evaluation_show_the_start_beside_the_policy(tmp_path, capsys, monkeypatch):
    """The table of an evaluation has the policy's answer, the start's, and how often the judge prefers the first."""
    monkeypatch.setenv("COLUMNS", "120")
    trainer = make_trainer(
        "ipo", tmp_path, log_completions=True, extra={"eval_dataset": prompt_dataset(["c", "d"])}, judge=longer_word
    )
    answer_with(trainer, ["b <eos>", "c <eos>"], frozen=["a <eos>", "d <eos>"])
    trainer.evaluate()
    frame = pd.read_parquet(tmp_path / "completions" / "eval_completions_00000.parquet")
    rows = frame[["prompt", "policy", "start", "preference"]].values.tolist()
    assert rows == [["c", "b", "a", 1.0], ["d", "b", "a", 1.0]]
    printed = capsys.readouterr().out
    assert "P(policy)" in printed and "Start" in printed
    assert [(v.prompt, v.first, v.second) for v in trainer.reporter.answers] == [("c", "b", "a"), ("d", "b", "a")]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_completions_reach_the_trackers(name, tmp_path, monkeypatch):
    """With `report_to`, the same rows go to the tracker as a table under "completions"."""
    logged = []
    tracker = SimpleNamespace(run="a run", Table=lambda dataframe: dataframe, log=logged.append)
    monkeypatch.setitem(sys.modules, name, tracker)
    log_verdicts([Verdict("c", "a", "b", 0.25)], 3, str(tmp_path), [name])
    (table,) = [entry["completions"] for entry in logged]
    assert table.to_dict("records") == [{"step": 3, "prompt": "c", "first": "a", "second": "b", "preference": 0.25}]


# ---- Two processes ----


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What `two_processes.py` wrote, run as two gloo processes."""
    return result_of_two(Path(__file__).with_name("two_processes.py"), tmp_path_factory.mktemp("two_processes"))


def test_they_are_two_processes_under_ddp(two_processes):
    """Before anything else: two processes, and a model that averages gradients."""
    assert two_processes["processes"] == 2
    assert two_processes["wrapped"] == "DistributedDataParallel"


def test_ranks_sample_on_their_own(two_processes):
    """For the same prompt the ranks draw different completions."""
    first, second = two_processes["ranks"]
    assert first["train"][0]["prompts"] == second["train"][0]["prompts"]
    assert first["train"][0]["completions"] != second["train"][0]["completions"]


def test_each_rank_judges_its_own_shard(two_processes):
    """A rank's judge sees the completions that were sampled there, all of them and no others."""
    for rank in two_processes["ranks"]:
        sampled = {text for part in rank["train"] for text in part["texts"]}
        asked = {text for pair in rank["asked"] for text in pair}
        lonely = sampled - asked  # all three completions of its prompt were equal, which needs no judge
        assert asked <= sampled and len(asked) > 5
        groups = [part["texts"][i : i + 3] for part in rank["train"] for i in range(0, len(part["texts"]), 3)]
        assert all(any(group == [text] * 3 for group in groups) for text in lonely)
    first, second = ({text for pair in rank["asked"] for text in pair} for rank in two_processes["ranks"])
    assert first - second and second - first


def test_ranks_end_with_the_same_weights(two_processes):
    """After training, the weights are bitwise the same on both ranks, and have moved."""
    first, second = two_processes["ranks"]
    assert first["weights"] == second["weights"] != first["start"] == second["start"]


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_metrics_are_averages_over_both_ranks(two_processes, mode):
    """Length, clipped share, preference, abstentions and KL are sums over ranks divided by counts over ranks."""
    logged = two_processes[mode]
    rounds = [list(pair) for pair in zip(*(rank[mode] for rank in two_processes["ranks"]), strict=True)]
    if mode == "eval":  # one log for all of its batches
        rounds = [[part for pair in rounds for part in pair]]
    assert len(logged) == len(rounds) > 0
    assert any(p is None for parts in rounds for part in parts for p in part["preferences"])
    for metrics, parts in zip(logged, rounds, strict=True):
        completions = [ids for part in parts for ids in part["completions"]]
        verdicts = [p for part in parts for p in part["preferences"]]
        judged = [p for p in verdicts if p is not None]
        kl = [value for part in parts for value in part["kl"]]
        assert metrics["completions/mean_length"] == pytest.approx(sum(map(len, completions)) / len(completions))
        assert metrics["completions/clipped_ratio"] == pytest.approx(
            sum(ids[-1] != two_processes["eos"] for ids in completions) / len(completions)
        )
        assert metrics["judge/preference"] == pytest.approx(sum(judged) / len(judged), rel=1e-5)
        assert metrics["judge/abstained"] == pytest.approx(1 - len(judged) / len(verdicts))
        assert metrics["policy/kl_reference"] == pytest.approx(sum(kl) / len(kl), rel=1e-4, abs=1e-6)


def test_loss_is_the_average_over_both_ranks(two_processes):
    """The logged loss is the mean of the ranks' micro-batch losses."""
    losses = [rank["losses"] for rank in two_processes["ranks"]]
    expected = [(a + b) / 2 for a, b in zip(*losses, strict=True)]
    assert [entry["loss"] for entry in two_processes["train"]] == pytest.approx(expected, rel=1e-4)


def test_win_rate_is_the_average_over_both_ranks(two_processes):
    """
    Mean and standard error are over the prompts of both ranks, of each the mean of its judged pairs; n counts those
    that have one, and not the prompts with which a rank fills up.
    """
    rows = [[p for p in row if p is not None] for rank in two_processes["ranks"] for row in rank["wins"]]
    assert len({len(row) for row in rows}) > 2  # prompts with three, fewer, and no verdicts
    means = [sum(row) / len(row) for row in rows if row]
    metrics = two_processes["eval"][0]
    assert metrics["policy/win_rate_reference"] == pytest.approx(statistics.mean(means), rel=1e-5)
    error = statistics.stdev(means) / len(means) ** 0.5
    assert metrics["policy/win_rate_reference_se"] == pytest.approx(error, rel=1e-5)
    assert metrics["policy/win_rate_reference_n"] == len(means) <= 11


def test_stream_is_evaluated_by_two_processes(two_processes):
    """An iterable dataset beside a map-style training set: each prompt is evaluated once, on one rank."""
    first, second = (rank["streamed"] for rank in two_processes["ranks"])
    assert first == ["a", "b", "e"] and second == ["c", "d"]


def test_each_prompt_counts_once(two_processes):
    """
    11 prompts in batches of 2 on 2 ranks: at the last step a rank has one prompt, and one that is sampled with it so
    that both ranks make the same calls. It has no verdict and no part in the loss, which is the mean over 11 prompts.
    """
    first, second = two_processes["ranks"]
    assert first["calls"] == second["calls"]
    assert [len(part["prompts"]) for part in second["eval"]] == [2, 2, 1]
    assert second["eval"][-1]["uncounted"] == [None] * 3  # pairs of 3 completions
    assert sorted(prompt for rank in (first, second) for part in rank["eval"] for prompt in part["prompts"]) == sorted(
        "cdefghabcde"
    )
    losses = [loss for rank in (first, second) for part in rank["eval"] for loss in part["losses"]]
    assert len(losses) == 11
    assert two_processes["eval"][0]["loss"] == pytest.approx(sum(losses) / 11, rel=1e-5)


def test_each_rank_writes_once(two_processes):
    """Tables of completions and warnings come from the main process alone."""
    assert [rank["tables"] for rank in two_processes["ranks"]] == [True, False]


def test_both_ranks_know_the_whole_pool(two_processes):
    """
    The opponent pool: each row is answered by one rank, in the order of the dataset, each pair is asked on one rank
    and once, and both know all of it.
    """
    first, second = (rank["pool"] for rank in two_processes["ranks"])
    assert first["game"] == second["game"] and first["metrics"] == second["metrics"]
    assert first["metrics"][0] == first["metrics"][1]
    game = first["game"]
    assert [prompt for prompt, _ in game["rows"]] == list("cdefghabcde")
    names = list(game["answers"])
    assert names == ["start", "round_3"]
    texts = [[answer["text"] for answer in game["answers"][name]] for name in names]
    asked = first["asked"] + second["asked"]
    assert sorted(map(sorted, asked)) == sorted(
        sorted(pair) for pair in zip(*texts, strict=True) if len(set(pair)) == 2
    )
    ((_, _, verdicts),) = game["verdicts"]
    assert [row for row, _ in verdicts] == list(range(11))
    judged = [p for _, p in verdicts if p is not None]
    assert first["metrics"][0]["policy/win_rate_worst"] == pytest.approx(sum(judged) / len(judged))
    assert first["metrics"][0]["policy/win_rate_worst_n"] == len(judged)
