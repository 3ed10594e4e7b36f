# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Options of TrainingArguments and OnlineDPOConfig that rounds have no use for. The command line asks before it imports
torch.
"""

from typing import Any


_NO_PREDICTIONS = "evaluation samples, and keeps no logits and labels"
_CAST = "evaluation would cast the policy for good, and it would no longer be the one that is trained"
# Option: the value at which it is off, and what to do instead.
REFUSED: dict[str, tuple[Any, str]] = {
    "loss_type": ("sigmoid", "the loss is the algorithm: choose another trainer class"),
    "remove_unused_columns": (False, "prompts are columns that the model does not take"),
    "neftune_noise_alpha": (None, "noise in the policy breaks its comparison with the frozen policies"),
    "label_smoothing_factor": (0.0, "soft labels come from the judge"),
    "auto_find_batch_size": (False, "a round fixes its micro-batches: set `per_device_train_batch_size`"),
    "disable_dropout": (True, "dropout makes the policy differ from the frozen policies it is compared with"),
    "train_sampling_strategy": ("random", "rounds are drawn at random; an iterable dataset keeps its order"),
    "length_column_name": ("length", "rows are not grouped by length"),
    "label_names": (None, "labels are the sampled completions"),
    "include_for_metrics": ([], _NO_PREDICTIONS),
    "batch_eval_metrics": (False, _NO_PREDICTIONS),
    "eval_use_gather_object": (False, _NO_PREDICTIONS),
    "bf16_full_eval": (False, _CAST),
    "fp16_full_eval": (False, _CAST),
    "enable_jit_checkpoint": (
        False,
        "it saves in the middle of a step: `trainer.request_stop` ends a run with a checkpoint, as `trl-nash` does at "
        "SIGTERM",
    ),
}


def check_refused(options: Any) -> None:
    """
    Refuses what a Nash trainer cannot honour.

    Args:
        options ([`NashConfig`] or `argparse.Namespace`): where the options are attributes.

    Raises:
        ValueError: If one of them is not off.
    """
    for name, (off, instead) in REFUSED.items():
        if (value := getattr(options, name)) != off:
            raise ValueError(f"`{name}={value!r}` cannot apply here: {instead}. Leave it at {off!r}.")
