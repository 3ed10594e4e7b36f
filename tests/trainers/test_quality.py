# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which checkpoint is the best: the one that wins most against the start, not the one with the smallest loss."""

import math

import pytest
import torch
from helpers import equal, history, make_config, make_trainer, prompt_dataset, weights
from safetensors.torch import load_file
from tiny import build_model, build_tokenizer

from trl_nash import NashTrainer, PairConfig
from trl_nash.algorithms import INITIAL
from trl_nash.compat import OnlineDPOConfig


WIN_RATE = "eval_policy/win_rate_reference"
EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 3, "save_total_limit": 4}


class Fickle:
    """In each evaluation the first completion wins with another probability."""

    symmetric = True

    def __init__(self, rates):
        self.rates = iter(rates)
        self.rate = 0.5

    def __call__(self, prompts, first, second):
        return [self.rate] * len(prompts)


def fickle_trainer(tmp_path, rates=(0.6, 0.9, 0.5), **options):
    """With h = 0 the loss of an evaluation is η² (P - ½)²: the smallest where nothing wins."""
    judge = Fickle(rates)
    trainer = make_trainer(
        "ipo",
        tmp_path,
        judge=judge,
        extra={"eval_dataset": prompt_dataset(["c", "d e"])},
        **{**EVALUATED, **options},
    )
    evaluate = trainer.evaluate

    def evaluated(*args, **kwargs):
        judge.rate = next(judge.rates)
        metrics = evaluate(*args, **kwargs)
        judge.rate = 0.5
        return metrics

    trainer.evaluate = evaluated
    return trainer


@pytest.mark.parametrize("options", [{"save_strategy": "steps", "save_steps": 1}, {"save_strategy": "best"}])
def test_the_best_model_wins_most(options, tmp_path):
    """The second of three checkpoints has the highest win rate and the highest loss: it is loaded at the end."""
    trainer = fickle_trainer(tmp_path, load_best_model_at_end=True, **options)
    trainer.train()
    rates, losses = history(trainer, WIN_RATE), history(trainer, "eval_loss")
    assert rates.index(max(rates)) == losses.index(max(losses)) == 1 != losses.index(min(losses))
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2") and trainer.state.best_metric == max(rates)
    assert equal(weights(trainer.model), load_file(tmp_path / "checkpoint-2" / "model.safetensors"))
    saved = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert saved == ["checkpoint-1", "checkpoint-2"] + ["checkpoint-3"] * (options["save_strategy"] != "best")


def test_a_metric_of_the_user_is_kept(tmp_path):
    trainer = fickle_trainer(
        tmp_path, load_best_model_at_end=True, metric_for_best_model="loss", save_strategy="steps", save_steps=1
    )
    trainer.train()
    assert trainer.args.greater_is_better is False and trainer.state.best_model_checkpoint.endswith("checkpoint-3")


def test_an_evaluation_without_verdicts_is_not_the_best(tmp_path):
    """Where the judge abstains there is no win rate; the run goes on, and the best is one of the others."""
    trainer = fickle_trainer(tmp_path, rates=(math.nan, 0.6, math.nan), save_strategy="best")
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")


def test_options_without_a_best_model_have_no_metric(tmp_path):
    assert make_config("ipo", tmp_path).metric_for_best_model is None


def test_lowest_win_rate_is_not_the_best(tmp_path):
    with pytest.raises(ValueError, match="`greater_is_better=False` without `metric_for_best_model`.*name the metric"):
        make_config("ipo", tmp_path, save_strategy="best", greater_is_better=False)


def test_upgraded_config_forgets_the_loss(tmp_path):
    """An OnlineDPOConfig has filled in the loss by itself: its config becomes one of win rates."""
    args = OnlineDPOConfig(
        str(tmp_path), use_cpu=True, bf16=False, load_best_model_at_end=True, eval_strategy="steps", report_to="none"
    )
    assert args.metric_for_best_model == "loss"
    tokenizer = build_tokenizer()
    trainer = NashTrainer(
        build_model(tokenizer),
        args=args,
        train_dataset=prompt_dataset(),
        eval_dataset=prompt_dataset(),
        processing_class=tokenizer,
        judge=lambda prompts, first, second: [0.5] * len(prompts),
    )
    assert trainer.args.metric_for_best_model == "policy/win_rate_reference" and trainer.args.greater_is_better


