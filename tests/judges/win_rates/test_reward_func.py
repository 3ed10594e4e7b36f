# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`as_reward_func`: a judge in trainers that take rewards, TRL's own."""

import datetime
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from loopback import Loopback, status
from tiny import build_model, build_tokenizer
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from trl_nash.judges import CallableJudge, RandomJudge, RewardJudge
from trl_nash.judges.base import Abstained
from trl_nash.judges.win_rates.reward_func import as_reward_func
from trl_nash.rounds.pairings import pairing_of, win_rates


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


def table_judge(table):
    """P(a ≻ b) of completions that are places in a table."""

    def judge(prompts, first, second):
        asked.append(len(first))
        return [table[int(a)][int(b)] for a, b in zip(first, second, strict=True)]

    judge.symmetric, asked = True, []
    judge.asked = asked
    return judge


# P(row ≻ column) = ½ + s_row - s_column for s = .3, .2, .1, 0: they add up, so any connected pairs tell all.
ADDITIVE = [[0.5 + (j - i) / 10 for j in range(4)] for i in range(4)]


@pytest.mark.parametrize("pairing, calls", [("all", 6), ("circular", 4), ("swiss", 4), ("elimination", 5)])
def test_pairings_of_preferences_that_add_up(pairing, calls):
    """Win rates of all pairs by hand: (.6 + .7 + .8) / 3 of the best, ..."""
    judge = table_judge(ADDITIVE)
    rewards = as_reward_func(judge, pairing=pairing)(prompts=["x"] * 4, completions=list("2031"))
    assert rewards == pytest.approx([0.5 - 0.2 / 3, 0.7, 0.3, 0.5 + 0.2 / 3], abs=1e-12)
    assert sum(judge.asked) == calls


@pytest.mark.parametrize("name, pairs", [("iid", None), ("random", 4), ("active", 4), ("tournament", None)])
def test_a_pairing_of_fewer_calls_gives_its_own_win_rates(name, pairs):
    """Those of `win_rates` on what the pairing asks; a completion that it does not ask about has none."""
    judge, heard = RandomJudge(), []
    pairing = pairing_of(name, pairs)

    class Recorded(type(pairing)):
        def compare(self, ask, groups):
            heard.append((super().compare(ask, groups), groups))
            return heard[-1][0]

    recorded = Recorded(pairs) if pairs else Recorded()
    prompts, completions = ["x", "y"] * 5, [f"text {k}" for k in range(10)]
    state = SimpleNamespace(global_step=3)
    rewards = as_reward_func(judge, pairing=recorded)(prompts, completions, trainer_state=state)
    ((compared, groups),) = heard
    for b, prompt in enumerate("xy"):
        own = completions[b::2]
        for (i, j), preference in zip(compared.pairs[b], compared.preference[b], strict=True):
            assert preference == judge([prompt], [own[i]], [own[j]])[0]
    expected = win_rates(compared, 5)
    assert np.array_equal(np.array(rewards, dtype=float).reshape(5, 2).T, expected, equal_nan=True)
    assert name != "iid" or rewards[-2:] == [None, None]  # of five, the last one has no opponent
    again = as_reward_func(judge, pairing=name, pairs_per_prompt=pairs)(prompts, completions, trainer_state=state)
    assert again == rewards  # by name, and what it draws is drawn again
    assert compared.pairs.shape[1] < 10 and groups.count == 5


@pytest.mark.parametrize("as_messages", [False, True])
def test_anchor_that_is_a_column(as_messages):
    """One answer, several, and none; a completion that is the anchor's ties with it."""
    judge = table_judge(ADDITIVE)
    reward_func = as_reward_func(judge, anchor="answer")

    def turn(text):
        return [{"role": "assistant", "content": text}] if as_messages else text

    rewards = reward_func(
        prompts=["x", "x", "y", "z", "x"],
        completions=[turn(text) for text in "01132"],
        answer=[turn("1"), turn("1"), [turn("0"), turn("3")], None, turn("1")],
    )
    assert rewards == pytest.approx([0.6, 0.5, (0.4 + 0.7) / 2, None, 0.4])
    assert reward_func.__name__ == "win_rate_judge_against_answer"


