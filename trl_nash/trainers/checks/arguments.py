# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What cannot work is refused when a trainer is built, in a sentence that says what to do instead."""

import inspect
from dataclasses import fields
from typing import Any

import torch
import transformers
from accelerate import Accelerator, DistributedType
from accelerate.logging import get_logger
from packaging.version import Version
from transformers.trainer_utils import has_length

from ...compat import OnlineDPOConfig
from ...data.check import check_rows
from ...generation.prompts import PromptRenderer
from ...policies import BESIDE_SHARDS, FrozenPolicies, is_peft_model
from ..config import NashConfig
from ..pair_config import PairConfig
from .options import check_metric, check_options, check_parallelism
from .sampling import NOT_HERE


logger = get_logger("trl_nash")  # speaks on the main process only

# Options of sampling that continuous batching leaves out, and the values at which they do nothing.
_NOT_BATCHED = {"min_p": (0.0, None), "repetition_penalty": (1.0, None)}
# Of continuous batching: with a seed of its own all rounds would draw the same noise; a round is queued as a whole.
_UNFIT_FOR_ROUNDS = ("seed", "max_queue_size")


def upgrade_config(args, config_class: type[NashConfig], output_dir: str) -> NashConfig:
    """
    The arguments as the algorithm's own config.

    A plain `OnlineDPOConfig` is upgraded: its `beta` and `temperature` mean something else here and are replaced by
    the algorithm's defaults, and so is a loss as the metric of the best model; everything else is kept.
    """
    if args is None:
        return config_class(output_dir=output_dir)
    if isinstance(args, config_class):
        return args
    # NashConfig means the same as PairConfig; another algorithm's config would lose that algorithm's defaults.
    if not (type(args) is OnlineDPOConfig or (type(args) is NashConfig and config_class is PairConfig)):
        raise TypeError(
            f"`args` must be a {config_class.__name__} (or an OnlineDPOConfig, which is upgraded), got a "
            f"{type(args).__name__}."
        )
    values = {f.name: getattr(args, f.name) for f in fields(args) if f.init}
    if not isinstance(args, NashConfig):
        dropped = {name: values.pop(name) for name in ("beta", "temperature")}
        if args.metric_for_best_model == "loss":  # which TrainingArguments fill in, too
            del values["metric_for_best_model"], values["greater_is_better"]
        logger.warning(
            "%s takes the place of your OnlineDPOConfig. %s not carried over, because they mean something else here; "
            "all other options are kept. Pass a %s to set them.",
            config_class.__name__,
            " and ".join(f"`{name}={value}`" for name, value in dropped.items()) + " are",
            config_class.__name__,
        )
    return config_class(**values)


def check_arguments(
    args: NashConfig, *, data_collator, compute_metrics, preprocess_logits_for_metrics, lr_scheduler
) -> None:
    """Refuses what a Nash trainer cannot honour."""
    check_options(args)
    for name, value, instead in [
        ("data_collator", data_collator, "transform the rows of the dataset with `map` instead"),
        ("compute_metrics", compute_metrics, "evaluation reports preference, win rate, KL and lengths by itself"),
        ("preprocess_logits_for_metrics", preprocess_logits_for_metrics, "no logits are kept; leave it out"),
    ]:
        if value is not None:
            raise ValueError(f"`{name}` cannot apply here: {instead}.")
    if args.restart_each_round and lr_scheduler is not None:
        raise ValueError(
            "`restart_each_round` makes a schedule for every round and cannot restart yours: leave the scheduler in "
            "`optimizers` at None."
        )
    if args.accelerator_config.split_batches:
        raise ValueError(
            "`split_batches=True` in `accelerator_config` cannot apply here: `per_device_train_batch_size` is of one "
            "process. Leave it at False; `generation_batch_size` sets the prompts of all processes."
        )
    check_continuous_batching(args)
    generation_kwargs = args.generation_kwargs or {}
    if generation_kwargs.get("num_beams", 1) != 1 or generation_kwargs.get("do_sample", True) is not True:
        raise ValueError("Pairs are sampled: remove `num_beams` and `do_sample` from `generation_kwargs`.")
    if generation_kwargs.get("temperature", args.temperature) != args.temperature:
        raise ValueError("Set `temperature` itself, not in `generation_kwargs`: the log-probs must use the same one.")
    if generation_kwargs.get("max_new_tokens", args.max_new_tokens) != args.max_new_tokens:
        raise ValueError(
            "Set `max_new_tokens` itself, not in `generation_kwargs`: prompts are cut to leave room for it."
        )
    # Of vLLM, and of transformers.
    for name, off, instead in [
        ("n", None, "set `num_generations`"),
        ("seed", None, "it would draw all rounds the same noise; `seed` is an option of its own"),
        ("max_length", None, "set `max_new_tokens`"),
        *NOT_HERE,
    ]:
        if (value := generation_kwargs.get(name)) not in (None, off):
            raise ValueError(f"`{name}={value!r}` in `generation_kwargs` cannot apply here: {instead}. Remove it.")


