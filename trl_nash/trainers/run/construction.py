# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a trainer is built of: checked and loaded before the base's constructor, verified behind it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import set_seed
from transformers import PreTrainedModel

from ...generation.sampler import generation_config
from ...judges import PairwiseJudge, RewardJudge, load_judge
from ...kernels.fused_head import FusedHead, add_fused_head
from ...policies import is_peft_model
from ..checks import arguments
from ..checks.ahead import check_columns, check_pairing, check_run
from ..checks.policy import verify_policy, verify_reference
from ..checks.sampling import check_sampler
from ..config import NashConfig
from ..loading import load_policy, load_tokenizer
from .assembly import show_rewards


if TYPE_CHECKING:
    from ..base import NashTrainer


@dataclass
class Parts:
    """What a trainer is built of, and is not verified yet."""

    started_from: str  # a path, a hub id, or nothing
    args: NashConfig
    base: dict[str, Any]  # arguments of the base's constructor
    judge: PairwiseJudge | None  # `None` where rewards judge
    rewards: dict[str, Any]  # arguments of their judge
    heads: list[FusedHead]  # of the policy and, where it is another model, the reference


def prepare(
    trainer_class: type["NashTrainer"],
    *,
    model,
    ref_model,
    reward_funcs,
    args,
    train_dataset,
    eval_dataset,
    processing_class,
    reward_processing_classes,
    peft_config,
    judge,
    lr_scheduler,
    dialogues,
    **refused,
) -> Parts:
    """Checks a trainer's arguments, whose names these are, and loads what is a path. What is cheap comes first."""
    started_from = model if isinstance(model, str) else getattr(model.config, "_name_or_path", "")
    output_dir = f"{Path(started_from).name or 'model'}-{trainer_class._tag_names[-1]}"
    args = arguments.upgrade_config(args, trainer_class.config_class, output_dir)
    arguments.check_arguments(args, lr_scheduler=lr_scheduler, **refused)
    dialogues.check(args, ref_model)
    concatenates = reward_funcs not in (None, args.reward_model_path)  # as TRL does with what is passed in Python
    reward_funcs = args.reward_model_path if judge is None and reward_funcs is None else reward_funcs
    check_run(args, judge, reward_funcs, train_dataset, eval_dataset)
    judge = None if judge is None else load_judge(judge, device=args.device)
    if judge is not None:
        check_columns(judge, train_dataset, eval_dataset)
        check_pairing(judge, args)

    if processing_class is None:
        processing_class = _load_tokenizer(started_from, args, with_model=isinstance(model, str))
    arguments.check_prompts(train_dataset, eval_dataset, args, processing_class)
    if isinstance(model, str):
        model = load_policy(model, args, peft_config)
    elif args.model_init_kwargs is not None or args.merge_adapter:
        raise ValueError(
            "`model_init_kwargs` and `merge_adapter` load a `model` that is a path, and this one is loaded: leave "
            "them out."
        )
    arguments.check_model(model, ref_model, peft_config, args.max_length)
    # They give `model(..., labels=, fused_lm_head=True)`: log-probs at the sampling temperature, and no logits.
    models = [model] if ref_model is None else [model, ref_model]
    heads = [add_fused_head(_plain(module), temperature=args.temperature) for module in models]
    args.accelerator_config.dispatch_batches = False  # which takes tensors, and ours are lists of rows
    if args.use_liger_kernel:  # whose loss would take the place of our forward
        args.liger_kernel_config = (args.liger_kernel_config or {}) | {"fused_linear_cross_entropy": False}
    base = {
        "model": model,
        "ref_model": ref_model,
        "args": args,
        "data_collator": list,
        "train_dataset": train_dataset,
        "eval_dataset": eval_dataset,
        "processing_class": processing_class,
        "peft_config": peft_config,
    }
    rewards = {
        "reward_funcs": reward_funcs,
        "reward_processing_classes": reward_processing_classes,
        "raw_prompts": concatenates,
    }
    return Parts(started_from, args, base, judge, rewards, heads)


def verify(trainer: "NashTrainer", parts: Parts) -> bool:
    """
    Verifies the model that the base's constructor has made, and gives the trainer its judge, and where it started.

    Returns:
        `bool`: whether the initial policy is the model with its adapters off.
    """
    args = parts.args
    trainer.started_from = parts.started_from
    trainer.use_vllm, trainer.vllm_mode = args.use_vllm, args.vllm_mode if args.use_vllm else None
    if args.gradient_checkpointing:  # which Trainer enables, and then adapters need it (transformers#42489)
        trainer.model.enable_input_require_grads()
    arguments.check_devices(args)
    arguments.check_sharding(trainer.accelerator, args)
    arguments.check_prepared_model(trainer.model)
    head, *reference_heads = parts.heads
    fresh_adapter = verify_policy(
        trainer.model,
        head,
        trainer.accelerator,
        adapted=parts.base["peft_config"] is not None,
        gather=args.ds3_gather_for_generation,
    )
    for reference_head in reference_heads:
        verify_reference(trainer.ref_model, reference_head, trainer.accelerator)
    given = generation_config(args, trainer._tokenizer, trainer.eos_token_ids)
    trainer.eos_token_ids = check_sampler(_plain(trainer.model), given, args)
    # Each rank samples with its own noise; the base has seeded them alike, to build the same model.
    set_seed(args.seed, device_specific=True)

    trainer.judge = parts.judge or RewardJudge(
        **parts.rewards,
        reward_weights=args.reward_weights,
        temperature=args.reward_temperature,
        missing_eos_penalty=args.missing_eos_penalty,
        eos_token_ids=trainer.eos_token_ids,
        model_kwargs={"trust_remote_code": args.trust_remote_code},
        device=trainer.accelerator.device,
    )
    check_columns(trainer.judge, parts.base["train_dataset"], parts.base["eval_dataset"])
    show_rewards(trainer, [] if parts.judge is not None else trainer.judge.reward_funcs)
    return fresh_adapter


def _load_tokenizer(path: str, args: NashConfig, with_model: bool):
    if not path:
        raise ValueError("The model was not loaded from a path: pass its tokenizer as `processing_class`.")
    revision = (args.model_init_kwargs or {}).get("revision") if with_model else None
    return load_tokenizer(path, revision, args.trust_remote_code)


def _plain(model: PreTrainedModel) -> PreTrainedModel:
    """The model below its adapters."""
    return model.get_base_model() if is_peft_model(model) else model