def test_anchor_that_is_a_function():
    """It is asked once for each prompt, with the columns that it names, and its verdicts may be none."""
    calls = []

    def reference(prompts, level):
        calls.append((prompts, level))
        return [[str(n), "?"] for n in level]

    def judge(prompts, first, second):
        return [math.nan if "?" in (a, b) else ADDITIVE[int(a)][int(b)] for a, b in zip(first, second, strict=True)]

    judge.symmetric = True
    rewards = as_reward_func(judge, anchor=reference)(
        prompts=["x", "y", "x", "y"], completions=list("0123"), level=[1, 2, 1, 2], other=list("abab")
    )
    assert calls == [(["x", "y"], [1, 2])] or calls == [(["x", "y", "x", "y"], [1, 2, 1, 2])]
    assert rewards == pytest.approx([0.6, 0.6, 0.4, 0.4])


def test_columns_that_json_does_not_know():
    """Rows of one prompt are equal objects, not the same ones; what is one a completion is no column."""

    def longer_on(prompts, first, second, day):
        return longer(prompts, first, second)

    days = [datetime.date(2026, 1, day) for day in (1, 2, 1, 2)]
    rewards = as_reward_func(longer_on)(["x"] * 4, ["a", "b", "cc", ""], day=days, environments=[object()] * 4)
    assert rewards == [0.0, 1.0, 1.0, 0.0]


