# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`as_reward_func`: a judge in trainers that take rewards, TRL's own."""

import itertools
import math

import pytest
from tiny import build_model, build_tokenizer
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from trl_nash.judges import RandomJudge, RewardJudge
from trl_nash.judges.adapters import as_reward_func
from trl_nash.judges.base import Abstained


PROMPTS = ["a b", "c d", "e f", "g h"]


def longer(prompts, first, second):
    return [(1 + (len(a) > len(b)) - (len(a) < len(b))) / 2 for a, b in zip(first, second, strict=True)]


def test_mean_win_rate_wherever_the_rows_are():
    """x: 1 beats 0 and -, 0 beats -. y: two equal ones."""
    rewards = as_reward_func(longer)(
        prompts=["x", "y", "x", "x", "y"], completions=["22", "a", "333", "", "b"], completion_ids=None
    )
    assert rewards == [0.5, 0.5, 1.0, 0.0, 0.5]


def test_any_number_of_completions():
    """Against the judge asked pair by pair."""
    judge = RandomJudge()
    prompts = ["x", "y", "x", "y", "y", "z", "x", "x", "z"]
    completions = [f"text {k}" for k in range(len(prompts))]
    rewards = as_reward_func(judge)(prompts=prompts, completions=completions)
    for row, (prompt, text) in enumerate(zip(prompts, completions, strict=True)):
        others = [c for p, c in zip(prompts, completions, strict=True) if p == prompt and c != text]
        wins = judge([prompt] * len(others), [text] * len(others), others)
        assert rewards[row] == pytest.approx(sum(wins) / len(wins), abs=1e-12)


def test_conversations_columns_and_names():
    seen = []

    def right(prompts, first, second, answer):
        seen.extend(zip(prompts, first, second, answer, strict=True))
        return [0.5 + 0.5 * ((a == r) - (b == r)) for a, b, r in zip(first, second, answer, strict=True)]

    right.symmetric = True
    reward_func = as_reward_func(right)
    prompt = [{"role": "user", "content": "x"}]
    completions = [[{"role": "assistant", "content": text}] for text in "abab"]
    rewards = reward_func(
        prompts=[prompt] * 4,
        completions=completions,
        answer=["a", "a", "b", "b"],  # two rows of the dataset with one prompt
        trainer_state=None,
        log_metric=print,
    )
    assert rewards == [1.0, 0.0, 0.0, 1.0]
    assert seen == [(prompt, "a", "b", "a"), (prompt, "a", "b", "b")]
    assert reward_func.__name__ == "win_rate_right"


def test_abstentions():
    def silent(prompts, first, second):
        return [
            Abstained("server") if "?" in (a, b) else 0.25 + 0.5 * (a > b) for a, b in zip(first, second, strict=True)
        ]

    reward_func = as_reward_func(silent)
    assert reward_func(prompts=["x"] * 3, completions=["a", "b", "?"]) == [0.25, 0.75, None]
    assert reward_func(prompts=["x"] * 2, completions=["?", "b"]) == [None, None]


def test_reward_judges_score_once_and_see_the_token_ids():
    calls = []

    def reward(completions, completion_ids):
        calls.append((completions, completion_ids))
        return [float(len(ids)) for ids in completion_ids]

    rewards = as_reward_func(RewardJudge(reward))(
        prompts=["x", "y", "x", "y"], completions=list("abcd"), completion_ids=[[1], [1, 2], [1, 2, 3], [1, 2]]
    )
    low = 1 / (1 + math.exp(2))
    assert rewards == pytest.approx([low, 0.5, 1 - low, 0.5])
    assert calls == [(["a", "c", "b", "d"], [[1], [1, 2, 3], [1, 2], [1, 2]])]


def test_a_completion_without_an_opponent():
    with pytest.raises(ValueError, match="win rate against others of its prompt .* raise `num_generations`"):
        as_reward_func("random")(prompts=["x", "y", "x"], completions=["a", "b", "c"])


@pytest.mark.parametrize("algorithm", ["online-dpo", "grpo"])
@pytest.mark.parametrize("conversational", [False, True])
def test_stock_trainers_train(algorithm, conversational, tmp_path):
    """Two steps of TRL's own trainers: the judge meets pairs of completions of one prompt, and the weights move."""
    from datasets import Dataset

    tokenizer = build_tokenizer(chat=conversational)
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS] if conversational else PROMPTS
    asked = []

    def judge(prompts, first, second, answer):
        assert answer == ["a" if "a b" in str(prompt) else "b" for prompt in prompts]
        asked.extend(zip(prompts, first, second, strict=True))
        return longer(prompts, first, second)

    shared = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    model = build_model(tokenizer)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = {
        "model": model,
        "reward_funcs": as_reward_func(judge),
        "train_dataset": Dataset.from_dict({"prompt": prompts, "answer": ["a", "b", "b", "b"]}),
        "processing_class": tokenizer,
    }
    if algorithm == "grpo":
        options = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 5}
        trainer = GRPOTrainer(args=GRPOConfig(**shared, **options), **arguments)
    else:
        options = {"per_device_train_batch_size": 2, "max_new_tokens": 5, "max_length": 16}
        trainer = OnlineDPOTrainer(args=OnlineDPOConfig(**shared, **options), **arguments)
    trainer.train()
    assert trainer.state.global_step == 2
    assert any((start[name] != tensor).any() for name, tensor in model.state_dict().items())
    assert asked
    for prompt, a, b in asked:
        assert prompt in prompts and (prompt, b, a) in asked  # as in the dataset, and in both orders
    log = list(itertools.chain.from_iterable(entry for entry in trainer.state.log_history))
    name = "rewards/win_rate_judge/mean" if algorithm == "grpo" else "objective/scores"
    assert name in log
