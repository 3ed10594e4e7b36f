# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Options of TrainingArguments and OnlineDPOConfig that rounds have no use for: refused, so that none does nothing.

`tests/trainers/test_options.py` lists all of them, and which work.
"""

from accelerate import Accelerator
from accelerate.logging import get_logger

from ..config import WIN_RATE, NashConfig
from .optimizers import is_given
from .refused import check_refused


logger = get_logger("trl_nash")  # speaks on the main process only


def check_options(args: NashConfig) -> None:
    """Refuses inherited options that a Nash trainer cannot honour, and warns of one that biases the step."""
    check_refused(args)
    for name in ("optim_args", "optim_target_modules"):
        if getattr(args, name) and not is_given(name, args.optim.value):
            raise ValueError(f"`{name}` does nothing with `optim={args.optim.value!r}`: leave it out.")
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
