# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is said where something that was asked for cannot be done."""

import difflib
from collections.abc import Iterable


# What other tools, TRL's GRPO among them, call it, where spelling alone would not lead there.
_OTHER_NAMES = {
    "batch_size": "per_device_train_batch_size",
    "dataset": "dataset_name",
    "epochs": "num_train_epochs",
    "eta": "step_size",
    "lr": "learning_rate",
    "max_completion_length": "max_new_tokens",
    "max_prompt_length": "max_length",
    "model": "model_name_or_path",
    "model_name": "model_name_or_path",
    "nproc_per_node": "num_processes",
    "num_gpus": "num_processes",
    "overwrite_output_dir": "overwrite",
    "reward_model": "reward_model_path",
    "reward_model_name_or_path": "reward_model_path",
    "tau": "beta",
}


# Options of TRL's GRPO that nothing here stands for, and whose spelling would lead astray.
_OF_GRPO = frozenset(
    "delta entropy_target epsilon log_completions_hub_repo log_multimodal ref_model_mixup_alpha sapo_temperature_neg "
    "sapo_temperature_pos shuffle_dataset sync_ref_model vllm_max_model_length".split()
)


class UsageError(ValueError):
    """What was asked for cannot be done. The command line prints it as one sentence, and the exit code is 2."""


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """
    The end of a sentence about an unknown `name`: `": did you mean --learning_rate?"`, or `""` if nothing is near.

    Args:
        name (`str`):
            What was typed, without leading dashes.
        known (`Iterable[str]`):
            The names that exist, without leading dashes.
        prefix (`str`, *optional*, defaults to `""`):
            Written before the suggestion, `"--"` for options of the command line.

    Returns:
        `str`
    """
    name = name.replace("-", "_")
    known = {candidate.replace("-", "_"): candidate for candidate in sorted(known)}  # underscores sort last and stay
    known = {other: known[own] for other, own in _OTHER_NAMES.items() if own in known} | known
    nearest = [] if name in _OF_GRPO - known.keys() else difflib.get_close_matches(name, known, n=1)
    return f": did you mean {prefix}{known[nearest[0]]}?" if nearest else ""
