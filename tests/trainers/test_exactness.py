# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What reaches the loss of the real trainers: log-probs, anchors and margins, to the last bit where it is possible."""

import pytest
import torch
from helpers import ALGORITHMS, PAIR_ALGORITHMS, history, lora_config, make_trainer, weights
from peft import get_peft_model
from recording import copy_in_fp64, logps_in_fp64, own_rows, record, rows_of
from tiny import build_model, build_tokenizer


ROUNDS = 5
ACCUMULATION = 2
# Two passes over 4 micro-batches of 2 prompts a fit; Nash-MD's rounds are one optimizer step.
FITTED = {"gradient_accumulation_steps": ACCUMULATION, "steps_per_generation": 4, "num_iterations": 2}
ONE_STEP = {"gradient_accumulation_steps": ACCUMULATION, "num_generations": 4}  # so that every round has a gradient
# So that COMAL moves its reference twice in five rounds, and ONPO drops policies from its history.
OWN = {"comal": {"reference_rounds": 2}, "onpo-one": {"anchor_history": 3}}
KINDS = ["full", "full, checkpointing", "LoRA, checkpointing", "pre-wrapped LoRA"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Trains for five rounds, the policy moving visibly, and returns trainer and fits; each run happens once."""
    done = {}

    def train(algorithm, kind, **options):
        key = (algorithm, kind, *options.items())
        if key not in done:
            options = (ONE_STEP if algorithm.startswith("nash") else FITTED) | OWN.get(algorithm, {}) | options
            if kind == "pre-wrapped LoRA":
                options["model"] = get_peft_model(build_model(build_tokenizer()), lora_config())
            trainer = make_trainer(
                algorithm,
                tmp_path_factory.mktemp("run"),
                lora=kind.startswith("LoRA"),
                gradient_checkpointing="checkpointing" in kind,
                learning_rate=5e-3,
                **options,
            )
            trainer.args.max_steps = ROUNDS * trainer.args.optimizer_steps_per_round
            fits = record(trainer)
            trainer.train()
            assert len(fits) == ROUNDS * trainer.args.schedule.fits
            done[key] = trainer, fits
        return done[key]

    return train


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_fit_begins_at_the_previous_policy_bitwise(algorithm, kind, run):
    """
    Until the first optimizer step of a fit, the log-probs that are trained on equal those that the policy was scored
    with when the round was sampled (or, for ONPO's second fit, when that began), bit for bit, in fp32.
    """
    trainer, fits = run(algorithm, kind)
    for fit in fits:
        previous = fit.live
        assert len(fit.steps) == trainer.args.steps_per_generation * trainer.args.num_iterations
        for position, (logps, _) in enumerate(fit.steps):
            assert logps.dtype == torch.float32
            same = torch.equal(logps, previous[position % len(previous)])
            assert same == (position < ACCUMULATION), (fit.round, fit.fit, position)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("algorithm", PAIR_ALGORITHMS)
def test_margin_is_exactly_0_where_the_anchor_is_the_policy(algorithm, kind, run):
    """
    In round 1 every anchor is the policy itself: the logged margin of the first step is 0.0, not 1e-7. Later that
    holds for iterative IPO and for ONPO's second fit; the other anchors have moved away.
    """
    trainer, fits = run(algorithm, kind)
    for fit in fits:
        is_policy = fit.round == 0 or algorithm == "ipo" or fit.fit == 1
        # COMAL's reference is the policy again when it has just been moved.
        is_policy |= algorithm == "comal" and fit.round % 2 == 0
        for logps, batch in fit.steps[:ACCUMULATION]:
            assert torch.equal(logps, batch.centre_logps) == is_policy, (fit.round, fit.fit)
    steps = trainer.args.optimizer_steps_per_round
    margins, targets = history(trainer, "fit/margin"), history(trainer, "fit/target")
    assert margins[0] == 0.0 and targets[0] > 0.0
    assert all(margin != 0.0 for margin in margins[1 : steps // trainer.args.schedule.fits])
    if targets[steps] > 0.0:  # else the judge was undecided on the whole step, which then has no direction
        assert (margins[steps] == 0.0) == (algorithm == "ipo")


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", ["full", "LoRA, checkpointing"])
def test_log_probs_are_those_of_the_completion_at_the_sampling_temperature(kind, temperature, run):
    """
    Trained-on log-probs are log softmax(logits / T) of the completion's tokens, EOS included, of one sequence alone
    without padding, in fp64; prompt and padding count exactly 0.
    """
    trainer, fits = run("ipo", kind, temperature=temperature, num_generations=3)
    assert trainer.sampler.config.temperature == temperature
    eos = trainer._tokenizer.eos_token_id
    rows = [own_rows(fit.samples, 3) for fit in fits]
    assert {len(prompt) for prompt, _ in rows[0]} == {1, 2, 3}
    ended = [completion[-1] == eos for fitted in rows for _, completion in fitted]
    assert any(ended) and not all(ended)
    for fit, fitted in zip(fits, rows, strict=True):
        model, differences = copy_in_fp64(fit.weights, lora="LoRA" in kind), []
        for (prompt, completion), logps in zip(fitted, rows_of(fit.batches, fit.live), strict=True):
            expected = logps_in_fp64(model, prompt, completion, temperature)
            torch.testing.assert_close(logps.double(), expected, rtol=0, atol=2e-5)
            assert eos not in completion[:-1]
            differences.append((logps_in_fp64(model, prompt, completion, 0.8) - expected).abs().max())
        assert max(differences) > 1e-2  # another temperature is another policy


def test_rows_are_prompts_with_their_own_completions_padded_on_the_right(run):
    """Rows are prompt + completion + padding, K rows a prompt in order; labels are the completion's tokens alone."""
    trainer, fits = run("ipo", "full", temperature=1.0, num_generations=3)
    tokenizer = trainer._tokenizer
    prompts = {tuple(tokenizer(prompt).input_ids) for prompt in trainer.train_dataset["prompt"]}
    assert {tuple(prompt) for prompt in fits[0].samples.prompt_ids} == prompts
    rows = iter(own_rows(fits[0].samples, 3))
    for batch in fits[0].batches:
        width = batch.input_ids.size(1)
        for ids, mask, labels in zip(batch.input_ids, batch.attention_mask, batch.labels, strict=True):
            prompt, completion = next(rows)
            padding = width - len(prompt) - len(completion)
            assert ids.tolist() == prompt + completion + [tokenizer.pad_token_id] * padding
            assert mask.tolist() == [1] * (width - padding) + [0] * padding
            assert labels.tolist() == [-100] * len(prompt) + completion + [-100] * padding
    assert next(rows, None) is None


def expected_anchor(algorithm: str, round: int, fit: int) -> list[tuple[tuple[int, int], float]]:
    """Weights of the policies at the start of earlier fits, named (round, fit), by hand from the papers."""
    if algorithm.startswith("nash"):
        return [((0, 0), 1.0)]  # μ
    if algorithm == "comal":  # η τ = 1/3; the reference moves every 2 rounds to the policy of that moment
        return [((round - round % 2, 0), 1 / 3), ((round, 0), 2 / 3)]
    if algorithm == "onpo-two":  # fit 1 around π'_t, which is where fit 2 of the round before began; π'_1 = π_1
        return [((round, 1), 1.0)] if fit == 1 else [((max(round - 1, 0), min(round, 1)), 1.0)]
    if algorithm == "onpo-one":  # a history of 3: ½ and ¼, and the remainder on the oldest
        shares = [[1.0], [0.5, 0.5], [0.5, 0.25, 0.25]][min(round, 2)]
        return [((round - age, 0), share) for age, share in enumerate(shares)]
    return [((round, 0), 1.0)]


@pytest.mark.parametrize("kind", ["full", "LoRA, checkpointing", "pre-wrapped LoRA"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_anchors_are_the_combination_that_the_paper_writes(algorithm, kind, run):
    """
    `centre_logps` over 5 rounds equal the log-linear combination of the policies as they stood at the start of earlier
    fits, each scored in fp64: COMAL after it has moved its reference twice, ONPO with a full and a truncated history.
    """
    trainer, fits = run(algorithm, kind)
    models = {(fit.round, fit.fit): copy_in_fp64(fit.weights, lora="LoRA" in kind) for fit in fits}
    for fit in fits:
        here, shares = (fit.round, fit.fit), expected_anchor(algorithm, fit.round, fit.fit)
        rows = own_rows(fit.samples, trainer.args.num_generations)
        anchors = rows_of(fit.batches, [batch.centre_logps for batch in fit.batches])
        distance = 0.0  # of the anchor from the policy itself
        for (prompt, completion), anchor in zip(rows, anchors, strict=True):
            scores = {key: logps_in_fp64(models[key], prompt, completion) for key, _ in [*shares, (here, None)]}
            expected = sum(share * scores[key] for key, share in shares)
            torch.testing.assert_close(anchor.double(), expected, rtol=0, atol=2e-5)
            distance = max(distance, (scores[here] - expected).abs().max().item())
        assert distance > 1e-2 if {key for key, _ in shares} != {here} else distance < 1e-12


@pytest.mark.parametrize("lora", [False, True], ids=["full", "LoRA"])
def test_an_explicit_reference_is_in_comals_anchor_until_it_moves(lora, tmp_path):
    """Rounds 1 and 2: ⅓ log ref_model + ⅔ log π_t; from round 3 on the policy of that moment is in its place."""
    other = build_model(build_tokenizer(), seed=5)
    options = {"gradient_accumulation_steps": 4, "learning_rate": 5e-3, "reference_rounds": 2, "max_steps": 4}
    trainer = make_trainer("comal", tmp_path, lora=lora, extra={"ref_model": other}, **options)
    fits = record(trainer)
    trainer.train()
    given = copy_in_fp64(weights(build_model(build_tokenizer(), seed=5)))
    live = [copy_in_fp64(fit.weights, lora) for fit in fits]
    for fit in fits:
        reference = given if fit.round < 2 else live[2]
        anchors = rows_of(fit.batches, [batch.centre_logps for batch in fit.batches])
        for (prompt, completion), anchor in zip(own_rows(fit.samples, 2), anchors, strict=True):
            scores = [logps_in_fp64(model, prompt, completion) for model in (reference, live[fit.round])]
            torch.testing.assert_close(anchor.double(), scores[0] / 3 + scores[1] * 2 / 3, rtol=0, atol=2e-5)
