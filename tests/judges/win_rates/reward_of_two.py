# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Run by `test_processes.py` as two gloo processes: TRL's GRPOTrainer trains on win rates, with groups that lie on
both. Writes what each rank gave the reward functions, what they returned, and what was logged.
"""

import json
import os
import sys
import threading
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from tiny import build_model, build_tokenizer
from trl import GRPOConfig, GRPOTrainer
from waiting import PATIENCE, until

from trl_nash.judges.base import Abstained, JudgeError, PairwiseJudge
from trl_nash.judges.win_rates.reward_func import as_reward_func


ASKED: list[tuple[str, str, str]] = []  # on this rank


def letters(first, second):
    """No opinion where both begin alike."""
    weight = [[sum(map(ord, text)) % 7 for text in texts] for texts in (first, second)]
    return [
        Abstained("alike") if a[:1] == b[:1] else 0.5 + (x - y) / 14
        for a, b, x, y in zip(first, second, *weight, strict=True)
    ]


def by_letters(prompts, first, second):
    ASKED.extend(zip(prompts, first, second, strict=True))
    return letters(first, second)


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
    "model": {"anchor": "model:{folder}/start", "anchor_kwargs": {"temperature": 0, "max_new_tokens": 3}},
}


def reward_function(name: str, folder: Path):
    arguments = dict(FUNCTIONS[name])
    if name == "model":
        arguments["anchor"] = arguments["anchor"].format(folder=folder)
    return as_reward_func(by_letters, **arguments)


class Crossing(PairwiseJudge):
    """
    One of two judges that wait, as for a server: of `"early"` the second answer of a rank comes behind the other's
    on rank 0, and of `"late"` on rank 1, so that their exchanges come in another order on each rank.
    """

    symmetric = waits = True
    done = {"early": threading.Event(), "late": threading.Event()}

    def __init__(self, name: str, asked: list):
        self.key, self.asked = name, asked

    @property
    def name(self) -> str:
        return self.key

    def judge(self, prompts, first, second):
        other = {"early": "late", "late": "early"}[self.key]
        if os.environ.get("RANK") == {"early": "0", "late": "1"}[self.key]:
            assert self.done[other].wait(PATIENCE)
        self.done[self.key].set()
        self.asked += zip(prompts, first, second, strict=True)
        return letters(first, second)


# Name -> arguments of `as_reward_func`, of functions that run side by side.
WAITING = {"early": {"pairing": "swiss"}, "late": {"anchor": "answer"}}


def waiting_function(name: str, asked: list):
    return as_reward_func(Crossing(name, asked), asynchronous=True, **WAITING[name])


def failing(prompts, first, second):
    if os.environ["RANK"] == "1":
        raise JudgeError("Rank 1 has no server.")
    return [0.5] * len(prompts)


def main(folder: Path) -> None:
    seen = {name: [] for name in (*FUNCTIONS, *WAITING)}

    def keep(name: str, batch: dict, rewards: list, asked: list) -> list:
        kept = {key: batch[key] for key in ("prompts", "completions", "answer")}
        kept |= {"step": batch["trainer_state"].global_step, "rewards": rewards, "asked": list(asked)}
        seen[name].append(kept)
        return rewards

    def recorded(name: str):
        function = reward_function(name, folder)

        def reward(**batch):
            ASKED.clear()
            return keep(name, batch, function(**batch), ASKED)

        reward.__name__ = name
        return reward

    def recorded_waiting(name: str):
        asked: list = []
        function = waiting_function(name, asked)

        async def reward(**batch):
            asked.clear()
            return keep(name, batch, await function(**batch), asked)

        reward.__name__ = name
        return reward

    tokenizer = build_tokenizer(chat=False)
    if os.environ["RANK"] == "0":
        build_model(tokenizer).save_pretrained(folder / "saved")
        tokenizer.save_pretrained(folder / "saved")
        (folder / "saved").rename(folder / "start")
    until((folder / "start").is_dir)  # a function is made of a model that is there
    # A rank scores six completions of groups of four: the second of three groups lies on both.
    trainer = GRPOTrainer(
        model=build_model(tokenizer),
        reward_funcs=[*map(recorded, FUNCTIONS), *map(recorded_waiting, WAITING)],
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
