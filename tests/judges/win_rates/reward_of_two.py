# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Run by `test_processes.py` as two gloo processes: TRL's GRPOTrainer trains on win rates, with groups that lie on
both. Writes what each rank gave the reward functions, what they returned, and what was logged.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from tiny import build_model, build_tokenizer
from trl import GRPOConfig, GRPOTrainer

from trl_nash.judges.base import Abstained, JudgeError
from trl_nash.judges.win_rates.reward_func import as_reward_func


ASKED: list[tuple[str, str, str]] = []  # on this rank


def by_letters(prompts, first, second):
    """No opinion where both begin alike."""
    ASKED.extend(zip(prompts, first, second, strict=True))
    weight = [[sum(map(ord, text)) % 7 for text in texts] for texts in (first, second)]
    return [
        Abstained("alike") if a[:1] == b[:1] else 0.5 + (x - y) / 14
        for a, b, x, y in zip(first, second, *weight, strict=True)
    ]


by_letters.symmetric = True


def reference(prompts):
    """The anchor of one of the functions: two answers to each prompt."""
    return [[f"{prompt} a", "b"] for prompt in prompts]


# Name -> arguments of `as_reward_func`.
FUNCTIONS = {
    "default": {},
    "swiss": {"pairing": "swiss"},
    "random": {"pairing": "random", "pairs_per_prompt": 3},
    "column": {"anchor": "answer"},
    "function": {"anchor": reference},
}


def reward_function(name: str):
    return as_reward_func(by_letters, **FUNCTIONS[name])


def failing(prompts, first, second):
    if os.environ["RANK"] == "1":
        raise JudgeError("Rank 1 has no server.")
    return [0.5] * len(prompts)


def main(folder: Path) -> None:
    seen = {name: [] for name in FUNCTIONS}

    def recorded(name: str):
        function = reward_function(name)

        def reward(prompts, completions, trainer_state, **others):
            ASKED.clear()
            rewards = function(prompts, completions, trainer_state=trainer_state, **others)
            seen[name].append(
                {
                    "prompts": prompts,
                    "completions": completions,
                    "answer": others["answer"],
                    "step": trainer_state.global_step,
                    "rewards": rewards,
                    "asked": list(ASKED),
                }
            )
            return rewards

        reward.__name__ = name
        return reward

    tokenizer = build_tokenizer(chat=False)
    # A rank scores six completions of groups of four: the second of three groups lies on both.
    trainer = GRPOTrainer(
        model=build_model(tokenizer),
        reward_funcs=[recorded(name) for name in FUNCTIONS],
        args=GRPOConfig(
            output_dir=str(folder / "out"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            per_device_train_batch_size=6,
            num_generations=4,
            max_completion_length=3,
        ),
        train_dataset=Dataset.from_dict({"prompt": list("abcdef"), "answer": ["a", "b", None, "c", "d e", "f"]}),
        processing_class=tokenizer,
    )
    trainer.train()

    message = None
    try:
        as_reward_func(failing)(["x", "y"], [os.environ["RANK"]] * 2)  # a group for each rank
    except JudgeError as error:
        message = str(error)
    alone = None
    try:
        as_reward_func(by_letters)([f"x{os.environ['RANK']}"], ["a"])
    except ValueError as error:
        alone = str(error)
    ranks = gather_object([{"seen": seen, "failed": message, "alone": alone}])
    if trainer.accelerator.is_main_process:
        result = {"ranks": ranks, "log": trainer.state.log_history, "processes": trainer.accelerator.num_processes}
        result["extra"] = {name: list(values) for name, values in trainer._logs["extra"].items()}
        (folder / "result.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
