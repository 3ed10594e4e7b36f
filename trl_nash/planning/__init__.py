# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What a run needs: memory, tokens, judge calls, time. `trl-nash plan` and `--dry_run` print it; a notebook can ask:

```python
from trl_nash import COMALConfig
from trl_nash.planning import DEVICES, Plan, judge_of, load_sizes, run_of

run = run_of("comal", COMALConfig(steps_per_generation=16), judge=judge_of(["openai:model"]), rounds=100)
plan = Plan(load_sizes("Qwen/Qwen2.5-0.5B-Instruct"), run, DEVICES["H100"])
plan.fits, plan.advice(), plan.peak, plan.tokens, plan.judge_calls, plan.seconds
plan.having(use_peft=True).peak
```

* The model: [`load_sizes`] of a folder, a `config.json` or a name, [`sizes_from_config`], [`sizes_by_hand`].
* The run: [`run_of`] a trainer's config, or a [`Run`] by hand; [`length_of`] it; [`judge_of`] its judge.
* What nobody has chosen: [`fitted_round`], [`generation_batch`].
* The device: one of [`DEVICES`], or a [`Device`]; [`device_here`]; the [`Speed`] that is reached.
* What comes out: a [`Plan`], as JSON with [`record`], printed with [`print_plans`]; [`hints`] on what would be faster.
"""

from .advice import hints, largest_batches
from .costs import Plan
from .costs.flop import Tokens
from .costs.memory import Memory
from .costs.time import DEVICES, Device, Speed
from .known import STRATEGIES
from .machine import device_here
from .model import ModelSizes, load_sizes, sizes_by_hand, sizes_from_config
from .report import print_plans, record
from .run import Run
from .run.config import length_of, run_of
from .run.judge import Judge, judge_of
from .sizes import fitted_round, generation_batch


__all__ = [
    "DEVICES",
    "STRATEGIES",
    "Device",
    "Judge",
    "Memory",
    "ModelSizes",
    "Plan",
    "Run",
    "Speed",
    "Tokens",
    "device_here",
    "fitted_round",
    "generation_batch",
    "hints",
    "judge_of",
    "largest_batches",
    "length_of",
    "load_sizes",
    "print_plans",
    "record",
    "run_of",
    "sizes_by_hand",
    "sizes_from_config",
]