def check_continuous_batching(args: NashConfig) -> None:
    """Refuses what transformers' continuous batching would leave out."""
    if not args.use_transformers_continuous_batching:
        if args.transformers_continuous_batching_config is not None:
            raise ValueError(
                "`transformers_continuous_batching_config` does nothing: set `use_transformers_continuous_batching`."
            )
        return
    if Version(transformers.__version__) < Version("5.10"):
        raise ImportError(
            '`use_transformers_continuous_batching` needs transformers 5.10 or newer: pip install "transformers>=5.10"'
        )
    from transformers.generation import ContinuousBatchingConfig

    known = [name for name in inspect.signature(ContinuousBatchingConfig).parameters if name not in _UNFIT_FOR_ROUNDS]
    for name in args.transformers_continuous_batching_config or {}:
        if name not in known:
            raise ValueError(
                f"`transformers_continuous_batching_config` has no option {name!r} here: it takes {', '.join(known)}."
            )
    if args.use_vllm:
        raise ValueError("Sample either with `use_vllm` or with `use_transformers_continuous_batching`.")
    others = [name for name, off in _NOT_BATCHED.items() if getattr(args, name) not in off]
    others += [name for name in ("generation_kwargs", "cache_implementation") if getattr(args, name)]
    if others:
        raise ValueError(
            "Continuous batching samples by `temperature`, `top_p` and `top_k` alone: leave "
            f"{' and '.join(f'`{name}`' for name in others)} out, or `use_transformers_continuous_batching`."
        )


def check_judge(judge, reward_funcs, args: NashConfig) -> None:
    """Exactly one source of preferences, and no reward options without rewards."""
    if judge is None and reward_funcs is None:
        raise ValueError("Who says which completion is better? Pass `judge=` or `reward_funcs=`.")
    if judge is not None and reward_funcs is not None:
        raise ValueError("Pass either `judge` or `reward_funcs`: both would say which completion is better.")
    count = len(reward_funcs) if isinstance(reward_funcs, list) else 1
    if args.reward_weights is not None and judge is None and len(args.reward_weights) != count:
        raise ValueError(f"`reward_weights` has {len(args.reward_weights)} entries for {count} `reward_funcs`.")
    if judge is not None:
        for name in ("missing_eos_penalty", "reward_weights", "reward_model_path"):
            if getattr(args, name) is not None:
                raise ValueError(f"`{name}` belongs to `reward_funcs`; with `judge` it does nothing. Leave it out.")


def check_model(model: torch.nn.Module, ref_model, peft_config, max_length: int) -> None:
    """Refuses models that the losses are not defined for or that would be scored wrongly."""
    config = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError("Encoder-decoder models are not supported: pass a causal language model.")
    if getattr(config, "vision_config", None) is not None:
        raise ValueError("Vision-language models are not supported: pass a text-only causal language model.")
    if ref_model is not None and ref_model is model:
        raise ValueError("`ref_model` is the same object as `model`: leave it out to compare with the initial policy.")
    adapter = model.active_peft_config if is_peft_model(model) else peft_config
    if getattr(adapter, "is_prompt_learning", False):
        raise ValueError("Prompt-learning adapters shift the token positions that are scored: use LoRA or its kin.")
    if (positions := learned_positions(model)) is not None and positions < max_length:
        raise ValueError(
            f"`max_length` ({max_length}) exceeds the {positions} positions that the model has: lower it."
        )


def learned_positions(model: torch.nn.Module) -> int | None:
    """How many positions a model has an embedding for, `None` where it rotates or has no end."""
    count = getattr(model.config, "max_position_embeddings", None)
    embeddings = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    words = model.get_input_embeddings()
    learned = any(e is not words and count is not None and 0 <= e.num_embeddings - count <= 2 for e in embeddings)
    return count if learned else None


