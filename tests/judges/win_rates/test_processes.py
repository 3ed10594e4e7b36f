# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`as_reward_func` where a group's completions lie on two processes."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from two_ranks import result_of_two


sys.path.insert(0, str(Path(__file__).parent))
from reward_of_two import FUNCTIONS, WAITING, reward_function, waiting_function  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reward_of_two")


@pytest.fixture(scope="module")
def two_processes(folder):
    """What `reward_of_two.py` wrote, run as two gloo processes."""
    return result_of_two(Path(__file__).with_name("reward_of_two.py"), folder)


def test_groups_lie_on_both(two_processes):
    """Before anything else: of a prompt some completions are on one rank and some on the other."""
    assert two_processes["processes"] == 2
    first, second = (
        {prompt for step in rank["seen"]["default"] for prompt in step["prompts"]} for rank in two_processes["ranks"]
    )
    assert first & second


@pytest.mark.parametrize("name", [*FUNCTIONS, *WAITING])
def test_rewards_are_those_of_one_process(two_processes, folder, name):
    """
    Of the batch of both ranks, in one process, to the last bit; nothing is judged twice. Of functions that run side by
    side, too, whose verdicts came in another order on each rank.
    """
    steps = list(zip(*(rank["seen"][name] for rank in two_processes["ranks"]), strict=True))
    assert len(steps) == 2
    for parts in steps:
        batch = {key: parts[0][key] + parts[1][key] for key in ("prompts", "completions", "answer")}
        batch["trainer_state"] = SimpleNamespace(global_step=parts[0]["step"])
        if name in WAITING:
            rewards = asyncio.run(waiting_function(name, [])(**batch))
        else:
            rewards = reward_function(name, folder)(**batch)
        assert parts[0]["rewards"] + parts[1]["rewards"] == rewards
        assert len({reward for reward in rewards if reward is not None}) > 1
        first, second = ({(prompt, frozenset(pair)) for prompt, *pair in part["asked"]} for part in parts)
        assert first and (second or name == "late") and not first & second  # whose answers one prompt lacks


def test_metrics_are_in_the_log(two_processes):
    (logged, _) = [entry for entry in two_processes["log"] if "loss" in entry]
    names = {name for name in logged if name.startswith("judge/")}
    assert {
        "judge/preference",
        "judge/abstained",
        "judge/abstained/alike",
        "judge/cycle_rate",
        "judge/cached",
    } <= names
    columns = {name for name in two_processes["extra"] if name.endswith("/verdicts")}
    ways = ("", "_swiss", "_random", "_against_answer", "_against_reference", "_against_start")
    expected = {f"win_rate_by_letters{way}/verdicts" for way in ways}
    assert columns == expected | {"win_rate_early_swiss/verdicts", "win_rate_late_against_answer/verdicts"}


def test_a_failure_of_one_is_one_of_all(two_processes):
    first, second = (rank["failed"] for rank in two_processes["ranks"])
    assert second == "Rank 1 has no server."
    assert first == "Process 1 could not judge its part of the batch (JudgeError: Rank 1 has no server.)."


def test_a_completion_that_is_alone_in_the_batch_of_all(two_processes):
    first, second = (rank["alone"] for rank in two_processes["ranks"])
    assert first == second and "in the batch of all 2 processes" in first