def test_what_a_rollout_returns_with_a_completion_splits_no_group():
    """TRL passes it as a column, too: a judge that does not ask for it compares all completions of the prompt."""
    completions = ["x", "xx", "yyy", "yyyy"]
    rewards = as_reward_func(longer)(["a"] * 4, completions, env_reward=[0, 0, 1, 1], turns=[1, 2, 3, 4])
    assert rewards == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_metrics():
    """Counted by hand: in a group of three that form a cycle, and one with an abstention."""
    beats = {("a", "b"): 1.0, ("b", "c"): 1.0, ("a", "c"): 0.0, ("d", "e"): 0.8, ("d", "?"): None, ("e", "?"): 0.6}

    def judge(prompts, first, second):
        """Adds .1 to what comes first."""
        answers = []
        for pair in zip(first, second, strict=True):
            there = pair in beats
            p = beats[pair if there else pair[::-1]]
            answers.append(None if p is None else min(1.0, (p if there else 1 - p) + 0.1))
        return answers

    logged, columns = {}, {}
    as_reward_func(judge)(
        ["x"] * 3 + ["y"] * 3, list("abcde?"), log_metric=logged.__setitem__, log_extra=columns.__setitem__
    )
    assert columns == {"win_rate_judge/verdicts": [2, 2, 2, 1, 2, 1]}
    # P(first) of ab, ac, bc, de, e?: where .1 is cut off at 1, half of it is left.
    preferences = [0.95, 0.05, 0.95, 0.8, 0.6]
    assert logged == pytest.approx(
        {
            "judge/preference": sum(preferences) / 5,
            "judge/abstained": 1 / 6,
            "judge/abstained/no_opinion": 1 / 6,
            "judge/position_bias": (3 * 0.1 + 2 * 0.2) / 5,
            "judge/cached": 0.0,
            "judge/cycle_rate": 1.0,
        }
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pairing": "random"}, r"`pairing='random'` needs `pairs_per_prompt`"),
        ({"pairing": "rand"}, r"`pairing` must be one of .* got 'rand'"),
        ({"pairs_per_prompt": 3}, r"`pairs_per_prompt=3` belongs to `pairing='random'` and 'active', and it is None"),
        ({"pairing": "swiss", "anchor": "answer"}, r"with `anchor='answer'` none are: leave one of the two out"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, message):
    with pytest.raises(ValueError, match=message):
        as_reward_func("random", **arguments)


def test_anchors_that_are_none():
    with pytest.raises(ValueError, match="`anchor='answr'` is no column of the dataset, which has answer: name one"):
        as_reward_func("random", anchor="answr")(["x"], ["a"], answer=["b"])
    with pytest.raises(ValueError, match="`anchor` returned 2 values for 1 prompts: return one for each"):
        as_reward_func("random", anchor=lambda prompts: ["b", "c"])(["x"], ["a"])
    for value in ([3], 3, [{"role": "user", "content": "b"}], [{"role": "assistant", "content": None}]):
        with pytest.raises(ValueError, match=r"`anchor` has .* for a prompt: it takes a completion"):
            as_reward_func("random", anchor="answer")(["x"], ["a"], answer=[value])
    for value in (None, 3, "b"):
        with pytest.raises(ValueError, match=f"`anchor` returned {value!r} for 1 prompts: return a list"):
            as_reward_func("random", anchor=lambda prompts, value=value: value)(["x"], ["a"])


def test_an_anchor_may_have_the_prompt_before_its_answer():
    """As the columns `chosen` of many datasets: what is compared is the answer alone. Texts may come in parts."""
    seen = []

    def judge(prompts, first, second):
        seen.extend(second)
        return [0.5] * len(prompts)

    judge.symmetric = True
    prompt = [{"role": "user", "content": "x"}]
    answer = [{"role": "assistant", "content": [{"type": "text", "text": "b"}]}]
    reward = as_reward_func(judge, anchor="chosen")
    completions = [[{"role": "assistant", "content": text}] for text in "ac"]
    reward([prompt] * 2, completions, chosen=[prompt + answer, answer[0]])
    assert seen == ["b", "b"]


def test_calls_of_tools_are_part_of_an_answer():
    """Two answers that call otherwise are no tie."""

    def judge(prompts, first, second):
        return longer(prompts, list(map(str, first)), list(map(str, second)))

    calls = [{"function": {"name": "add", "arguments": {"x": number}}} for number in (1, 1000)]
    completions = [[{"role": "assistant", "content": "", "tool_calls": [call]}] for call in calls]
    assert as_reward_func(judge)(["x"] * 2, completions) == [0.0, 1.0]


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
    names = {"rewards/win_rate_judge/mean", "judge/preference"} if algorithm == "grpo" else {"objective/scores"}
    assert names <= set(log)


def test_a_dialogue_is_judged_whole():
    """What tools said is no answer of the policy's: the judge sees who said what."""
    seen = []

    def judge(prompts, first, second):
        seen.extend([*first, *second])
        return [0.5] * len(prompts)

    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    dialogue = [call, {"role": "tool", "content": "7"}, {"role": "assistant", "content": "It is 7."}]
    as_reward_func(judge)(["x", "x"], [dialogue, [{"role": "assistant", "content": "8"}]])
    assert dialogue in seen and "8" in seen


def test_a_server_that_is_away_is_asked_once_about_a_pair():
    """In all waves of a call: the second and the third text of a group are the same."""
    pytest.importorskip("openai")
    with Loopback(lambda question, number: status(500)) as server:
        options = {"mode": "text", "cache": None, "max_retries": 0, "max_failures": 100}
        reward_func = as_reward_func(f"openai:tiny@{server.url}", pairing="tournament", **options)
        assert reward_func(prompts=["x"] * 3, completions=["red", "blue", "blue"]) == [None, 0.5, 0.5]
        assert server.asked == {("red", "blue"): 1, ("blue", "red"): 1}
        reward_func(prompts=["x"] * 3, completions=["red", "blue", "blue"])  # of the next call it is another question
        assert server.asked == {("red", "blue"): 2, ("blue", "red"): 2}


def test_metrics_count_a_pair_of_texts_that_waves_repeat_once():
    """The judge refuses "b", which a knock-out meets again: of no repeated pair is the reason another one."""

    def refuses(prompts, first, second):
        return [Abstained("refused") if "b" in pair else 1.0 for pair in zip(first, second, strict=True)]

    metrics = {}
    as_reward_func(CallableJudge(refuses, symmetric=True), pairing="elimination")(
        ["x"] * 8, ["a", "b", "a", "b", "a", "b", "ccc", "dddd"], log_metric=metrics.__setitem__
    )
    assert metrics["judge/abstained"] == metrics["judge/abstained/refused"] > 0
    assert "judge/abstained/no_opinion" not in metrics
