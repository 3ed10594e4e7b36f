# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

from collections import Counter

import pytest
import torch
from accelerate import Accelerator

from trl_nash.judges.tally import Tally
from trl_nash.rounds.rows import Filler
from trl_nash.trainers.judging import Asked, Judged
from trl_nash.trainers.reporter import Reporter


def test_any_reason_to_abstain_is_counted():
    """A slash in it would make it a part of another metric."""
    reporter = Reporter(None, Accelerator(cpu=True), mode=lambda: "eval", round=lambda: 0, eos_token_ids=[])
    tally = Tally(abstained=Counter({"n/a": 1, "too long": 2}))
    # A row that is a filler is not counted, but what the judge was asked of the others is.
    judged = Judged([Filler()], None, [], torch.tensor([[torch.nan]]), [Asked(tally, abstained=3, pairs=4)])
    reporter.record_judged(judged)
    assert reporter.flush_evaluation() == pytest.approx(
        {"judge/abstained": 0.75, "judge/abstained/n_a": 0.25, "judge/abstained/too_long": 0.5}
    )
