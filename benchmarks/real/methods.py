# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Every method with the same prompts, answers and judge: what its trainer is told."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from transformers import AutoConfig

from trl_nash import (
    COMALConfig,
    COMALTrainer,
    EGPOConfig,
    EGPOTrainer,
    INPOConfig,
    INPOTrainer,
    MNPOConfig,
    MNPOTrainer,
    MPOConfig,
    MPOTrainer,
    NashMDConfig,
    NashMDTrainer,
    NashMirrorProxConfig,
    NashMirrorProxTrainer,
    NashProxConfig,
    NashProxTrainer,
    NashTrainer,
    OnlineIPOConfig,
    OnlineIPOTrainer,
    ONPOConfig,
    ONPOTrainer,
    PairConfig,
    SPPOConfig,
    SPPOTrainer,
    as_reward_func,
)
from trl_nash.compat import GRPOConfig, GRPOTrainer, OnlineDPOConfig, OnlineDPOTrainer

from .model import fast_dtype


PROMPTS = 16  # of a round
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS = 4  # into which a pass over a round is divided
# All rounds are sampled as training will score them: at temperature 1, nothing cut off.
SAMPLED: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}


@dataclass(frozen=True)
class Method:
    """A trainer, its config and what is particular to it."""

    trainer: type
    config: type
    options: Callable[[float], dict]  # of a step size
    fits: int = 1  # passes over a round are counted for each
    samplings: int = 1
    on_policy: bool = False  # a policy gradient: a step of its own for each sampling, and no second pass

    def build(self, judge, *, options: dict, passes: int, tokens: int, answers: int, **arguments):
        """The trainer, and the optimizer steps of its round."""
        settings = {
            "use_cpu": True,
            "bf16": fast_dtype() is torch.bfloat16,
            "gradient_checkpointing": False,
            "warmup_steps": 2 * STEPS,  # the first steps of Adam are as large as it allows
            "max_grad_norm": 1.0,
            "model_init_kwargs": {"dtype": str(fast_dtype()).removeprefix("torch.")},
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            **SAMPLED,
            **options,
            **arguments.pop("settings"),
        }
        steps = STEPS if self.on_policy else self.fits * passes * STEPS
        if self.trainer is GRPOTrainer:  # counts completions
            settings |= {
                "per_device_train_batch_size": PROMPTS * answers // STEPS,
                "num_generations": answers,
                "steps_per_generation": STEPS,
                "num_iterations": passes,
                "max_completion_length": tokens,
            }
            source = {"reward_funcs": as_reward_func(judge)}
        elif self.trainer is OnlineDPOTrainer:  # samples two answers: twice the prompts
            settings |= {
                "per_device_train_batch_size": PROMPTS * answers // 2 // STEPS,
                "max_new_tokens": tokens,
                "max_length": 128,
            }
            source, steps = {"reward_funcs": as_reward_func(judge)}, STEPS
        else:
            settings |= {
                "per_device_train_batch_size": PROMPTS // STEPS,
                "num_generations": answers,
                "steps_per_generation": 1 if self.on_policy else STEPS,
                "num_iterations": 1 if self.on_policy else passes,
                "per_device_generation_batch_size": PROMPTS,
                "max_new_tokens": tokens,
                "max_length": 128,
            }
            source = {"judge": judge}
        rounds = settings.pop("rounds") // self.samplings
        settings |= {"max_steps": rounds * steps, "logging_steps": steps}
        # The last third of the layers, so that the way back through the model is short: a CPU is slow.
        count = AutoConfig.from_pretrained(arguments["model"]).num_hidden_layers
        layers = list(range(2 * count // 3, count))
        lora = LoraConfig(
            r=16, lora_alpha=32, target_modules=LINEAR, layers_to_transform=layers, task_type="CAUSAL_LM"
        )
        return self.trainer(args=self.config(**settings), peft_config=lora, **source, **arguments), steps


def _proximal(step: float) -> dict:
    """A reference that follows the policy after six rounds; ρ = 3/4."""
    return {"step_size": step, "beta": 0.75 / step, "reference_rounds": 6}


def _regularized(step: float) -> dict:
    """A price for leaving the start; ρ = 0.3."""
    return {"step_size": step, "beta": 0.3 / step}


def _plain(step: float) -> dict:
    return {"step_size": step}


METHODS = {
    "comal": Method(COMALTrainer, COMALConfig, _proximal),
    "mpo": Method(MPOTrainer, MPOConfig, _proximal),
    "onpo": Method(ONPOTrainer, ONPOConfig, _plain),
    "onpo-two-fits": Method(ONPOTrainer, ONPOConfig, lambda step: {"step_size": step, "fits": "two"}, fits=2),
    "inpo": Method(INPOTrainer, INPOConfig, _regularized),
    "egpo": Method(EGPOTrainer, EGPOConfig, _regularized, fits=2, samplings=2),
    "nash-mp": Method(NashMirrorProxTrainer, NashMirrorProxConfig, _regularized, fits=2, samplings=2),
    "mnpo": Method(MNPOTrainer, MNPOConfig, _regularized),
    "nash-md": Method(NashMDTrainer, NashMDConfig, lambda _: {"beta": 0.05, "mixture_coef": 0.125}, on_policy=True),
    "nash-prox": Method(
        NashProxTrainer, NashProxConfig, lambda _: {"beta": 0.05, "reference_rounds": 6 * STEPS}, on_policy=True
    ),
    "online-ipo": Method(OnlineIPOTrainer, OnlineIPOConfig, _plain, on_policy=True),
    "iterative-ipo": Method(NashTrainer, PairConfig, _plain),
    "sppo": Method(SPPOTrainer, SPPOConfig, _plain),
    "online-dpo": Method(OnlineDPOTrainer, OnlineDPOConfig, lambda _: {"beta": 0.1}),
    "grpo": Method(GRPOTrainer, GRPOConfig, lambda _: {}),
}
