# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from trl_nash.judges.tally import Tally
from trl_nash.rounds.metrics import Metrics
from trl_nash.trainers.reporting import ReportingMixin


def test_any_reason_to_abstain_is_counted():
    """A slash in it would make it a part of another metric."""
    metrics = Metrics(Accelerator(cpu=True))
    trainer = SimpleNamespace(_mode="train", _metrics={"train": metrics})
    tally = Tally(abstained=Counter({"n/a": 1, "too long": 2}))
    nan = torch.nan
    ReportingMixin._record_tally(trainer, tally, torch.tensor([[0.5, nan, nan, nan]]))
    assert metrics.flush() == pytest.approx(
        {"judge/abstained": 0.75, "judge/abstained/n_a": 0.25, "judge/abstained/too_long": 0.5}
    )
