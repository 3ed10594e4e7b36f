# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The log-probs that vLLM (a fake) gives with its samples: measured, kept with completions, and corrected for."""

import pytest
import torch
from helpers import equal, history, weights
from pushed import watch

from trl_nash.trainers.run.reports.advice import LOGP_GAP


def test_the_gap_is_measured_and_said_where_it_is_large(vllm, tmp_path, caplog):
    """The engine that has the policy agrees with it; one that has another says that it does not."""
    trainer = vllm("ipo", tmp_path, max_steps=2)
    trainer.train()
    assert max(history(trainer, "sampling/logp_gap")) < 1e-4
    means, quantiles = history(trainer, "sampling/logp_gap"), history(trainer, "sampling/logp_gap_p99")
    assert len(means) == 2 and all(p99 >= mean for p99, mean in zip(quantiles, means, strict=True))
    assert "are not the policy's" not in caplog.text

    trainer = vllm("ipo", tmp_path, max_steps=2, path="other", model=trainer.model)
    trainer.sampler._vllm.push = lambda model: None  # it keeps what it has read
    trainer.train()
    assert min(history(trainer, "sampling/logp_gap")) > LOGP_GAP
    assert caplog.text.count("The log-probs that vLLM gives with its samples are not the policy's") == 1


def test_tokens_without_a_log_prob_count_nowhere(vllm, tmp_path):
    """vLLM may have none: TRL says `None`."""
    trainer = vllm("self-play", tmp_path, max_steps=1)
    generation = trainer.sampler._vllm._vllm
    generate = generation.generate
    generation.generate = lambda *args: (*(found := generate(*args))[:2], [[[None]] * len(r) for r in found[1]], None)
    start = weights(trainer.model)
    trainer.train()
    assert history(trainer, "sampling/logp_gap") == [] and not equal(weights(trainer.model), start)


def test_a_tournament_keeps_log_probs_with_their_completions(vllm, tmp_path):
    """The best and the worst come first, and what the engine said of them with them."""
    trainer = vllm("ipo", tmp_path, num_generations=4, pair_selection="tournament", max_steps=2)
    trainer.train()
    assert max(history(trainer, "sampling/logp_gap")) < 1e-4


def test_chunks_and_a_killed_round_keep_log_probs_with_their_completions(vllm, tmp_path):
    """Chunks are sampled longest prompt first; what was sampled before a kill is taken from disk."""
    options = {"steps_per_generation": 4, "gradient_accumulation_steps": 4, "max_steps": 1}
    trainer = vllm("ipo", tmp_path, **options)
    engine = trainer.sampler._vllm
    generate, calls = engine.generate, []

    def die(prompt_ids, count):
        calls.append(len(prompt_ids))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(prompt_ids, count)

    engine.generate = die
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = vllm("ipo", tmp_path, **options)
    seen = watch(resumed)
    resumed.train()
    assert len(seen) == 2 and max(history(resumed, "sampling/logp_gap")) < 1e-4


def test_policy_gradients_are_weighted(vllm, tmp_path):
    """
    The engine says of its samples that they were twice as likely as they are: each weighs 1/2, and the gradient is
    half of what it was; without the correction it is the same.
    """

    def grad_norm(factor, correction=True):
        options = {"vllm_importance_sampling_correction": correction, "max_grad_norm": 1e9}
        trainer = vllm("self-play", tmp_path, max_steps=1, **options)
        generation = trainer.sampler._vllm._vllm
        generate = generation.generate

        def lie(*args):
            prompt_ids, completion_ids, logprobs, _ = generate(*args)
            for row in logprobs:
                row[0][0] += torch.tensor(factor).log().item()
            return prompt_ids, completion_ids, logprobs, None

        generation.generate = lie
        trainer.train()
        return history(trainer, "grad_norm")[0]

    honest = grad_norm(1.0)
    assert honest > 0.1
    assert grad_norm(2.0) == pytest.approx(honest / 2, rel=1e-3)
    assert grad_norm(2.0, correction=False) == pytest.approx(honest, rel=1e-3)
    assert grad_norm(0.1) == pytest.approx(3 * honest, rel=1e-3)  # truncated at 3
