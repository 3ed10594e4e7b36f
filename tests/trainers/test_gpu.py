# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is different on a GPU: where weights and batches are, number formats, engines."""

import logging
import math

import pytest
import torch
from helpers import ALGORITHMS, PROMPTS, equal, history, make_trainer, weights

from trl_nash.algorithms import INITIAL


pytestmark = pytest.mark.gpu

ON_GPU = {"use_cpu": False, "max_steps": 4}


def assert_trains(trainer) -> None:
    """Runs it, and asserts that it ran there, and that it moved."""
    before = weights(trainer.model)
    trainer.train()
    assert {parameter.device.type for parameter in trainer.model.parameters()} == {"cuda"}
    assert not equal(before, weights(trainer.model))
    assert all(math.isfinite(loss) for loss in history(trainer, "loss"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("lora", [False, True])
def test_runs(algorithm, lora, tmp_path):
    assert_trains(make_trainer(algorithm, tmp_path, lora=lora, **ON_GPU))


def test_runs_in_bf16(tmp_path):
    assert_trains(make_trainer("onpo-one", tmp_path, bf16=True, **ON_GPU))


def test_runs_with_continuous_batching(tmp_path):
    blocks = {"num_blocks": 64, "max_batch_tokens": 256}
    engine = {"use_transformers_continuous_batching": True, "transformers_continuous_batching_config": blocks}
    assert_trains(make_trainer("ipo", tmp_path, **engine, **ON_GPU))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_policy_is_verified(bf16, tmp_path, caplog):
    """What is measured when a trainer is built holds on this device, also under autocast: its head is fused."""
    caplog.set_level(logging.WARNING, logger="trl_nash")
    make_trainer("ipo", tmp_path, bf16=bf16, **ON_GPU)
    said = [record.getMessage() for record in caplog.records]
    assert not [message for message in said if "cannot be fused" in message or "could not be verified" in message]


def test_the_mixture_is_sampled(tmp_path):
    trainer = make_trainer("nash-md", tmp_path, **ON_GPU)
    trainer.policies.ensure_initial()
    _, completions = trainer.generate(PROMPTS[:3], 2, {INITIAL: 0.3})
    assert [len(row) for row in completions] == [2, 2, 2]
    assert all(0 < len(ids) <= trainer.args.max_new_tokens for row in completions for ids in row)


def test_a_resumed_run_goes_on(tmp_path):
    options = {**ON_GPU, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer("comal", tmp_path, **options)
    whole.train()
    again = make_trainer("comal", tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, weight in weights(whole.model).items():
        torch.testing.assert_close(weights(again.model)[name], weight, rtol=1e-4, atol=1e-5)
