# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Gradients on recorded pairs, whichever way a round is cut into micro-batches, and the schedules of η, τ and c."""

import pytest
import torch
from helpers import ALGORITHMS, PAIR_ALGORITHMS, favours_a, history, make_trainer, prompt_dataset
from recording import copy_in_fp64, logps_in_fp64, record
from tiny import build_model, build_tokenizer
from transformers import TrainerCallback

from trl_nash.algorithms import INITIAL, Policy
from trl_nash.rounds.batch import Samples


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})


def replay(trainer, recorded: list[Samples]) -> None:
    """`sample_pairs` hands out the recorded completions of the prompts that it is asked for, round after round."""
    drawn = [dict(zip(map(tuple, s.prompt_ids), s.completion_ids, strict=True)) for s in recorded]

    def sample_pairs(prompts):
        prompt_ids = [trainer._tokenizer(prompt).input_ids for prompt in prompts]
        completions = [drawn[trainer.round][tuple(ids)] for ids in prompt_ids]
        return Samples(prompt_ids, completions, recorded[trainer.round].pairs)

    trainer.sample_pairs = sample_pairs


def train(algorithm, tmp_path, batch_size, accumulation, recorded=None, **options):
    """Two rounds of four prompts; returns trainer, fits and the gradients before each optimizer step."""
    gradients = KeepGradients()
    trainer = make_trainer(
        algorithm,
        tmp_path,
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=accumulation,
        num_generations=3,
        seed=2,  # with which some pair of every round has a gradient
        max_steps=2 * (2 if algorithm == "onpo-two" else 1),
        optim="sgd",  # Adam's first step has the size of the sign of a gradient, noise included
        learning_rate=3e-4,
        max_grad_norm=0.0,
        extra={"callbacks": [gradients]},
        **options,
    )
    if recorded is not None:
        replay(trainer, recorded)
    fits = record(trainer)
    trainer.train()
    return trainer, fits, gradients.steps


