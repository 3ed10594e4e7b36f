# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Trainers over the tiny model, and judges whose verdicts can be worked out by hand."""

import math

import torch
from datasets import Dataset
from peft import LoraConfig
from tiny import build_model, build_tokenizer

from trl_nash import (
    COMALConfig,
    COMALTrainer,
    NashMDConfig,
    NashMDTrainer,
    NashTrainer,
    ONPOConfig,
    ONPOTrainer,
    PairConfig,
)


# name -> (trainer, config, the options that make it this algorithm)
ALGORITHMS = {
    "ipo": (NashTrainer, PairConfig, {"step_size": 1.0}),
    "onpo-one": (ONPOTrainer, ONPOConfig, {"step_size": 1.0, "fits": "one"}),
    "onpo-two": (ONPOTrainer, ONPOConfig, {"step_size": 1.0, "fits": "two"}),
    "comal": (COMALTrainer, COMALConfig, {"step_size": 1.0, "beta": 1 / 3, "num_generations": 2}),
    "nash-md": (NashMDTrainer, NashMDConfig, {"mixture_coef": 0.3, "beta": 0.1}),
    "nash-ema": (NashMDTrainer, NashMDConfig, {"opponent": "ema", "ema_decay": 0.5, "beta": 0.1}),
}
PAIR_ALGORITHMS = ["ipo", "onpo-one", "onpo-two", "comal"]

# Every prompt ends with a word of its own.
PROMPTS = ["a", "b c", "c d e", "d", "e f", "f g h", "g", "h a"]


def prompt_dataset(prompts=PROMPTS, **columns) -> Dataset:
    return Dataset.from_dict({"prompt": list(prompts), **columns})


def lora_config(**options) -> LoraConfig:
    return LoraConfig(
        **{"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | options
    )


def favours_a(prompts, first, second):
    """P(first ≻ second) = sigmoid of how many more words "a" and fewer words "b" the first has."""
    scores = [[text.split().count("a") - text.split().count("b") for text in texts] for texts in (first, second)]
    return [1 / (1 + math.exp(j - i)) for i, j in zip(*scores, strict=True)]


favours_a.symmetric = True


class CountingJudge:
    """A judge that keeps what it was asked, one entry per call."""

    symmetric = True

    def __init__(self, verdict=favours_a):
        self.verdict = verdict
        self.calls = []

    def __call__(self, prompts, first, second, **columns):
        self.calls.append({"prompts": prompts, "first": first, "second": second, **columns})
        return self.verdict(prompts, first, second)


def make_config(algorithm: str, output_dir, **options):
    """The algorithm's config with what a test on the CPU needs."""
    _, config_class, own = ALGORITHMS[algorithm]
    defaults = {
        "output_dir": str(output_dir),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "max_new_tokens": 5,
        "max_length": 16,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "seed": 7,
    }
    return config_class(**defaults | own | options)


def make_trainer(
    algorithm: str,
    output_dir,
    *,
    model=None,
    tokenizer=None,
    dataset=None,
    judge=favours_a,
    lora: bool = False,
    peft_config=None,
    trainer_class=None,
    extra: dict | None = None,
    **options,
):
    """
    A trainer of `algorithm` over the tiny model.

    `extra` goes to the trainer (`ref_model`, `eval_dataset`, `callbacks` ...), `options` to its config.
    """
    tokenizer = tokenizer or build_tokenizer(chat=False)  # of a base model: prompts are its text
    extra = extra or {}
    if judge is not None:
        extra = {"judge": judge} | extra
    return (trainer_class or ALGORITHMS[algorithm][0])(
        model=build_model(tokenizer) if model is None else model,
        args=make_config(algorithm, output_dir, **options),
        train_dataset=prompt_dataset() if dataset is None else dataset,
        processing_class=tokenizer,
        peft_config=lora_config() if lora else peft_config,
        **extra,
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are bitwise the same."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def perturb(model: torch.nn.Module, scale: float = 0.1, seed: int = 1) -> None:
    """Moves the trainable weights by Gaussian noise, as training would, but visibly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


def move(trainer, scale: float = 0.1, seed: int = 1) -> None:
    """Moves the policy as a round of training would, and counts one."""
    trainer.policies.ensure_initial()
    perturb(trainer.model, scale, seed)
    trainer._micro_step += trainer.args.micro_steps_per_round


def history(trainer, key: str) -> list[float]:
    """The values of a metric in the training log."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def build_copier(tokenizer):
    """
    A model that repeats its last token for ever.

    One-hot embeddings pass through layers that add nothing, and a head that is 100 times their transpose.
    """
    size = 2 * math.ceil(len(tokenizer) / 2)
    model = build_model(tokenizer, hidden_size=size, num_attention_heads=1, num_key_value_heads=1)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tokenizer), size))
        model.lm_head.weight.copy_(100 * torch.eye(len(tokenizer), size))
    return model


def answer_with(trainer, answers: list[str], frozen: list[str] | None = None) -> None:
    """The live policy answers every prompt with `answers`, in this order, and frozen policies with `frozen`."""

    def generate(prompts, count, policy=None):
        encode = trainer._tokenizer
        texts = answers if policy is None else frozen
        rows = [encode(text, add_special_tokens=False)["input_ids"] for text in texts[:count]]
        rendered = [trainer.sampler.render(prompt)[0] for prompt in prompts]
        prompt_ids = [encode(text, add_special_tokens=False)["input_ids"] for text in rendered]
        return prompt_ids, [[list(row) for row in rows] for _ in prompts]

    trainer.generate = generate
