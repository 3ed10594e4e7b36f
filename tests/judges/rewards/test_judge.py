# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`RewardJudge` with reward functions: Bradley-Terry, weighted sums, `None`, end of sequence."""

import math

import numpy as np
import pytest

from trl_nash.judges import RewardJudge


PROMPTS = ["a b", "c"]
CHATS = [[{"role": "user", "content": "a b"}], [{"role": "system", "content": "d"}, {"role": "user", "content": "c"}]]
COMPLETIONS = [["c", "d e", "a a a a"], ["b", "e c d", "c c"]]
PAIRS = [(0, 1), (0, 2), (1, 2), (2, 0)]


def length(completions, **kwargs):
    return [float(len(text)) for text in completions]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_bradley_terry(temperature):
    """P = σ((r_i - r_j) / temperature), entry by entry; the six texts have lengths 1, 3, 7 and 1, 5, 3."""
    preference = RewardJudge(length, temperature=temperature).compare(PROMPTS, COMPLETIONS, PAIRS)
    differences = [[1 - 3, 1 - 7, 3 - 7, 7 - 1], [1 - 5, 1 - 3, 5 - 3, 3 - 1]]
    expected = [[sigmoid(d / temperature) for d in row] for row in differences]
    np.testing.assert_allclose(preference, expected, rtol=1e-12)


def test_large_rewards_do_not_overflow():
    judge = RewardJudge(lambda completions: [1e4 * len(text) for text in completions])
    with np.errstate(all="raise", under="ignore"):
        assert judge.compare(["x"], [["aa", "a"]], [(0, 1), (1, 0)]).tolist() == [[1.0, 0.0]]


def test_small_probabilities_are_exact():
    judge = RewardJudge(lambda completions: [40.0 * len(text) for text in completions])
    preference = judge.compare(["x"], [["a", "aa"]], [(0, 1)])
    assert preference[0, 0] == pytest.approx(math.exp(-40), rel=1e-12)  # a naive σ(x) = (1 + tanh(x/2)) / 2 gives 0


def test_each_completion_is_scored_once_with_everything_that_belongs_to_it():
    calls = []

    def reward(prompts, completions, completion_ids, trainer_state, source, **columns):
        calls.append(list(zip(prompts, completions, completion_ids, source, columns["weight"], strict=True)))
        assert trainer_state == "state"
        return [0.0] * len(prompts)

    RewardJudge(reward).compare(
        ["x", "y"],
        [["a", "b", "c"], ["d", "e", "f"]],
        [(0, 1), (0, 2), (1, 2)],
        columns={"source": ["s", "t"], "weight": [1, 2], "prompts": ["of the dataset"] * 2},
        completion_ids=[[[1], [2], [3]], [[4], [5], [6]]],
        trainer_state="state",
    )
    assert calls == [
        [
            ("x", "a", [1], "s", 1),
            ("x", "b", [2], "s", 1),
            ("x", "c", [3], "s", 1),
            ("y", "d", [4], "t", 2),
            ("y", "e", [5], "t", 2),
            ("y", "f", [6], "t", 2),
        ]
    ]


def test_conversational_completions_are_messages():
    def reward(prompts, completions, **kwargs):
        assert prompts[0] == CHATS[0]
        assert all(message["role"] == "assistant" for (message,) in completions)
        return [float(len(message["content"])) for (message,) in completions]

    chat = RewardJudge(reward).compare(CHATS, COMPLETIONS, PAIRS)
    np.testing.assert_array_equal(chat, RewardJudge(length).compare(PROMPTS, COMPLETIONS, PAIRS))


def test_judging_pairs_equals_comparing_completions():
    def reward(completions, bonus):
        return [len(text) + extra for text, extra in zip(completions, bonus, strict=True)]

    judge = RewardJudge(reward)
    preference = judge(["x", "x", "y"], ["a", "aa", "b"], ["bbb", "aa", "bb"], bonus=[1, 1, 5])
    assert preference == pytest.approx([sigmoid(-2), 0.5, sigmoid(-1)])


def test_pairs_are_scored_in_one_order_only():
    rows = []

    def reward(prompts, completions):
        rows.extend(completions)
        return [0.0] * len(prompts)

    RewardJudge(reward)(["x", "x"], ["a", "b"], ["b", "a"])
    assert rows == ["a", "b"]


