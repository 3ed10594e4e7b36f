# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How often policies are run: those that a fit names, times the round, and no more."""

import pytest
import torch
from helpers import ALGORITHMS, make_trainer, prompt_dataset
from recording import record

from trl_nash.algorithms import INITIAL, START, Policy
from trl_nash.trainers.run.scorer import KL_SAMPLE


ROUND = {"dataset": prompt_dataset(["a", "b c", "c d e", "d", "e f", "f g h", "g", "h a"]), "learning_rate": 5e-3}


def counted(algorithm, tmp_path, rounds=3, **options):
    """What was scored in each fit, in rows, by policy; and how many rows the fit itself trained on."""
    trainer = make_trainer(algorithm, tmp_path, **ROUND | options)
    trainer.args.max_steps = rounds * trainer.args.optimizer_steps_per_round
    fits = []
    centre, under = trainer.scorer.centre, trainer.scorer.under

    def begin(*args):
        fits.append({})
        return centre(*args)

    def count(policy, batches, *args, **kwargs):
        fits[-1][policy] = fits[-1].get(policy, 0) + sum(batch.input_ids.size(0) for batch in batches)
        return under(policy, batches, *args, **kwargs)

    trainer.scorer.centre, trainer.scorer.under = begin, count
    trainer.train()
    return fits


@pytest.mark.parametrize("algorithm", list(ALGORITHMS))
def test_a_round_of_one_step_does_not_score_the_policy_itself(algorithm, tmp_path):
    """In the first round nothing is scored at all: every centre is the policy."""
    fits = counted(algorithm, tmp_path, gradient_accumulation_steps=4)
    rounds = [fits[k :: len(fits) // 3] for k in range(len(fits) // 3)]
    assert rounds[0][0] == {}
    for fit in range(len(rounds)):
        for round, scored in enumerate(rounds[fit]):
            assert Policy(round, fit) not in scored


def test_a_policy_that_was_changed_is_scored_once(tmp_path):
    """COMAL with 4 optimizer steps a round of 16 rows: of the live policy the 12 rows after the first step."""
    fits = counted("comal", tmp_path, steps_per_generation=4, reference_rounds=2)
    assert fits == [{START: 12}, {INITIAL: 16, Policy(1): 12}, {Policy(2): 12, INITIAL: 4}]


def test_a_policy_that_only_a_metric_asks_for_is_scored_on_a_sample(tmp_path):
    """ONPO with two fits never names the start: `KL_SAMPLE` completions of it, of what comes before the first step."""
    dataset = prompt_dataset(["a", "b c", "c d e", "d"] * KL_SAMPLE)
    options = {"dataset": dataset, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4}
    fits = counted("onpo-two", tmp_path, rounds=2, steps_per_generation=8, **options)
    rows = 16 * 8 * 2
    assert fits[2] == {Policy(0, 1): rows, INITIAL: KL_SAMPLE}
    assert fits[3] == {Policy(1, 1): rows // 2}  # the second fit's own policy, behind its first step


@pytest.mark.parametrize("algorithm", ["ipo", "comal", "onpo-one", "onpo-two"])
def test_what_the_fit_gives_is_what_scoring_gives_bitwise(algorithm, tmp_path):
    """With the policy scored ahead everywhere, centres and losses are the same bits."""

    def run(ahead: bool):
        trainer = make_trainer(
            algorithm, tmp_path / str(ahead), **ROUND, steps_per_generation=4, num_iterations=2, max_steps=16
        )
        if ahead:
            centre = trainer.scorer.centre
            trainer.scorer.centre = lambda fit, batches, live, first, references: centre(
                fit, batches, live, 0, references
            )
        fits = record(trainer)
        trainer.train()
        return fits, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    (fits, losses), (others, same) = run(False), run(True)
    assert losses == same and len(losses) == 16
    for one, other in zip(fits, others, strict=True):
        for (_, batch), (_, expected) in zip(one.steps, other.steps, strict=True):
            assert torch.equal(batch.centre_logps, expected.centre_logps)


def test_the_kl_metric_has_a_standard_error(tmp_path):
    """Its mean and standard error are those of the prompts' means, worked out from what was trained on."""
    trainer = make_trainer("ipo", tmp_path, **ROUND, gradient_accumulation_steps=4, max_steps=3)
    fits = record(trainer)
    trainer.train()
    start = fits[0].weights
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    for fit, entry in zip(fits[1:], logged[1:], strict=True):
        now = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        divergences = []
        for logps, batch in fit.steps:
            trainer.model.load_state_dict(start)
            with torch.no_grad():
                kl = (logps - trainer.score(trainer.model, batch)).sum(-1)
            divergences.append(kl.view(len(batch), -1).mean(-1))
        trainer.model.load_state_dict(now)
        divergences = torch.cat(divergences).double()
        assert entry["policy/kl_reference"] == pytest.approx(divergences.mean().item(), abs=1e-5)
        error = divergences.std() / len(divergences) ** 0.5
        assert entry["policy/kl_reference_se"] == pytest.approx(error.item(), rel=1e-3)
