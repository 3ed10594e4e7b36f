# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Nash learning from human feedback for TRL: a language model that wins at least half the time against any other."""

import importlib
from typing import TYPE_CHECKING


__version__ = "0.1.0.dev0"

# Where each public name lives. They are imported on first use: TRL takes seconds, which `trl-nash --help` must not.
_EXPORTS = {
    "trl_nash.trainers.base": ["NashTrainer"],
    "trl_nash.trainers.config": ["NashConfig"],
    "trl_nash.trainers.pair_config": ["PairConfig"],
    "trl_nash.trainers.comal": ["COMALConfig", "COMALTrainer"],
    "trl_nash.trainers.egpo": ["EGPOConfig", "EGPOTrainer"],
    "trl_nash.trainers.inpo": ["INPOConfig", "INPOTrainer"],
    "trl_nash.trainers.mnpo": ["MNPOConfig", "MNPOTrainer"],
    "trl_nash.trainers.mpo": ["MPOConfig", "MPOTrainer"],
    "trl_nash.trainers.nash_md": ["NashMDConfig", "NashMDTrainer"],
    "trl_nash.trainers.nash_mirror_prox": ["NashMirrorProxConfig", "NashMirrorProxTrainer"],
    "trl_nash.trainers.nash_prox": ["NashProxConfig", "NashProxTrainer"],
    "trl_nash.trainers.online_ipo": ["OnlineIPOConfig", "OnlineIPOTrainer"],
    "trl_nash.trainers.onpo": ["ONPOConfig", "ONPOTrainer"],
    "trl_nash.trainers.sppo": ["SPPOConfig", "SPPOTrainer"],
    "trl_nash.trainers.run.pool.callback": ["OpponentPoolCallback"],
    "trl_nash.judges": [
        "JUDGES",
        "Abstained",
        "BasePairwiseJudge",
        "CallableJudge",
        "EnsembleJudge",
        "GPMJudge",
        "JudgeError",
        "LengthDebiasedJudge",
        "OpenAIJudge",
        "PairRMJudge",
        "PairwiseJudge",
        "PairwiseLMJudge",
        "RandomJudge",
        "RewardJudge",
        "as_reward_func",
        "load_judge",
    ],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = ["__version__", *sorted(_MODULE_OF)]

if TYPE_CHECKING:
    from .judges import (
        JUDGES,
        Abstained,
        BasePairwiseJudge,
        CallableJudge,
        EnsembleJudge,
        GPMJudge,
        JudgeError,
        LengthDebiasedJudge,
        OpenAIJudge,
        PairRMJudge,
        PairwiseJudge,
        PairwiseLMJudge,
        RandomJudge,
        RewardJudge,
        as_reward_func,
        load_judge,
    )
    from .trainers.base import NashTrainer
    from .trainers.comal import COMALConfig, COMALTrainer
    from .trainers.config import NashConfig
    from .trainers.egpo import EGPOConfig, EGPOTrainer
    from .trainers.inpo import INPOConfig, INPOTrainer
    from .trainers.mnpo import MNPOConfig, MNPOTrainer
    from .trainers.mpo import MPOConfig, MPOTrainer
    from .trainers.nash_md import NashMDConfig, NashMDTrainer
    from .trainers.nash_mirror_prox import NashMirrorProxConfig, NashMirrorProxTrainer
    from .trainers.nash_prox import NashProxConfig, NashProxTrainer
    from .trainers.online_ipo import OnlineIPOConfig, OnlineIPOTrainer
    from .trainers.onpo import ONPOConfig, ONPOTrainer
    from .trainers.pair_config import PairConfig
    from .trainers.run.pool import OpponentPoolCallback
    from .trainers.sppo import SPPOConfig, SPPOTrainer


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
