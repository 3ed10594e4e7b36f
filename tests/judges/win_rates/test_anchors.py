# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Policies that completions are compared with in `as_reward_func`, and functions that run side by side."""

import asyncio
import threading
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from loopback import Loopback, reply, says
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import is_async_callable
from waiting import PATIENCE

from trl_nash.judges import PairwiseJudge
from trl_nash.judges.win_rates.reward_func import as_reward_func


PROMPTS = ["a b", "c d", "a b", "e f", "c d", "a b"]
COMPLETIONS = ["x", "y", "z", "w", "v", "u"]
SHORT = {"max_new_tokens": 4}


class Seen(PairwiseJudge):
    """Everything is a tie; keeps who was compared with whom."""

    symmetric = True

    def __init__(self):
        self.pairs = []

    def judge(self, prompts, first, second):
        self.pairs += zip(prompts, first, second, strict=True)
        return [0.5] * len(prompts)


def seen(anchor, step: int = 0, **kwargs) -> dict[str, str]:
    """What the anchor says to each prompt: the same to all completions of it."""
    judge = Seen()
    reward = as_reward_func(judge, anchor=anchor, anchor_kwargs=SHORT | kwargs)
    assert reward(PROMPTS, COMPLETIONS, trainer_state=SimpleNamespace(global_step=step)) == [0.5] * 6
    answers = {}
    for prompt, completion, answer in judge.pairs:
        assert completion in COMPLETIONS and answers.setdefault(prompt, answer) == answer
    return answers


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """The folder of a model and its tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("policy") / "start", build_tokenizer(chat=False)
    build_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_answers_as_its_own_generate_does(policy):
    """The likeliest tokens, by transformers, of each prompt by itself."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(policy), build_tokenizer(chat=False)
    expected = {}
    for prompt in set(PROMPTS):
        ids = tokenizer(prompt, return_tensors="pt")
        tokens = model.generate(
            **ids, do_sample=False, max_new_tokens=4, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
        )
        expected[prompt] = tokenizer.decode(tokens[0, ids.input_ids.size(1) :], skip_special_tokens=True)
    assert len(set(expected.values())) > 1
    assert seen(f"model:{policy}", temperature=0) == seen(model, temperature=0) == expected


def test_a_model_is_asked_anew_when_a_prompt_comes_again(policy):
    """And the same in a run that is resumed at that step. What others draw does not change."""
    state = torch.get_rng_state()
    first, again, later = (seen(f"model:{policy}", step) for step in (3, 3, 4))
    assert first == again and first != later and len(first) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_server_is_asked_once_a_prompt_and_side_by_side():
    pytest.importorskip("openai")
    together = threading.Barrier(3, timeout=PATIENCE)

    def script(question, number):
        def behave(handler):
            together.wait()  # of three prompts: none is answered before all are asked
            says(f"said to {handler.body['messages'][-1]['content']}")(handler)

        return behave

    with Loopback(script) as server:
        for step in (0, 1):
            assert seen(f"openai:org/tiny@{server.url}", step, temperature=0.5) == {
                prompt: f"said to {prompt}" for prompt in PROMPTS
            }
        bodies = [asked.body for asked in server.log]
    assert len(bodies) == 6 and len({body["seed"] for body in bodies}) == 6
    assert {(body["model"], body["max_tokens"], body["temperature"]) for body in bodies} == {("org/tiny", 4, 0.5)}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"anchor_kwargs": SHORT}, "say how a policy is sampled, and `anchor=None` is none: leave them out"),
        ({"anchor": "answer", "anchor_kwargs": SHORT}, "and `anchor='answer'` is none"),
        ({"anchor": "model:x", "anchor_kwargs": {"max_tokens": 3}}, "unexpected keyword argument 'max_tokens'"),
        ({"anchor": "model:x", "anchor_kwargs": {"top_p": 3}}, "`anchor_kwargs` say .*: top_p must be from"),
        (
            {"anchor": "model:x", "anchor_kwargs": {"user": "a:b"}},
            "an anchor answers once: leave `user` and `max_turns`",
        ),
        ({"anchor": build_model(build_tokenizer())}, "knows no tokenizer: load it with `from_pretrained`"),
        ({"anchor": "model:answers.jsonl"}, "`anchor='model:answers.jsonl'` is a file and no policy"),
        ({"anchor": "openai:m@http://user:secret@host/v1"}, "`base_url` of the policy must look like"),
        ({"anchor": "openai:m@localhost:8000/v1"}, "policy has an address without http:// or https:// behind its"),
        ({"anchor": "openai:http://localhost:8000/v1"}, "The policy needs the name of a model"),
        ({"anchor": "model:/no/such"}, "^'/no/such' cannot be loaded as a causal language model: check"),
        ({"anchor": "m@http://localhost/v1"}, "`anchor='m@http://localhost/v1'` is no column: write 'openai:m@http"),
        ({"anchor": "./tests"}, "`anchor='./tests'` is no column: write 'model:./tests'"),
        ({"anchor": "completion"}, "no trainer passes the column 'completion' on to a reward function: rename it"),
    ],
)
def test_anchors_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        as_reward_func("random", **arguments)
    with pytest.raises(TypeError, match="`anchor` is a column, a function, a model, .* got 3"):
        as_reward_func("random", anchor=3)


