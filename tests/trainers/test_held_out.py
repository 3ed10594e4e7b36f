# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Prompts that a round's fits do not train on: which they are, that no gradient sees them, what is said of them."""

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import PAIR_ALGORITHMS, answer_with, equal, favours_a, history, make_trainer, prompt_dataset, weights
from recording import copy_in_fp64, logps_in_fp64, record
from test_gradients import KeepGradients, relative_distance, replay
from tiny import build_model, build_tokenizer
from transformers import TrainerCallback

from trl_nash.rounds.held_out import HeldOut
from trl_nash.rounds.schedule import Schedule
from trl_nash.trainers.run.held_out import HeldOutPrompts
from trl_nash.trainers.run.reports.advice import ADVICE, Facts
from trl_nash.trainers.run.reports.generalisation import Generalisation


def fit(algorithm, folder, batch_size, accumulation=1, recorded=None, **options):
    """A round of four prompts, two of them held out unless said otherwise: trainer, fits, gradients of its steps."""
    gradients = KeepGradients()
    options = {
        "fit_held_out": 0.5,
        "num_generations": 3,
        "max_steps": 2 if algorithm == "onpo-two" else 1,
        "optim": "sgd",
        "learning_rate": 3e-4,
        "max_grad_norm": 0.0,
    } | options
    trainer = make_trainer(
        algorithm,
        folder,
        model=build_model(build_tokenizer()).double(),
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        extra={"callbacks": [gradients]},
        **options,
    )
    if recorded is not None:
        replay(trainer, recorded)
    fits = record(trainer)
    trainer.train()
    return trainer, fits, gradients.steps


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_gradients_are_those_of_the_round_without_the_prompts_that_are_held_out(algorithm, lora, tmp_path):
    """In fp64, for (batch 4, accumulation 1), (2, 2) and (1, 4); the second of two fits holds the same prompts out."""
    trainer, fits, gradients = fit(algorithm, tmp_path, 4, lora=lora)
    recorded = [fits[0].samples]
    kept = (~trainer.args.held_out.mask(0)).flatten().tolist()
    ids = [prompt for prompt, trained in zip(recorded[0].prompt_ids, kept, strict=True) if trained]
    rows = prompt_dataset(trainer._tokenizer.batch_decode(ids))
    without = fit(algorithm, tmp_path, 2, recorded=recorded, lora=lora, dataset=rows, fit_held_out=0.0)
    found = [gradients] + [fit(algorithm, tmp_path, b, a, recorded, lora=lora)[2] for b, a in [(2, 2), (1, 4)]]
    for steps in found:
        assert len(steps) == len(without[2]) == trainer.state.global_step
        assert all(relative_distance(a, b) < 1e-6 for a, b in zip(without[2], steps, strict=True))
    for name in ("loss", "fit/margin", "fit/target", "fit/r2"):
        assert history(trainer, name) == pytest.approx(history(without[0], name), rel=1e-6, abs=1e-12)
    assert history(trainer, "fit/target")[0] > 0


