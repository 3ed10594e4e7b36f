# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a plan knows by name: methods as the commands train them, strategies, and families of judges."""

from typing import Any

from ..algorithms import iterative_ipo, regularized_response
from ..algorithms.table import METHODS


STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2", "cpu")
DEEPSPEED = ("zero1", "zero2", "zero3")
SHARDED = ("zero3", "fsdp2")  # strategies under which a process holds a part of each weight
# Judges that look at each completion by itself, once.
SCORERS = ("reward", "gpm", "dpo", "reward-server")
LOCAL_JUDGES = ("reward", "gpm", "dpo", "pairwise-lm", "pairrm", "genrm")  # models on the devices that train
GROUP_JUDGES = ("openai-group", "group")  # which see all completions of a prompt at once
REMOTE_JUDGES = ("openai", "hf", "openai-group", "reward-server")  # which answer so many calls a second
# What the commands train, where tables are played otherwise: by gradient steps, or by another loss at the same centre.
DEFINITIONS = METHODS | {
    "nash-md": regularized_response,
    "nash-prox": regularized_response,
    "online-ipo": regularized_response,
    "sppo": iterative_ipo,
}
PLAYED = ("nash-md", "nash-prox")  # whose completions play others, which are not trained on
UNFITTED = (*PLAYED, "online-ipo", "iterative-ipo")  # whose trainers want no round of many optimizer steps
# Of the commands' defaults those that differ from ONPO's, which are those of `Run`.
DEFAULTS: dict[str, dict[str, Any]] = {
    "comal": {"num_generations": 5},
    "inpo": {"num_generations": 8},
    "mnpo": {"num_generations": 5},
    "mpo": {"reference_rounds": 10},
    "nash-prox": {"reference_rounds": 100},
    "online-ipo": {"mixture_coef": 0.0},
    "sppo": {"num_generations": 5},
}