def test_an_adapter_without_its_model_is_said_at_once(tmp_path):
    """Before the policy is loaded and sampled, as of any model that is not there."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "/no/base", "peft_type": "LORA"}')
    with pytest.raises(ValueError, match="'/no/base' cannot be loaded as a causal"):
        as_reward_func("random", anchor=f"model:{tmp_path}")


def test_a_server_that_has_no_answer_is_no_opponent():
    """It calls a tool that nobody offered: the group has nobody to be compared with."""
    pytest.importorskip("openai")
    calls = reply({"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})
    with Loopback(lambda question, number: calls) as server:
        reward_func = as_reward_func("random", anchor=f"openai:tiny@{server.url}", anchor_kwargs=SHORT)
        assert reward_func(prompts=["a", "a"], completions=["b", "c"]) == [None, None]


# ---- Side by side ----


class Meeting(PairwiseJudge):
    """A judge that waits: none answers before as many as the barrier is for are asked."""

    symmetric = waits = True

    def __init__(self, name: str, barrier: threading.Barrier):
        self._name, self.barrier, self.met = name, barrier, 0

    @property
    def name(self) -> str:
        return self._name

    def judge(self, prompts, first, second):
        self.barrier.wait()
        self.met += 1
        return [float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


def test_grpo_runs_judges_that_wait_side_by_side(policy, tmp_path):
    """One after the other they would wait for ever. A third function is an ordinary one."""
    tokenizer, barrier = build_tokenizer(chat=False), threading.Barrier(2, timeout=PATIENCE)
    judges = [Meeting(name, barrier) for name in ("one", "two")]
    functions = [as_reward_func(judges[0], asynchronous=True)]
    functions.append(as_reward_func(judges[1], anchor="answer", asynchronous=True))
    functions.append(as_reward_func(Seen(), anchor=f"model:{policy}", anchor_kwargs=SHORT))
    assert list(map(is_async_callable, functions)) == [True, True, False]
    trainer = GRPOTrainer(
        model=build_model(tokenizer),
        reward_funcs=functions,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            max_steps=2,
            logging_steps=1,
            save_strategy="no",
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=5,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["a b", "c d"], "answer": ["a", "b b b b b b b"]}),
        processing_class=tokenizer,
    )
    trainer.train()
    assert [judge.met for judge in judges] == [2, 2]
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert {f"rewards/win_rate_{name}/mean" for name in ("one", "two_against_answer", "Seen_against_start")} <= logged
    assert set(trainer._logs["extra"]) == {f"{function.__name__}/verdicts" for function in functions}


def test_it_is_an_ordinary_function_unless_asked_to_be_another():
    barrier = threading.Barrier(1)
    plain = as_reward_func(Meeting("x", barrier))
    assert plain(["x"] * 2, ["a", "bb"]) == [0.0, 1.0] and not is_async_callable(plain)
    waiting = as_reward_func(Meeting("x", barrier), asynchronous=True)
    assert asyncio.run(waiting(["x"] * 2, ["a", "bb"])) == [0.0, 1.0]
