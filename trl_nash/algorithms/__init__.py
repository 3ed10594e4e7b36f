# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Every method as pure data: which policies its fits are centred at, with which step, against which opponent.

Three executors read the definitions: exact fits and fits to sampled pairs on matrix games (`trl_nash.games`), and
language models (`trl_nash.trainers`). None of them defines a method again.
"""

from .fit import AVERAGE, INITIAL, START, Fit, Method, Past, Policy, named, needed
from .methods import (
    average_response,
    egpo,
    inpo,
    iterative_ipo,
    mnpo,
    mpo,
    nash_ema,
    nash_md,
    nash_mirror_prox,
    onpo,
    onpo_two_fits,
    regularized_response,
)


__all__ = [
    "AVERAGE",
    "INITIAL",
    "START",
    "Fit",
    "Method",
    "Past",
    "Policy",
    "average_response",
    "egpo",
    "inpo",
    "iterative_ipo",
    "mnpo",
    "mpo",
    "named",
    "nash_ema",
    "nash_md",
    "nash_mirror_prox",
    "needed",
    "onpo",
    "onpo_two_fits",
    "regularized_response",
]
