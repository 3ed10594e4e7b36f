# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A run from a trainer's config, and how long it is."""

from types import SimpleNamespace

import trl_nash
from trl_nash.compat import ModelConfig
from trl_nash.planning.run.config import length_of, run_of
from trl_nash.planning.run.judge import UNKNOWN, judge_of


def test_a_config_is_a_run(tmp_path):
    config = trl_nash.OnlineIPOConfig(
        output_dir=str(tmp_path), mixture_coef=[0.25, 0.5], num_generations=4, bf16=False, use_cpu=True
    )
    model = ModelConfig(use_peft=True, lora_target_modules=["all-linear"], dtype="auto")
    run = run_of("online-ipo", config, model, judge=judge_of(["openai:model"], {"order": "random"}), rounds=3)
    assert (run.mixture_coef, run.num_generations, run.precision, run.rounds) == (0.5, 4, "fp32", 3)
    assert (run.dtype, run.lora_target_modules) == ("bfloat16", ("all-linear",))
    assert (run.judge, run.judge_orders, run.judge_parameters) == ("openai", 1, 0)
    assert run.optimizer_steps == 3 * config.optimizer_steps_per_round


def test_lengths():
    training = SimpleNamespace(optimizer_steps_per_round=2, max_steps=-1, num_train_epochs=1, prompts_per_round=4)
    assert length_of(training, training, None) is None
    assert length_of(training, training, 11) == (2, 4)
    training.num_train_epochs = 1.75  # the last round is left in its midst
    assert length_of(training, training, 8) == (4, 7)
    training.max_steps = 3
    assert length_of(training, training, None) == (2, 3)


def test_generative_judges_servers_of_rewards_and_implicit_rewards():
    local = judge_of(["genrm:gaotang/RM-R1-Qwen2.5-Instruct-7B"])
    assert (local.kind, local.parameters) == ("genrm", int(7e9))
    assert any("takes time that is not counted" in note for note in local.notes)
    assert judge_of(["genrm:gaotang/RM-R1-7B@http://x:1/v1"]) == judge_of(["openai:m@http://x:1/v1"])
    assert judge_of(["reward-server:org/model@http://x:1"])[:3] == ("reward-server", 2, 0)
    assert judge_of(["dpo:org/policy-1.5B,org/reference-1.5B"])[:3] == ("dpo", 2, int(3e9))


def test_judges_are_counted_by_name_or_assumed():
    assert judge_of(["reward:org/Reward-V2-0.6B"]).parameters == int(0.6e9)
    judge = judge_of(["reward:org/model", "openai:model", "pairwise-lm:Qwen/Qwen2.5-7B-Instruct", "mine:longer"])
    assert judge.kind == "openai" and judge.parameters == UNKNOWN + 7_615_616_512
    assert any("reward:org/model is taken for one of 8B" in note for note in judge.notes)
    assert any("mine:longer takes no time" in note for note in judge.notes)
