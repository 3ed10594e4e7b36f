# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Everything that trl-nash takes from TRL. No other module imports TRL, so when TRL moves something, this file changes.

OnlineDPOTrainer is experimental, and TRL removes such classes without notice. Where it cannot be imported, our own
base (`trl_nash.trainers.online_dpo`) takes its place, on the parts of TRL that are not experimental.

`tests/test_trl_contract.py` holds one assertion for each fact about TRL that this package relies on.
"""

import importlib.metadata
import warnings
from contextlib import contextmanager

import transformers
from packaging.version import Version


# What `make compat` has found to work; pyproject.toml asks pip for the same lower bounds.
TESTED_TRL = ("1.16", "1.17")  # from the first, up to and without the second
OLDEST_TRANSFORMERS = "5.6"
_INSTALL = 'pip install "trl>=1.16,<2"'

try:
    TRL_VERSION = Version(importlib.metadata.version("trl"))
except importlib.metadata.PackageNotFoundError:
    raise ImportError(f"trl-nash needs TRL: {_INSTALL}") from None
if Version(transformers.__version__) < Version(OLDEST_TRANSFORMERS):
    raise ImportError(
        f"trl-nash works with transformers {OLDEST_TRANSFORMERS} and later, and this is {transformers.__version__}: "
        f'pip install "transformers>={OLDEST_TRANSFORMERS}"'
    )


@contextmanager
def _quietly():
    with warnings.catch_warnings():
        # This file is what shields our users from changes of what TRL calls experimental.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*trl.experimental.*")
        yield


try:
    with _quietly():
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
        from trl.data_utils import maybe_apply_chat_template
        from trl.generation.vllm_generation import VLLMGeneration
        from trl.models.utils import prepare_deepspeed, prepare_fsdp, unwrap_model_for_generation
        from trl.trainer.base_config import _BaseConfig as BaseConfig
        from trl.trainer.base_trainer import _BaseTrainer as BaseTrainer
        from trl.trainer.utils import (
            create_model_from_path,
            disable_dropout_in_model,
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
    "BaseConfig",
    "BaseTrainer",
    "DatasetMixtureConfig",
    "GRPOConfig",
    "GRPOTrainer",
    "ModelConfig",
    "OWN_BASE",
    "OnlineDPOConfig",
    "OnlineDPOTrainer",
    "ScriptArguments",
    "TrlParser",
    "VLLMGeneration",
    "base_construction",
    "chat_template_utils",
    "create_model_from_path",
    "disable_dropout_in_model",
    "get_callable_name",
    "get_dataset",
    "get_peft_config",
    "get_quantization_config",
    "maybe_apply_chat_template",
    "maybe_gather_lm_head_ctx",
    "prepare_deepspeed",
    "prepare_fsdp",
    "trainer_utils",
    "unwrap_model_for_generation",
]


def chat_template_utils():
    """TRL's knowledge of chat templates: how a model's calls of tools are read, and templates to train with."""
    with _quietly():
        import trl.chat_template_utils as utils
    return utils


# ---- The base class: chosen here, and nowhere else ----

_ONLINE_DPO = "trl.experimental.online_dpo"

try:
    with _quietly():
        import trl.experimental.online_dpo.online_dpo_trainer as _online_dpo
        from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    OWN_BASE = False
except ImportError as error:
    if error.name is None or not f"{_ONLINE_DPO}.".startswith(f"{error.name}."):
        warnings.warn(
            f"OnlineDPOTrainer of TRL {TRL_VERSION} cannot be imported ({error}): trl-nash goes on with its own base "
            "class, which gives the same results."
        )
    from .trainers.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    OWN_BASE = True  # TRL has none, or none that works


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

    Beside what it would do with options, TRL's would deep-copy the model as a reference: a second model on the device,
    impossible under ZeRO-3.

    Yields:
        `dict`: the arguments that the constructor insists on and that we have no use for. Our own base needs none.
    """
    if OWN_BASE:
        yield {}
        return
    kept = {name: getattr(args, name) for name in _HIDDEN}
    copies = getattr(_online_dpo, "create_reference_model", None)
    _online_dpo.create_reference_model = lambda model: None
    for name, value in _HIDDEN.items():
        setattr(args, name, value)
    try:
        yield {"reward_funcs": unused_reward}
    finally:
        if copies is None:  # a TRL that copies no more has nothing of that name
            del _online_dpo.create_reference_model
        else:
            _online_dpo.create_reference_model = copies
        for name, value in kept.items():
            setattr(args, name, value)