def test_several_evaluation_sets_need_a_name(tmp_path):
    """What no evaluation reports is refused when the trainer is built, not after hours."""
    extra = {"eval_dataset": {"x": prompt_dataset(["c"]), "y": prompt_dataset(["d"])}}
    with pytest.raises(ValueError, match="does not say on which of the datasets x, y.*'eval_x_policy/win_rate_"):
        make_trainer("ipo", tmp_path, extra=extra, save_strategy="best", **EVALUATED)
    options = {"save_strategy": "best", "metric_for_best_model": "eval_y_policy/win_rate_reference"}
    make_trainer("ipo", tmp_path, extra=extra, **options, **EVALUATED)


@pytest.mark.parametrize("metric, mode", [(None, "max"), ("loss", "min")])
@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_watch_a_metric_know_its_direction(schedule, metric, mode, tmp_path):
    """By default they watch the win rate, and a learning rate is not lowered because it rises."""
    args = PairConfig(
        str(tmp_path), use_cpu=True, lr_scheduler_type=schedule, eval_strategy="steps", metric_for_best_model=metric
    )
    assert args.metric_for_best_model == (metric or "policy/win_rate_reference")
    assert args.lr_scheduler_kwargs == {"mode": mode}


def test_a_rate_is_not_lowered_while_the_policy_wins_more(tmp_path):
    trainer = fickle_trainer(
        tmp_path,
        rates=(0.6, 0.7, 0.8),
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0},
    )
    trainer.train()
    assert trainer.optimizer.param_groups[0]["lr"] == trainer.args.learning_rate


# ---- The loss of an evaluation ----


def logratios(model, batch) -> torch.Tensor:
    """log π(y) of each row, from the logits of a plain forward."""
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, :-1]
    labels = batch.labels[:, 1:]
    logps = logits.log_softmax(-1).gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (logps * (labels != -100)).sum(-1).view(len(batch), -1)


@pytest.mark.parametrize("steps", [4, 5], ids=["between rounds", "within a round"])
@pytest.mark.parametrize("algorithm", ["ipo", "onpo-one", "onpo-two", "comal"])
def test_eval_loss_is_that_of_the_fit_that_comes_next(algorithm, steps, tmp_path):
    """
    The mean over pairs of (h - η (P - ½))² around the centre of the next round's first fit, in which the policies to
    come are the live one. Centres are worked out from copies of the weights as each fit began.
    """
    tokenizer = build_tokenizer()
    options = {"reference_rounds": 2} if algorithm == "comal" else {}
    trainer = make_trainer(
        algorithm,
        tmp_path,
        tokenizer=tokenizer,
        num_iterations=2,
        max_steps=steps if algorithm != "onpo-two" else 2 * steps,
        **options,
    )
    kept, begin_fit = {INITIAL: weights(trainer.model)}, trainer._begin_fit

    def begin(rows):
        kept[trainer.live] = weights(trainer.model)
        begin_fit(rows)

    trainer._begin_fit = begin
    trainer.train()
    batches, micro_batches = [], trainer.collector.micro_batches
    trainer.collector.micro_batches = lambda *args: [batches.append(b) or b for b in micro_batches(*args)]
    loss = trainer.evaluate(prompt_dataset(["c", "d e", "a b", "g"]))["eval_loss"]

    rounds = -(-steps // 2)
    (fit, *_) = trainer.fits(trainer.args.past(rounds))
    live, losses, other = weights(trainer.model), [], build_model(tokenizer)
    for batch in batches:
        margins = logratios(trainer.model, batch)
        for policy, weight in fit.centre.items():
            other.load_state_dict(kept.get(policy, live))
            margins = margins - weight * logratios(other, batch)
        h = torch.stack([margins[b, i] - margins[b, j] for b, row in enumerate(batch.pairs) for i, j in row])
        losses.append((h - fit.step_size * (batch.preference.flatten() - 0.5)).square().mean())
    assert len(losses) == 2 and loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-4)