def relative_distance(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    difference = torch.stack([(first[name] - second[name]).norm() for name in first]).norm()
    return (difference / torch.stack([first[name].norm() for name in first]).norm()).item()


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_four_prompts_at_once_and_one_after_another_give_the_same_gradient(algorithm, lora, tmp_path):
    """
    (batch 4, accumulation 1), (2, 2) and (1, 4) on the same recorded pairs: gradients, losses and metrics of every
    optimizer step agree to 1e-5 although the micro-batches are padded differently. OnlineDPOTrainer's gradient is
    4 times as large with accumulation 4.
    """
    trainer, fits, gradients = train(algorithm, tmp_path, 4, 1, lora=lora)
    recorded = [fit.samples for fit in fits if fit.fit == 0]
    for batch_size, accumulation in [(2, 2), (1, 4)]:
        other, _, others = train(algorithm, tmp_path, batch_size, accumulation, recorded, lora=lora)
        assert len(others) == len(gradients) == trainer.state.global_step
        for first, second in zip(gradients, others, strict=True):
            assert relative_distance(first, second) < 1e-5
        for key in ("loss", "judge/preference", "policy/kl_reference", "completions/mean_length"):
            assert len(history(trainer, key)) >= 2
            assert history(other, key) == pytest.approx(history(trainer, key), rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_gradient_is_that_of_the_mean_over_prompts_of_the_mean_over_pairs(algorithm, tmp_path):
    """
    The first gradient of (1, 4) is that of ¼ Σ_prompts ⅓ Σ_pairs (h - η (P - ½))², written out in fp64 around the
    start with η = 1 (2 for ONPO in one fit), over whole models' log-probs.
    """
    _, fits, gradients = train(algorithm, tmp_path, 1, 4)
    step = 2.0 if algorithm == "onpo-one" else 1.0
    model, samples, tokenizer = copy_in_fp64(fits[0].weights), fits[0].samples, build_tokenizer()
    loss = 0.0
    for prompt, completions in zip(samples.prompt_ids, samples.completion_ids, strict=True):
        logps = [logps_in_fp64(model, prompt, completion).sum() for completion in completions]
        logratio = [logp - logp.detach() for logp in logps]
        texts = [tokenizer.decode(completion, skip_special_tokens=True) for completion in completions]
        for i, j in [(0, 1), (0, 2), (1, 2)]:
            (preference,) = favours_a([""], [texts[i]], [texts[j]])
            loss = loss + (logratio[i] - logratio[j] - step * (preference - 0.5)) ** 2 / 3 / 4
    loss.backward()
    exact = {name: parameter.grad for name, parameter in model.named_parameters()}
    found = {name: gradient.double() for name, gradient in gradients[0].items()}
    assert loss.item() > 1e-3 and relative_distance(exact, found) < 1e-5


# ---- Schedules ----


def three_epochs(algorithm, tmp_path, streamed=False, **options):
    """A trainer over 5 prompts in rounds of 2 (the last is dropped), and round, τ and fit of micro-steps to come."""
    dataset = prompt_dataset(["a", "b", "c", "d", "e"])
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 1, "num_train_epochs": 3} | options
    if streamed:
        dataset = dataset.to_iterable_dataset()
        options["max_steps"] = 6 * options.get("num_iterations", 1)
    trainer = make_trainer(algorithm, tmp_path, dataset=dataset, **options)
    values, objective = [], trainer.objective

    def keep(logps, batch):
        values.append((trainer.round, trainer.beta, trainer.fit))
        return objective(logps, batch)

    trainer.objective = keep
    return trainer, values


@pytest.mark.parametrize("streamed", [False, True], ids=["map-style", "iterable"])
@pytest.mark.parametrize("schedule, expected", [([0.3, 0.2], [0.3, 0.2, 0.2]), ([0.3, 0.2, 0.1], [0.3, 0.2, 0.1])])
def test_beta_is_indexed_by_epoch_in_comals_anchor(schedule, expected, streamed, tmp_path):
    """
    Three epochs of two rounds, each of two passes: in all micro-steps of a round, the last one of an epoch too, τ is
    that of the epoch in which the round began (the last value repeats), and the anchor's weight is η τ = 2 τ.
    """
    trainer, values = three_epochs(
        "comal", tmp_path, streamed, beta=schedule, step_size=2.0, num_iterations=2, reference_rounds=9
    )
    trainer.train()
    assert [beta for _, beta, _ in values] == [expected[round // 2] for round, _, _ in values]
    assert [round for round, _, _ in values] == [round for round in range(6) for _ in range(4)]
    for round, beta, fit in values:
        assert fit.centre == pytest.approx({INITIAL: 2 * beta, Policy(round): 1 - 2 * beta}) and fit.step_size == 2.0


@pytest.mark.parametrize("streamed", [False, True], ids=["map-style", "iterable"])
def test_beta_and_mixture_coef_are_indexed_by_epoch_in_nash_md(streamed, tmp_path):
    """
    τ multiplies the KL and c mixes the opponent of the epoch in which the round was sampled; c = 0 is self-play, and
    c = 1 is the reference.
    """
    trainer, values = three_epochs("nash-md", tmp_path, streamed, beta=[0.3, 0.2, 0.1], mixture_coef=[0.5, 0.0, 1.0])
    sampled = []
    generate = trainer.generate

    def keep(prompts, count, policy=None):
        sampled.append(policy)
        return generate(prompts, count, policy)

    trainer.generate = keep
    trainer.train()
    assert [beta for _, beta, _ in values] == [0.3] * 4 + [0.2] * 4 + [0.1] * 4
    # Two rounds an epoch, two prompts a round, and for each of them the policy's own completions and the opponent's.
    assert sampled == [None, {INITIAL: 0.5}] * 4 + [None, None] * 4 + [None, INITIAL] * 4


@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_step_size_is_indexed_by_round(algorithm, tmp_path):
    """
    Margins are fitted to η (P - ½) with the η of the first, second and third round, and the last one for ever, over
    epochs; twice that for ONPO in one fit.
    """
    trainer, values = three_epochs(algorithm, tmp_path, step_size=[2.0, 1.0, 0.5])
    trainer.judge.function = lambda prompts, first, second: [0.75] * len(first)
    targets = []
    record_fit = trainer.reporter.record_fit
    trainer.reporter.record_fit = lambda margin, target, *rest: (
        targets.append(target.item()) or record_fit(margin, target, *rest)
    )
    trainer.train()
    eta = [2.0, 1.0, 0.5, 0.5, 0.5, 0.5]
    factor, micro_steps = (2 if algorithm == "onpo-one" else 1), (4 if algorithm == "onpo-two" else 2)
    assert [fit.step_size for _, _, fit in values] == [factor * step for step in eta for _ in range(micro_steps)]
    # Identical completions are a tie without being asked about.
    expected = [{0.0, 0.25 * fit.step_size} for _, _, fit in values]
    assert all(target in allowed for target, allowed in zip(targets, expected, strict=True))
    assert sum(target > 0 for target in targets) > len(targets) / 2


def test_schedules_of_one_value_are_numbers(tmp_path):
    """A list of length one means the same as its value."""
    trainer = make_trainer("nash-md", tmp_path, beta=[0.25], mixture_coef=[0.5], model=build_model(build_tokenizer()))
    assert (trainer.args.beta, trainer.args.mixture_coef) == (0.25, 0.5)
    assert trainer.beta == 0.25 and trainer.fit.pairs_from == {INITIAL: 0.5, Policy(0): 0.5}