class BeforeTheLastStep(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.weights = weights(model)


def r_squared(prompts, before, after, step_size):
    """Of the margins of all pairs of prompts with their completions, from ordinary forwards of two models."""
    margins, targets = [], []
    for prompt, completions in prompts:
        logratio = [
            (logps_in_fp64(after, prompt, ids).sum() - logps_in_fp64(before, prompt, ids).sum()).item()
            for ids in completions
        ]
        texts = [build_tokenizer().decode(ids, skip_special_tokens=True) for ids in completions]
        for i, j in [(0, 1), (0, 2), (1, 2)]:
            margins.append(logratio[i] - logratio[j])
            targets.append(step_size * (favours_a([""], [texts[i]], [texts[j]])[0] - 0.5))
    margins, targets = np.array(margins), np.array(targets)
    return 1 - ((margins - targets) ** 2).sum() / (targets**2).sum()


def test_r2_is_that_of_the_models_own_forward(tmp_path):
    """
    Three passes of one step each: the last one sees the policy behind the second. What is held out is logged there
    alone, what is trained on in each.
    """
    last = BeforeTheLastStep()
    trainer = make_trainer(
        "ipo",
        tmp_path,
        num_generations=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        num_iterations=3,
        max_steps=3,
        fit_held_out=0.5,
        learning_rate=3e-3,
        extra={"callbacks": [last]},
    )
    fits = record(trainer)
    trainer.train()
    (fit,) = fits
    samples, mask = fit.samples, trainer.args.held_out.mask(0).flatten().tolist()
    own = list(zip(samples.prompt_ids, samples.completion_ids, strict=True))
    assert len(own) == 8
    sides = [[row for row, held_out in zip(own, mask, strict=True) if held_out == side] for side in (True, False)]
    before, after = copy_in_fp64(fit.weights), copy_in_fp64(last.weights)
    held_out, trained = (r_squared(side, before, after, 1.0) for side in sides)
    assert history(trainer, "fit/r2_held_out") == [pytest.approx(held_out, rel=1e-4)]
    assert "fit/r2_held_out" in trainer.state.log_history[2]
    assert history(trainer, "fit/r2")[-1] == pytest.approx(trained, rel=1e-4)
    assert trained != pytest.approx(held_out, abs=0.01)


@pytest.mark.parametrize("algorithm", ["onpo-two", "comal"])
def test_a_run_that_is_resumed_within_a_round_holds_out_the_same_prompts(algorithm, tmp_path):
    options = {
        "fit_held_out": 0.25,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "max_steps": 16 if algorithm == "onpo-two" else 8,
        "save_strategy": "steps",
        "save_steps": 3,
        "lora": algorithm == "comal",
        "judge": of_no_rule,
    }
    whole = make_trainer(algorithm, tmp_path / "whole", **options)
    whole.train()
    resumed = make_trainer(algorithm, tmp_path / "resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert equal(weights(resumed.model), weights(whole.model))
    r2 = history(whole, "fit/r2_held_out")
    assert len(r2) >= 2 and history(resumed, "fit/r2_held_out") == r2


def test_nothing_is_held_out_of_an_evaluation(tmp_path):
    rows = {"eval_dataset": prompt_dataset()}
    kept = []
    for share in (0.0, 0.5):
        trainer = make_trainer("ipo", tmp_path, fit_held_out=share, steps_per_generation=2, extra=rows)
        metrics = trainer.evaluate().items()
        kept.append({name: value for name, value in metrics if "time" not in name and "per_second" not in name})
    assert kept[0] == kept[1] and "eval_fit/r2_held_out" not in kept[0]


# ---- Which prompts ----

SCHEDULES = [Schedule(4, 2, 1, 2), Schedule(8, 1, 2, 8), Schedule(3, 2, 1, 2), Schedule(2, 2, 1, 4)]


def held_out(share, batch, world_size, schedule, seed=0):
    return HeldOut(share, batch, world_size, schedule, seed)


def test_they_do_not_depend_on_the_number_of_processes():
    """Positions in the round, of which each process takes a run."""

    def positions(world_size, batch, round):
        mask = held_out(0.125, batch, world_size, Schedule(4, accumulation=2)).mask(round)
        return mask.transpose(0, 1).flatten().tolist()

    for round in range(4):
        assert positions(1, 16, round) == positions(2, 8, round) == positions(4, 4, round)
        assert sum(positions(1, 16, round)) == 8
    assert positions(1, 16, 0) != positions(1, 16, 1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("batch", "world_size"), [(4, 1), (2, 2), (1, 3)])
def test_the_loss_of_a_step_is_the_mean_over_its_trained_prompts(schedule, batch, world_size):
    """Over processes and micro-steps, also where an optimizer step goes over from one pass to the next."""
    chosen = held_out(0.4, batch, world_size, schedule)
    assert chosen.mask(3).sum() == chosen.count > 0
    losses = torch.rand(schedule.steps, world_size, batch, dtype=torch.float64)
    args = SimpleNamespace(fit_held_out=0.4, held_out=chosen)
    steps = schedule.micro_steps_per_round // schedule.accumulation
    for step in range(steps):
        found, trained = [], []
        first = 3 * schedule.micro_steps_per_round + step * schedule.accumulation
        for place in map(schedule.place, range(first, first + schedule.accumulation)):
            for rank in range(world_size):
                process = SimpleNamespace(process_index=rank)
                prompts = HeldOutPrompts(args, process, lambda place=place: place, lambda: True)
                found.append(prompts.mean(losses[place.step, rank]))
            trained.append(losses[place.step][~chosen.mask(place.round)[place.step]])
        assert torch.stack(found).mean() == pytest.approx(torch.cat(trained).mean().item())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_step_keeps_a_prompt_of_the_most_that_can_be_held_out(schedule):
    chosen = held_out(0.0, 2, 2, schedule)
    chosen = held_out(chosen.most / chosen.prompts, 2, 2, schedule)
    mask = chosen.mask(0)
    assert mask.sum() == chosen.count == chosen.most
    for micro_step in range(schedule.micro_steps_per_fit):
        assert (~mask[schedule.optimizer_step(schedule.place(micro_step))]).any()


ONE = {"per_device_train_batch_size": 1}


@pytest.mark.parametrize(
    ("algorithm", "options", "sentence"),
    [
        (
            "ipo",
            {"fit_held_out": 0.1},
            "`fit_held_out=0.1` holds out none of the 4 prompts of a round: raise",
        ),
        ("ipo", {"fit_held_out": 0.9}, "holds out 4 of the 4 prompts of a round, and at most 2 can be"),
        ("ipo", {"fit_held_out": 1.0}, "holds out 4 of the 4 prompts of a round, and at most 2 can be"),
        (
            "ipo",
            {"fit_held_out": 0.5} | ONE,
            "1 of the 2 prompts of a round, and at most 0 can",
        ),
        ("ipo", {"fit_held_out": -0.1}, "`fit_held_out` must be between 0 and 1, got -0.1"),
        ("ipo", {"fit_held_out": float("nan")}, "`fit_held_out` must be between 0 and 1, got nan"),
        (
            "nash-md",
            {"fit_held_out": 0.5},
            "`fit_held_out=0.5` has no meaning in NashMDConfig: a policy gradient",
        ),
    ],
)
def test_what_is_refused(algorithm, options, sentence, tmp_path):
    rounds = {} if algorithm == "nash-md" else {"steps_per_generation": 2}
    with pytest.raises(ValueError, match=sentence):
        make_trainer(algorithm, tmp_path, **rounds | options)


# ---- What is said ----


def of_no_rule(prompts, first, second):
    """Prefers at random, by prompt and texts: there is nothing that another prompt could teach."""

    def verdict(prompt, a, b):
        return 0.5 if a == b else 0.05 + 0.9 * random.Random(" | ".join([prompt, *sorted((a, b))])).random()

    found = [verdict(*row) for row in zip(prompts, first, second, strict=True)]
    return [p if a <= b else 1 - p for p, a, b in zip(found, first, second, strict=True)]


of_no_rule.symmetric = True


def play(folder, prompts, answers=None, learning_rate=1e-4):
    """Two rounds of 32 prompts, half of them held out, fitted as long as it takes."""
    trainer = make_trainer(
        "ipo",
        folder,
        judge=of_no_rule,
        dataset=prompt_dataset(prompts),
        model=build_model(build_tokenizer(), hidden_size=128, intermediate_size=256),
        per_device_train_batch_size=32,
        num_iterations=30,
        max_steps=60,
        warmup_steps=30,
        logging_steps=1,
        step_size=2.0,
        learning_rate=learning_rate,
        fit_held_out=0.5,
    )
    if answers is not None:
        answer_with(trainer, answers)
    trainer.train()
    return trainer


@pytest.fixture
def memorising(caplog):
    caplog.set_level(logging.WARNING, logger="trl_nash")
    return lambda: [record.getMessage() for record in caplog.records if "memorise" in record.getMessage()]


def test_a_fit_that_memorises_is_said_once(tmp_path, memorising):
    """Another prompt and its answers teach nothing. With 16 prompts held out a round: in the second one."""
    words = "a b c d e f g h".split()
    play(tmp_path, [f"{a} {b} {c}" for a in words for b in words for c in "a"])
    (message,) = memorising()
    assert "Fits up to round 2 come to an R² of" in message
    assert all(f"`{name}`" in message for name in ("generation_batch_size", "num_iterations", "learning_rate"))


def test_what_is_held_out_is_fitted_where_it_is_what_is_trained_on(tmp_path, memorising):
    """One prompt 64 times with the same two answers: what is held out has the R² of what is trained on."""
    trainer = play(tmp_path, ["a"] * 64, ["b <eos>", "c d <eos>"], learning_rate=2e-5)
    ends = [entry for entry in trainer.state.log_history if "fit/r2_held_out" in entry]
    assert len(ends) == 2
    assert all(entry["fit/r2_held_out"] == pytest.approx(entry["fit/r2"], abs=1e-5) for entry in ends)
    assert ends[-1]["fit/r2"] > 0.6 and not memorising()


@pytest.mark.parametrize(
    ("passes", "prompts", "trained", "held_out", "said"),
    [
        (2, 32, 0.7, 0.3, True),
        (2, 32, 0.7, 0.4, False),
        (2, 31, 0.7, 0.3, False),
        (2, 32, 0.5, 0.0, False),
        (1, 32, 0.7, 0.3, False),
    ],
)
def test_when_a_fit_memorises(passes, prompts, trained, held_out, said):
    known = {"held_out/prompts": prompts, "held_out/r2_end": trained, "held_out/r2": held_out, "passes": passes}
    (advice,) = [advice for advice in ADVICE if advice.name == "memorises"]
    assert advice.holds(Facts(known)) == said


def test_one_fit_that_overshoots_does_not_outweigh_the_others():
    """R² of -357 in the first round, then fits that generalise."""
    seen = Generalisation()
    for trained, held_out in [(-357.0, -400.0)] + [(0.8, 0.7)] * 3:
        seen.add({"fit/r2_end": trained, "fit/r2_held_out": held_out})
    seen.add({"fit/r2_end": 0.9})
    expected = {"held_out/prompts": 8, "held_out/r2_end": 0.8 * 3 / 4, "held_out/r2": 0.7 * 3 / 4}
    assert seen.facts(2) == pytest.approx(expected)
