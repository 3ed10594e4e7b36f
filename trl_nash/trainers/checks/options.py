# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Options of TrainingArguments and OnlineDPOConfig that rounds have no use for: refused, so that none does nothing.

`tests/trainers/test_options.py` lists all of them, and which work.
"""

from accelerate import Accelerator
from accelerate.logging import get_logger

from ..config import WIN_RATE, NashConfig


logger = get_logger("trl_nash")  # speaks on the main process only

_NO_PREDICTIONS = "evaluation samples, and keeps no logits and labels"
_CAST = "evaluation would cast the policy for good, and it would no longer be the one that is trained"
# (option, the value at which it is off, what to do instead)
_UNUSED_OPTIONS = [
    ("loss_type", "sigmoid", "the loss is the algorithm: choose another trainer class"),
    ("remove_unused_columns", False, "prompts are columns that the model does not take"),
    ("neftune_noise_alpha", None, "noise in the policy breaks its comparison with the frozen policies"),
    ("label_smoothing_factor", 0.0, "soft labels come from the judge"),
    ("auto_find_batch_size", False, "a round fixes its micro-batches: set `per_device_train_batch_size`"),
    ("disable_dropout", True, "dropout makes the policy differ from the frozen policies it is compared with"),
    (
        "train_sampling_strategy",
        "random",
        "rounds are drawn at random; an iterable dataset keeps its order",
    ),
    ("length_column_name", "length", "rows are not grouped by length"),
    ("label_names", None, "labels are the sampled completions"),
    ("include_for_metrics", [], _NO_PREDICTIONS),
    ("batch_eval_metrics", False, _NO_PREDICTIONS),
    ("eval_use_gather_object", False, _NO_PREDICTIONS),
    ("bf16_full_eval", False, _CAST),
    ("fp16_full_eval", False, _CAST),
    (
        "enable_jit_checkpoint",
        False,
        "it saves in the middle of a step: `trainer.request_stop` ends a run with a checkpoint, as `trl-nash` does at "
        "SIGTERM",
    ),
]


def check_options(args: NashConfig) -> None:
    """Refuses inherited options that a Nash trainer cannot honour, and warns of one that biases the step."""
    for name, off, instead in _UNUSED_OPTIONS:
        if getattr(args, name) != off:
            raise ValueError(f"`{name}={getattr(args, name)!r}` cannot apply here: {instead}. Leave it at {off!r}.")
    if args.optim_target_modules is not None and not any(kind in args.optim for kind in ("galore", "apollo")):
        raise ValueError(
            f"`optim_target_modules` belongs to GaLore and APOLLO; with `optim={args.optim.value!r}` it does nothing. "
            "Leave it out."
        )
    if args.restart_each_round and any(kind in args.optim for kind in ("layerwise", "lomo")):
        raise ValueError(
            f"`optim={args.optim.value!r}` steps within the backward pass, where `restart_each_round` cannot reach "
            "its state: choose another optimizer."
        )
    if args.use_vllm and args.vllm_structured_outputs_regex is not None:
        logger.warning(
            "Sampling with `vllm_structured_outputs_regex`: the pairs come from another policy than the one in the "
            "loss, so each step is taken against *that* policy and is biased. Leave it out unless you want this."
        )
    config = args.accelerator_config
    if config.dispatch_batches:
        raise ValueError(
            "`dispatch_batches=True` in `accelerator_config` cannot apply here: every process reads its own rows of a "
            "round. Leave it out."
        )
    if "num_steps" in (config.gradient_accumulation_kwargs or {}):
        raise ValueError(
            "`num_steps` in `gradient_accumulation_kwargs` would change the rounds: set `gradient_accumulation_steps`."
        )


def check_metric(args: NashConfig, eval_dataset) -> None:
    """Refuses a metric for the best model that evaluations on several datasets will not report."""
    metric = args.metric_for_best_model
    if metric is None or not isinstance(eval_dataset, dict):
        return
    if not any(metric.removeprefix("eval_").startswith(f"{name}_") for name in eval_dataset):
        raise ValueError(
            f"`metric_for_best_model={metric!r}` does not say on which of the datasets {', '.join(eval_dataset)}: "
            f"write 'eval_{next(iter(eval_dataset))}_{WIN_RATE}', for example."
        )


def check_parallelism(accelerator: Accelerator) -> None:
    """Refuses to split layers or sequences among processes."""
    config = accelerator.parallelism_config
    if config is not None and (config.tp_size > 1 or config.cp_size > 1 or config.sp_size > 1):
        raise ValueError(
            "Tensor, context and sequence parallelism are not supported: leave `parallelism_config` at None. ZeRO-3 "
            "and FSDP2 share weights out."
        )
