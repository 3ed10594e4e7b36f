# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Everything that trl-nash takes from TRL. No other module imports TRL, so when TRL moves something, this file changes.

`tests/test_trl_contract.py` holds one assertion for each fact about TRL that this package relies on.
"""

import importlib.metadata
import warnings
from contextlib import contextmanager

from packaging.version import Version


TESTED_TRL = ("1.16", "1.17")  # tested from the first, up to and without the second
_INSTALL = 'pip install "trl>=1.16,<2"'

try:
    TRL_VERSION = Version(importlib.metadata.version("trl"))
except importlib.metadata.PackageNotFoundError:
    raise ImportError(f"trl-nash needs TRL: {_INSTALL}") from None

try:
    with warnings.catch_warnings():
        # OnlineDPOTrainer is experimental in TRL; this file is what shields our users from its changes.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*trl.experimental.*")
        import trl.experimental.online_dpo.online_dpo_trainer as _online_dpo
        import trl.trainer.utils as trainer_utils
        from trl import (
            DatasetMixtureConfig,
            GRPOConfig,
            GRPOTrainer,
            ModelConfig,
            ScriptArguments,
            TrlParser,
            get_dataset,
            get_peft_config,
            get_quantization_config,
        )
        from trl.data_utils import apply_chat_template, is_conversational, maybe_apply_chat_template
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer
        from trl.models.utils import unwrap_model_for_generation
        from trl.trainer.utils import (
            create_model_from_path,
            get_callable_name,
            maybe_gather_lm_head_ctx,
        )
except ImportError as error:
    raise ImportError(
        f"trl-nash works with TRL {TESTED_TRL[0]} and later 1.x versions; TRL {TRL_VERSION} lacks something that it "
        f"needs ({error}). Install one that has it: {_INSTALL}"
    ) from error

if Version(TESTED_TRL[1]) <= TRL_VERSION:
    warnings.warn(
        f"trl-nash was tested with TRL {TESTED_TRL[0]} up to (not including) {TESTED_TRL[1]}; this is TRL "
        f"{TRL_VERSION}. If something fails, {_INSTALL.replace('<2', f'<{TESTED_TRL[1]}')} is known to work.",
        stacklevel=2,
    )

__all__ = [
    "DatasetMixtureConfig",
    "GRPOConfig",
    "GRPOTrainer",
    "ModelConfig",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "ScriptArguments",
    "TrlParser",
    "apply_chat_template",
    "base_construction",
    "create_model_from_path",
    "get_callable_name",
    "get_dataset",
    "get_peft_config",
    "get_quantization_config",
    "is_conversational",
    "maybe_apply_chat_template",
    "maybe_gather_lm_head_ctx",
    "trainer_utils",
    "unwrap_model_for_generation",
]


def unused_reward(*args, **kwargs):
    """Stands in for the reward functions that OnlineDPOTrainer insists on. Judging is ours, so it is never called."""
    raise RuntimeError("OnlineDPOTrainer computed a reward although trl-nash judges pairs itself: please report this.")


# What OnlineDPOTrainer's constructor would do with these options of ours, and the values at which it does nothing:
_HIDDEN = {
    "gradient_checkpointing": False,  # enable it, and with 4-bit weights change the arguments; Trainer enables it
    "model_init_kwargs": None,  # refuse them with a model that we have loaded already
    "reward_weights": None,  # count them against our stand-in
    "use_vllm": False,  # build an engine
}


@contextmanager
def base_construction(args):
    """
    Within it, `OnlineDPOTrainer.__init__` sets up model, PEFT and tokenizer, and nothing that we replace.

    Beside what it would do with options, it would deep-copy the model as a reference: a second model on the device,
    impossible under ZeRO-3.
    """
    create_reference_model = _online_dpo.create_reference_model
    kept = {name: getattr(args, name) for name in _HIDDEN}
    _online_dpo.create_reference_model = lambda model: None
    for name, value in _HIDDEN.items():
        setattr(args, name, value)
    try:
        yield
    finally:
        _online_dpo.create_reference_model = create_reference_model
        for name, value in kept.items():
            setattr(args, name, value)