def check_prepared_model(model: torch.nn.Module) -> None:
    """
    Refuses what only shows once PEFT has wrapped the model; turns off functional dropout and bitsandbytes' packing.
    """
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            "Nothing in the model is trainable. An adapter is loaded for training with "
            "`PeftModel.from_pretrained(..., is_trainable=True)`."
        )
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        if getattr(module, "support_avx512bf16_for_cpu", False):
            # Sampling in eval mode would pack 4-bit weights for inference, and no gradient passes them from then on.
            module.support_avx512bf16_for_cpu = False
            module.state_dict()  # unpacks what was packed before


def named_datasets(train_dataset, eval_dataset) -> dict[str, Any]:
    """The datasets of a run by what the user calls them."""
    several = eval_dataset if isinstance(eval_dataset, dict) else {"": eval_dataset}
    found = {"train_dataset": train_dataset}
    found |= {f"eval_dataset[{name!r}]" if name else "eval_dataset": dataset for name, dataset in several.items()}
    return {name: dataset for name, dataset in found.items() if dataset is not None}


def check_datasets(train_dataset, eval_dataset, args: NashConfig) -> None:
    """Refuses datasets that cannot be trained on or evaluated, and metrics of those that are not there."""
    for name, dataset in named_datasets(train_dataset, eval_dataset).items():
        check_dataset(dataset, args, name)
    check_metric(args, eval_dataset)


def check_dataset(dataset, args: NashConfig, name: str) -> None:
    """Refuses datasets without prompts, with images, or smaller than a round."""
    columns = getattr(dataset, "column_names", None)
    if columns is not None and "prompt" not in columns:
        raise ValueError(
            f"`{name}` has no column 'prompt', only {', '.join(map(repr, columns)) or 'no columns at all'}. Rename "
            "the column that holds the prompts: `dataset.rename_column('...', 'prompt')`."
        )
    if columns is not None and {"image", "images"} & set(columns):
        raise ValueError(f"`{name}` has an image column: images are not supported. Remove it with `remove_columns`.")
    if not has_length(dataset):
        return
    if len(dataset) == 0:
        raise ValueError(f"`{name}` is empty.")
    if name == "train_dataset" and len(dataset) < args.prompts_per_round:
        raise ValueError(
            f"`train_dataset` has {len(dataset)} prompts, fewer than a round of {args.prompts_per_round} "
            "(per_device_train_batch_size * steps_per_generation * processes). Lower one of them or add prompts."
        )


def check_prompts(train_dataset, eval_dataset, args: NashConfig, processing_class) -> None:
    """Renders every prompt that can be read before it is needed. The rows of a stream are checked when they come."""
    render = PromptRenderer.of(args, getattr(processing_class, "tokenizer", processing_class))
    for name, dataset in named_datasets(train_dataset, eval_dataset).items():
        if has_length(dataset) and not isinstance(dataset, torch.utils.data.IterableDataset):
            check_rows(dataset, render, name)


def check_sharding(accelerator: Accelerator, args: NashConfig) -> None:
    """Refuses FSDP1, whose flat parameters cannot be exchanged with those of a frozen policy, and waiting for ever."""
    check_parallelism(accelerator)
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError(
            "FSDP1 is not supported: set `fsdp_version: 2` in accelerate's configuration, or start with "
            "`--accelerate_config fsdp2`, for FSDP2."
        )
    if args.use_transformers_continuous_batching and not args.ds3_gather_for_generation:
        raise ValueError(
            "With continuous batching processes take different numbers of steps, and weights cannot be gathered in "
            "each: leave `ds3_gather_for_generation` at True."
        )


def check_mixture(opponent, policies: FrozenPolicies, accelerator: Accelerator) -> None:
    """Refuses to sample from a mixture with a policy that is a copy of weights where these will be sharded."""
    if isinstance(opponent, dict) and policies.initial_is_a_copy and is_to_be_sharded(accelerator):
        raise ValueError(BESIDE_SHARDS)


def is_to_be_sharded(accelerator: Accelerator) -> bool:
    """Whether a rank will hold only a part of each weight (ZeRO-3, FSDP2), asked before the model is taken apart."""
    plugin = accelerator.state.deepspeed_plugin
    return accelerator.is_fsdp2 or (plugin is not None and plugin.zero_stage == 3)


def check_devices(args: NashConfig) -> None:
    """Refuses `nn.DataParallel`, which transformers turns on by itself when it sees several GPUs."""
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs are visible to one process, which would mean `nn.DataParallel`. Start with "
            "`accelerate launch` (or `trl-nash`), or make one GPU visible with CUDA_VISIBLE_DEVICES=0."
        )
