# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The training steps that are timed beside each other are steps: the first loss has a closed form, and goes down."""

import argparse
import math

import pytest

from benchmarks.training_step.steps import build_step
from trl_nash import PairConfig


# The policy is still the frozen one, and the first completion is the better one. GRPO's advantages cancel.
FIRST = {
    "trl-nash": lambda folder: (PairConfig(folder, report_to="none").step_size / 2) ** 2,
    "unshared": lambda folder: (PairConfig(folder, report_to="none").step_size / 2) ** 2,
    "OnlineDPOTrainer": lambda folder: math.log(2),
    "GRPOTrainer": lambda folder: 0.0,
}


@pytest.mark.parametrize("trainer", FIRST)
def test_the_first_loss(trainer, tmp_path):
    options = argparse.Namespace(
        shape="tiny", prompts=2, prompt_tokens=4, new_tokens=8, completions=2, device="cpu", bf16=False, optimizer=True
    )
    step = build_step(trainer, False, str(tmp_path), options)
    first, second = step(), step()
    assert first == pytest.approx(FIRST[trainer](str(tmp_path)), rel=1e-6, abs=1e-6)
    assert second < first or trainer == "GRPOTrainer"  # whose loss stays 0, whatever its gradient