def test_weighted_sum():
    def vowels(completions, **kwargs):
        return [float(sum(letter in "ae" for letter in text)) for text in completions]

    judge = RewardJudge([length, vowels], reward_weights=[0.5, -2.0])
    preference = judge.compare(["x"], [["abc", "a"]], [(0, 1)])
    assert preference[0, 0] == pytest.approx(sigmoid((0.5 * 3 - 2 * 1) - (0.5 * 1 - 2 * 1)))
    unweighted = RewardJudge([length, vowels]).compare(["x"], [["abc", "a"]], [(0, 1)])
    assert unweighted[0, 0] == pytest.approx(sigmoid(2))


@pytest.mark.parametrize("silence", [None, math.nan])
@pytest.mark.filterwarnings("error")
def test_reward_of_none(silence):
    """None adds nothing to the sum; a completion without any reward abstains, and only its pairs do."""

    def first(completions, **kwargs):
        return [silence if "c" in text else 1.0 for text in completions]

    def second(completions, **kwargs):
        return [silence if len(text) == 1 else 3.0 for text in completions]

    rewards = RewardJudge([first, second]).rewards(["x"] * 4, ["aa", "cc", "a", "c"])
    np.testing.assert_array_equal(rewards, [4.0, 3.0, 1.0, math.nan])
    preference = RewardJudge([first, second]).compare(["x"], [["aa", "a", "c"]], [(0, 1), (0, 2), (2, 2)])
    np.testing.assert_allclose(preference, [[sigmoid(3), math.nan, math.nan]])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0], "The reward function broken returned 1 values; expected 2"),
        (["1", "2"], r"The reward function broken returned '1' \(str\); expected numbers"),
        (None, "The reward function broken returned None; expected a list of 2 numbers"),
    ],
)
def test_wrong_rewards_are_named(rewards, message):
    def broken(**kwargs):
        return rewards

    with pytest.raises(ValueError, match=message):
        RewardJudge(broken).compare(["x"], [["a", "b"]], [(0, 1)])


# End of sequence


def test_missing_eos_penalty_looks_at_the_completion_only():
    """ChatML prompts hold the end-of-sequence token (here 2, or 3) themselves; that must not excuse the completion."""
    judge = RewardJudge(length, missing_eos_penalty=1.5, eos_token_ids=[2, 3])
    rewards = judge.rewards(["<2> x <2>"] * 4, ["a", "a", "a", "a"], completion_ids=[[5, 2], [5, 3], [5, 6], []])
    assert rewards.tolist() == [1.0, 1.0, -0.5, -0.5]


def test_missing_eos_penalty_in_a_comparison():
    judge = RewardJudge(length, missing_eos_penalty=2.0, eos_token_ids=[2])
    ids = [[[5, 2], [5, 5]], [[5], [5, 2]]]
    preference = judge.compare(["x", "y"], [["a", "b"], ["a", "b"]], [(0, 1)], completion_ids=ids)
    np.testing.assert_allclose(preference, [[sigmoid(2)], [sigmoid(-2)]])


def test_missing_eos_penalty_needs_token_ids():
    judge = RewardJudge(length, missing_eos_penalty=1.0, eos_token_ids=[2])
    with pytest.raises(ValueError, match="needs the `completion_ids`"):
        judge(["x"], ["a"], ["b"])


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_funcs": []}, "`reward_funcs` is an empty list"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"missing_eos_penalty": -1.0, "eos_token_ids": [2]}, "must be positive, got -1.0"),
        ({"missing_eos_penalty": 1.0}, "needs `eos_token_ids`"),
        ({"reward_weights": [1.0, 2.0]}, "`reward_weights` has 2 entries for 1 `reward_funcs`"),
        ({"reward_processing_classes": [None, None]}, "`reward_processing_classes` has 2 entries for 1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RewardJudge(**{"reward_funcs": length, **arguments})


def test_what_is_no_reward_function():
    with pytest.raises(TypeError, match="takes functions, models and paths of models; got 3"):
        RewardJudge([length, 3])


def test_opposite_preferences_add_up_to_one_to_the_last_bit():
    """Of 1,000 reward differences from 1e-9 to 1e3, far into the tails."""
    judge = RewardJudge(lambda completions: [float(text) for text in completions])
    completions = [["0", str(10 ** (k / 83 - 9))] for k in range(1000)]
    preference = judge.compare(["x"] * 1000, completions, [(0, 1), (1, 0)])
    assert (preference.sum(1) == 1.0).all()
    assert 0 < preference[900, 0] < 1e-25
