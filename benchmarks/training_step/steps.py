# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Training steps of `NashTrainer` and of TRL's trainers on the same model, prompts and completions."""

import argparse
from collections.abc import Callable
from unittest import mock

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from benchmarks.shapes import SHAPES, build_model, build_tokenizer
from trl_nash import NashTrainer, PairConfig, RandomJudge
from trl_nash.algorithms import INITIAL, Fit, Policy
from trl_nash.kernels.fused_head import FusedHead
from trl_nash.rounds.batch import collate


OURS = "trl-nash"
UNSHARED = "unshared"  # ours, which reads a prompt for each of its completions


def build_step(trainer: str, lora: bool, folder: str, options: argparse.Namespace) -> Callable[[], float]:
    """A function that runs one step on random completions and returns its loss."""
    vocabulary = SHAPES[options.shape].vocab_size
    generator = torch.Generator().manual_seed(0)
    prompt_ids = torch.randint(3, vocabulary, (options.prompts, options.prompt_tokens), generator=generator)
    completion_ids = torch.randint(
        3, vocabulary, (options.prompts, options.completions, options.new_tokens), generator=generator
    )
    common = {
        "output_dir": folder,
        "use_cpu": options.device == "cpu",
        "bf16": options.bf16,
        "gradient_checkpointing": False,
        "report_to": "none",
        "temperature": 1.0,
    }
    pairs = common | {
        "per_device_train_batch_size": options.prompts,
        "max_new_tokens": options.new_tokens,
        "max_length": options.prompt_tokens + options.new_tokens,
    }
    tokenizer = build_tokenizer(options.shape)
    model = build_model(options.shape, 0, torch.bfloat16 if options.bf16 else torch.float32, options.device)
    arguments = {
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": Dataset.from_dict({"prompt": tokenizer.batch_decode(prompt_ids)}),
        "peft_config": LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None,
    }
    if trainer == "OnlineDPOTrainer":
        built = OnlineDPOTrainer(args=OnlineDPOConfig(**pairs), reward_funcs=_first_is_better, **arguments)
        # All first completions, then all second ones.
        ids = prompt_ids.repeat(2, 1), completion_ids.transpose(0, 1).flatten(0, 1)
        generated = [part.to(built.accelerator.device) for ids in ids for part in (ids, torch.ones_like(ids))]
        built._generate = lambda *_: (*generated, None)
        inputs = {"prompt": list(arguments["train_dataset"]["prompt"])}
    elif trainer == "GRPOTrainer":
        if not lora:  # it loads its reference from where the model came from
            model.save_pretrained(folder)
            model.config._name_or_path = folder
        built = GRPOTrainer(
            args=GRPOConfig(
                **common,
                beta=0.04,  # the default is 0, with no reference
                num_generations=options.completions,
                per_device_train_batch_size=options.completions * options.prompts,
                steps_per_generation=1,
                max_completion_length=options.new_tokens,
            ),
            reward_funcs=_first_is_better,
            **arguments,
        )
        # The completions of a prompt follow each other.
        built._generate_single_turn = lambda *_, **__: (completion_ids.flatten(0, 1).tolist(), None)
        inputs = [{"prompt": prompt} for prompt in arguments["train_dataset"]["prompt"]]
        inputs = [row for row in inputs for _ in range(options.completions)]
    else:
        built = NashTrainer(
            args=PairConfig(**pairs, num_generations=options.completions), judge=RandomJudge(), **arguments
        )
        built.policies.ensure_initial()
        inputs = collate(
            prompt_ids.tolist(),
            completion_ids.tolist(),
            pairs=torch.tensor([[[0, 1]]] * options.prompts),
            preference=torch.ones(options.prompts, 1),
            pad_token_id=0,
        )
    # What `train` does first.
    built.current_gradient_accumulation_steps = 1
    model = built.accelerator.prepare_model(built.model)
    built.model_wrapped = model
    optimizer = built.create_optimizer() if options.optimizer else None

    def step() -> float:
        if trainer != UNSHARED:
            return shared_step()
        with mock.patch.object(FusedHead, "can_share_prompts", return_value=False):
            return shared_step()

    def shared_step() -> float:
        batch, is_ours = inputs, trainer in (OURS, UNSHARED)
        if is_ours:
            fit = Fit({INITIAL: 1.0}, built.fit.step_size)
            (batch,) = built.scorer.centre(fit, [inputs], live=Policy(1), first=1, references={})
        loss = built.training_step(model, batch, None)
        if is_ours:
            built.stops.if_not_finite(None)  # as before every optimizer step
        if optimizer is not None:
            optimizer.step()
        model.zero_grad()
        return float(loss)

    return step


def _first_is_better(prompts, completions, **_) -> list[float]:
    return [1.0] * (len(completions) // 2) + [0.0] * (len(completions) - len(completions) // 2)
