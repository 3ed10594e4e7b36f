# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Options that would do nothing are refused: somebody counts on what they are to do.

What depends on the machine is not (`--ddp_timeout` of one process): the same command is to run on another one.
"""

import argparse
import os
from collections.abc import Callable, Collection
from typing import NamedTuple

from ...data.files import ending_of
from ...trainers.checks.optimizers import is_given
from ...trainers.checks.refused import REFUSED
from ...usage import UsageError
from ..training.reports.trackers import trackers_of


_SCRIPT = "a training command trains, and evaluates on the prompts that are held out (--test_split_size)"
_NO_PREDICTIONS = "evaluation plays the start, and there are no predictions"
# Option: why it does nothing in any run.
NOTHING = {
    "do_train": _SCRIPT,
    "do_eval": _SCRIPT,
    "do_predict": _SCRIPT,
    "local_rank": "the launcher sets it",
    "average_tokens_across_devices": "a loss is a mean over prompts, of which every process has the same number",
    "logging_nan_inf_filter": "a run stops at the first loss that is not finite",
    "prediction_loss_only": _NO_PREDICTIONS,
    "eval_do_concat_batches": _NO_PREDICTIONS,
    "eval_accumulation_steps": _NO_PREDICTIONS,
    "dataloader_drop_last": "prompts that fill no round are always left out",
    "dataloader_pin_memory": "rows are no tensors",
    "lora_dropout": "dropout is off, as it would make the policy differ from the frozen policies",
}
NEVER = NOTHING.keys() | REFUSED.keys()  # in no help


class Needs(NamedTuple):
    """Options that do something only together with others."""

    names: str
    used: Callable[[argparse.Namespace], bool]  # whether they do something
    why: str  # they do not, after "does nothing"
    instead: str | None = None  # after "leave it out, or"


def _is_folder_of_save_to_disk(name: str) -> bool:
    return any(os.path.isfile(os.path.join(name, file)) for file in ("dataset_dict.json", "dataset_info.json"))


def _chooses_best(options: argparse.Namespace) -> bool:
    watched = options.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy")
    return options.load_best_model_at_end or options.save_strategy == "best" or watched


NEEDS = [
    # The model
    Needs("model_revision", lambda o: not os.path.isdir(o.model_name_or_path), "as the model is a folder"),
    Needs(
        "lora_r lora_alpha lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type use_rslora "
        "use_dora",
        lambda o: o.use_peft,
        "without --use_peft",
        "add --use_peft to train an adapter",
    ),
    Needs(
        "bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage",
        lambda o: o.load_in_4bit,
        "without --load_in_4bit",
    ),
    # Data
    Needs(
        "dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming",
        lambda o: not o.datasets,
        "beside a `datasets` section",
        "give each dataset its own options there",
    ),
    Needs("streaming", lambda o: o.datasets, "without a `datasets` section", "write --dataset_streaming"),
    Needs(
        "dataset_streaming",
        lambda o: not _is_folder_of_save_to_disk(o.dataset_name),
        "on a folder that `save_to_disk` wrote, which is read as it is needed anyway",
    ),
    Needs(
        "dataset_config",
        lambda o: not (os.path.isfile(o.dataset_name) or ending_of(o.dataset_name)),
        "as the dataset is a file",
    ),
    Needs("dataset_test_split", lambda o: o.test_split_size is None, "beside --test_split_size", "choose one of them"),
    # The judge
    Needs(
        "reward_temperature missing_eos_penalty reward_weights",
        lambda o: o.reward_model_path,
        "with --judge",
        "give the judge its own options, as in --judge_kwargs '{\"temperature\": 2.0}'",
    ),
    # Sampling
    Needs("max_turns", lambda o: o.user, "without --user", "add --user for dialogues"),
    Needs(
        "vllm_mode vllm_model_impl vllm_structured_outputs_regex vllm_gpu_memory_utilization vllm_server_base_url "
        "vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port vllm_tensor_parallel_size "
        "vllm_enable_sleep_mode vllm_importance_sampling_correction vllm_importance_sampling_mode "
        "vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min",
        lambda o: o.use_vllm,
        "without --use_vllm",
        "add --use_vllm",
    ),
    Needs(
        "vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port",
        lambda o: o.vllm_mode == "server",
        "with --vllm_mode colocate",
        "add --vllm_mode server",
    ),
    Needs(
        "vllm_server_host vllm_server_port",
        lambda o: o.vllm_server_base_url is None,
        "beside --vllm_server_base_url",
        "choose one of them",
    ),
    Needs(
        "vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_enable_sleep_mode vllm_model_impl",
        lambda o: o.vllm_mode == "colocate",
        "with --vllm_mode server",
        "give it to `trl vllm-serve`",
    ),
    Needs(
        "vllm_importance_sampling_mode vllm_importance_sampling_clip_max vllm_importance_sampling_clip_min",
        lambda o: o.vllm_importance_sampling_correction,
        "with --vllm_importance_sampling_correction False",
    ),
    Needs("cache_implementation", lambda o: not o.use_vllm, "with --use_vllm"),
    Needs(
        "transformers_continuous_batching_config",
        lambda o: o.use_transformers_continuous_batching,
        "without --use_transformers_continuous_batching",
    ),
    Needs("num_completions_to_print", lambda o: o.log_completions, "without --log_completions"),
    # Of algorithms
    Needs("anchor_history", lambda o: o.fits == "one", "with --fits two"),
    Needs("ema_decay", lambda o: getattr(o, "opponent", "ema") == "ema", "without --opponent ema"),
    Needs("mixture_coef", lambda o: getattr(o, "opponent", "mixture") == "mixture", "with --opponent ema"),
    # The optimizer
    Needs(
        "warmup_steps",
        lambda o: o.lr_scheduler_type not in ("constant", "reduce_lr_on_plateau", "greedy"),
        "with this --lr_scheduler_type",
        "write --lr_scheduler_type constant_with_warmup",
    ),
    *(
        Needs(name, lambda o, name=name: is_given(name, o.optim), "with this --optim")
        for name in ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules")
    ),
    # The run
    Needs("num_train_epochs", lambda o: o.max_steps <= 0, "beside --max_steps", "choose one of them"),
    Needs("gradient_checkpointing_kwargs", lambda o: o.gradient_checkpointing, "without --gradient_checkpointing"),
    Needs(
        "activation_checkpointing_kwargs", lambda o: o.activation_checkpointing, "without --activation_checkpointing"
    ),
    Needs("liger_kernel_config", lambda o: o.use_liger_kernel, "without --use_liger_kernel"),
    # Logs, evaluation, checkpoints
    Needs("logging_steps", lambda o: o.logging_strategy == "steps", "without --logging_strategy steps"),
    Needs("eval_steps", lambda o: o.eval_strategy == "steps", "without --eval_strategy steps", "add it"),
    Needs("eval_delay", lambda o: o.eval_strategy != "no", "without an --eval_strategy"),
    Needs("save_steps", lambda o: o.save_strategy == "steps", "without --save_strategy steps", "add it"),
    Needs("save_total_limit save_only_model", lambda o: o.save_strategy != "no", "with --save_strategy no"),
    Needs("metric_for_best_model greater_is_better", _chooses_best, "without --load_best_model_at_end", "add it"),
    Needs(
        "ignore_data_skip restore_callback_states_from_checkpoint",
        lambda o: o.resume_from_checkpoint,
        "without --resume_from_checkpoint",
    ),
    Needs("run_name", lambda o: trackers_of(o.report_to), "without a tracker", "name one with --report_to"),
    Needs(
        "project trackio_space_id trackio_bucket_id trackio_static_space_id",
        lambda o: {"trackio", "all"} & set(trackers_of(o.report_to)),
        "without --report_to trackio",
    ),
    Needs(
        "hub_token hub_model_id hub_strategy hub_always_push hub_revision",
        lambda o: o.push_to_hub,
        "without --push_to_hub",
        "add --push_to_hub",
    ),
    Needs(
        "hub_private_repo",
        lambda o: o.push_to_hub or {"trackio", "all"} & set(trackers_of(o.report_to)),
        "without --push_to_hub",
        "add --push_to_hub",
    ),
    # Rows
    Needs(
        "dataloader_prefetch_factor dataloader_persistent_workers dataloader_multiprocessing_context",
        lambda o: o.dataloader_num_workers > 0,
        "without --dataloader_num_workers",
    ),
]


def check_unused(options: argparse.Namespace, given: Collection[str]) -> None:
    """
    Refuses what would do nothing.

    Args:
        options (`argparse.Namespace`): all options of a training command.
        given (`Collection[str]`): those that the user gave. `False` asks for nothing, and is let through.

    Raises:
        UsageError: If one of them does nothing.
    """
    for name in given:
        if name in NOTHING and not (name == "lora_dropout" and options.lora_dropout == 0):
            raise UsageError(f"--{name} does nothing here: {NOTHING[name]}. Leave it out.")
    for names, used, why, instead in NEEDS:
        for name in names.split():
            if name in given and getattr(options, name) not in (None, False) and not used(options):
                raise UsageError(f"--{name} does nothing {why}: leave it out{f', or {instead}' if instead else ''}.")
