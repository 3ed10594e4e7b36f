# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run warns of, once each, with the option that repairs it; and a healthy run that says nothing."""

import logging

import pytest
from helpers import answer_with, make_trainer

from trl_nash import COMALConfig
from trl_nash.learning_rates import OF_ADAPTERS
from trl_nash.trainers.run.reports.advice import ADVICE, Facts, fell_short, reached


HEALTHY = {"num_iterations": 8, "max_steps": 48, "learning_rate": 3e-4, "per_device_train_batch_size": 8}


@pytest.fixture
def said(caplog):
    """The warnings of this package's trainers so far."""
    caplog.set_level(logging.WARNING, logger="trl_nash")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "trl_nash"]


def one(said, option: str) -> str:
    """The only warning that names an option."""
    (found,) = [message for message in said() if f"`{option}`" in message]
    return found


def quick_to_end(trainer) -> None:
    """Completions of the tiny model end by chance in one of 21 tokens; here each is taken to end where it is cut."""
    trainer.reporter._eos_token_ids = list(range(len(trainer._tokenizer)))


def later_word(prompts, first, second):
    """The text that sorts later wins nine times of ten."""
    return [0.5 if a == b else 0.1 + 0.8 * (a > b) for a, b in zip(first, second, strict=True)]


later_word.symmetric = True


def test_a_healthy_run_says_nothing(tmp_path, said):
    """Its step is not small: at 2 the KL is still within its error of 0 after five rounds of a good R²."""
    trainer = make_trainer("ipo", tmp_path, judge=later_word, step_size=8.0, **HEALTHY)
    quick_to_end(trainer)
    trainer.train()
    assert trainer.state.log_history[-2]["round"] == 6 and said() == []


def test_an_adapter_with_a_rate_for_all_weights(tmp_path, said):
    """As trainers are built: of the config's default, once, and not of a rate for adapters nor of all weights."""
    default = COMALConfig(str(tmp_path), use_cpu=True, bf16=False).learning_rate
    make_trainer("comal", tmp_path, learning_rate=default)
    make_trainer("comal", tmp_path, lora=True, learning_rate=1e-4)
    assert said() == []
    make_trainer("comal", tmp_path, lora=True, learning_rate=default)
    (message,) = said()
    assert "`learning_rate=5e-07`" in message and f"`learning_rate={OF_ADAPTERS:g}`" in message


def test_fits_that_reach_nothing(tmp_path, said):
    """Of the second round and not of the first, once in a run; a run of one round says it at its end."""
    options = HEALTHY | {"learning_rate": 5e-7, "num_iterations": 4}
    for rounds in (1, 4):
        trainer = make_trainer("comal", tmp_path, **options | {"max_steps": 4 * rounds})
        quick_to_end(trainer)
        trainer.train()
    message, again = [message for message in said() if "of their targets" in message]
    assert "The fits of round 1 reach 1% of their targets, so the policy hardly moves" in message
    assert "The fits of round 2 reach 0% of their targets" in again and "`num_iterations` (4)" in again
    assert "`learning_rate` (5e-07; " in again and not any("policy is still" in message for message in said())


def test_steps_of_one_policy_gradient_that_do_not_move_it(tmp_path, said):
    """After 20 steps, not before: fits of one step do not say how far they come."""
    options = HEALTHY | {"learning_rate": 5e-7, "num_iterations": 1, "gradient_accumulation_steps": 1}
    early = make_trainer("nash-md", tmp_path, **options | {"max_steps": 16})
    quick_to_end(early)
    early.train()
    assert not any("`learning_rate`" in message for message in said())
    trainer = make_trainer("nash-md", tmp_path, **options)
    quick_to_end(trainer)
    trainer.train()
    message = one(said, "learning_rate")
    assert "After 20 rounds the policy is still the one" in message and "5e-07" in message


def test_a_warm_up_is_waited_for(tmp_path, said):
    options = HEALTHY | {"learning_rate": 5e-7, "num_iterations": 4, "max_steps": 24, "warmup_steps": 12}
    trainer = make_trainer("ipo", tmp_path, **options)
    trainer.train()
    assert "The fits of round 5 " in one(said, "learning_rate")


@pytest.mark.parametrize(
    ("changed", "short"),
    [
        ({}, True),
        ({"fit/margin": -0.2}, True),
        ({"fit/margin": 0.5}, False),  # on the way, half of the targets' size in the mean
        ({"fit/r2_end": 0.4}, False),
        ({"fit/r2_end": -1.0}, False),  # too far
        ({"policy/kl_reference": 0.5, "policy/kl_reference_se": 0.1}, False),  # moved by many partial fits
        ({"policy/kl_reference": 0.5, "policy/kl_reference_se": 0.4}, False),  # of a still one there is no noise
        ({"policy/kl_reference": 0.02, "policy/kl_reference_se": 0.04}, True),
        ({"policy/kl_reference": -0.9, "policy/kl_reference_se": 0.5}, False),
        ({"steps_per_fit": 1}, False),
        ({"fit/target": 0.0}, False),
    ],
)
def test_which_fits_fell_short(changed, short):
    facts = {"fit/r2_end": 0.02, "fit/margin": 0.01, "fit/target": 1.0, "steps_per_fit": 4} | changed
    assert fell_short(Facts(facts | {"reached": reached(facts)})) == short


