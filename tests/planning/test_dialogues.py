# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A plan of dialogues: turns, tokens and calls, by hand and as a trainer makes them."""

import json

from trl_nash.cli.main import main
from trl_nash.generation.dialogue import TURNS
from trl_nash.planning.costs.flop import tokens
from trl_nash.planning.model import sizes_by_hand
from trl_nash.planning.run import Run


MODEL = sizes_by_hand(int(1e9))


def test_turns_tokens_and_calls_by_hand():
    """
    2 prompts a round, K = 3 completions of at most 4 turns of 10 tokens: the user is asked 3 times in each, 18 times;
    240 tokens are sampled, and with the user's and the prompt's of 30 tokens each row has 100.
    """
    run = Run(num_generations=3, per_device_train_batch_size=2, max_new_tokens=10, max_length=200, prompt_length=30,
              user="openai:m")  # fmt: skip
    assert TURNS == run.turns == 4 and run.user_calls_a_round == 2 * 3 * 3
    found = tokens(MODEL, run, scorings=1)
    assert found.generated == 2 * 3 * 4 * 10
    assert found.trained == 2 * 3 * (30 + 40 + 30)
    alone = Run(num_generations=3, per_device_train_batch_size=2, max_new_tokens=10, max_length=200, prompt_length=30)
    assert alone.turns == 1 and alone.user_calls_a_round == 0 and tokens(MODEL, alone, 1).generated == 60
    # A dialogue never has more tokens than fit.
    short = Run(max_new_tokens=10, max_length=60, prompt_length=30, user="u", max_turns=8)
    assert short.mean_completion == 30 and short.longest_own == 59


def test_the_command_counts_them(capsys):
    options = ["plan", "onpo", "--parameters", "1B", "--judge", "random", "--rounds", "2", "--max_new_tokens", "16"]
    assert main([*options, "--user", "initial", "--max_turns", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    found = found[0] if isinstance(found, list) else found
    assert (
        found["a_round"]["user_calls"]
        == found["run"]["per_device_train_batch_size"] * found["run"]["steps_per_generation"] * 2 * 2
    )
    assert main([*options, "--user", "initial"]) == 0
    assert "user calls, at most" in capsys.readouterr().out
    assert main([*options, "--max_turns", "3"]) == 2
    assert "--max_turns does nothing without --user" in capsys.readouterr().err