@pytest.mark.parametrize(
    ("changed", "learned"),
    [
        ({}, True),  # measured: COMAL on SmolLM2-135M with a step of 6, which won little
        ({"policy/kl_reference": 1.0, "policy/kl_reference_se": 0.6}, False),  # measured, on 4 prompts
        ({"policy/kl_reference": -0.9, "policy/kl_reference_se": 0.5}, False),
        ({"policy/kl_reference": 11.2, "policy/kl_reference_se": 1.2}, False),  # the same with a step of 24
        ({"fit/r2_end": 0.2}, False),
        ({"passes": 1}, False),  # new texts in each step: what it reaches it has not seen
        ({"round": 4}, False),
        ({"policy/kl_reference": float("nan")}, False),
    ],
)
def test_which_fits_learn_by_heart(changed, learned):
    facts = {"round": 5, "warm_steps": 32, "passes": 2, "fit/r2_end": 0.71}
    facts |= {"policy/kl_reference": 0.05, "policy/kl_reference_se": 0.07} | changed
    (advice,) = [advice for advice in ADVICE if advice.name == "by heart"]
    assert advice.holds(Facts(facts)) == learned
    assert "Raise `step_size`" in advice.sentence.format_map(facts)


def test_a_fit_that_overshoots(tmp_path, said):
    trainer = make_trainer("ipo", tmp_path, **HEALTHY | {"learning_rate": 0.3, "max_steps": 16})
    trainer.train()
    message = one(said, "step_size")
    assert "R² -" in message and "`learning_rate`" in message


def test_completions_that_are_cut(tmp_path, said):
    trainer = make_trainer("ipo", tmp_path, max_steps=4)
    answer_with(trainer, ["a a a a a", "b <eos>"])
    trainer.train()
    assert not any("`max_new_tokens`" in message for message in said())  # half of them
    answer_with(trainer, ["a a a a a", "b b b b b"])
    trainer.train()
    assert "100% of the completions of round 1 were cut" in one(said, "max_new_tokens")


def test_pairs_of_one_text(tmp_path, said):
    trainer = make_trainer("ipo", tmp_path, max_steps=3)
    answer_with(trainer, ["a <eos>", "a <eos>"])
    trainer.train()
    assert "In 100% of the pairs of round 1" in one(said, "temperature")


def test_completions_without_text(tmp_path, said):
    trainer = make_trainer("ipo", tmp_path, max_steps=3, max_nan_rate=1.0)
    answer_with(trainer, ["<eos>", "<eos>"])
    trainer.train()
    assert "100% of the completions of round 1 have no text" in one(said, "strip_thinking")


@pytest.mark.parametrize(("bias", "warned"), [(0.4, False), (0.6, True)])
def test_a_judge_that_looks_at_the_position(bias, warned, tmp_path, said):
    """Always (1 + bias) / 2 for the first: P(a over b) + P(b over a) - 1 is the bias."""
    trainer = make_trainer("ipo", tmp_path, judge=lambda prompts, a, b: [(1 + bias) / 2] * len(a), max_steps=2)
    answer_with(trainer, ["a <eos>", "b <eos>"])
    trainer.train()
    assert any("position bias 0.60" in message for message in said()) == warned


def test_a_judge_that_prefers_nothing(tmp_path, said):
    trainer = make_trainer("ipo", tmp_path, judge=lambda prompts, a, b: [0.5] * len(a), max_steps=3)
    answer_with(trainer, ["a <eos>", "b <eos>"])
    trainer.train()
    (message,) = [message for message in said() if "exactly 0" in message]
    assert "`judge`" in message and "round 1" in message


def test_each_sentence_can_be_said():
    """None names a fact that there is not."""
    facts = Facts({"round": 3, "max_new_tokens": 64})
    assert all(str(advice.sentence.format_map(facts)).count("3") for advice in ADVICE)
    assert not any(advice.holds(facts) for advice in ADVICE)


@pytest.mark.parametrize(
    ("kl", "error", "still"), [(0.0, 0.0, True), (-0.0005, 0.001, True), (0.5, 0.3, False), (-0.5, 0.3, False)]
)
def test_an_estimate_below_0_is_of_a_policy_that_moved_too(kl, error, still):
    facts = Facts({"policy/kl_reference": kl, "policy/kl_reference_se": error, "round": 9, "warm_steps": 40})
    (advice,) = [one for one in ADVICE if "still the one" in one.sentence]
    assert advice.holds(facts) == still
