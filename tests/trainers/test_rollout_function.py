# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""TRL's `rollout_func`: one function in GRPOTrainer and here, its masks, and all that it can return wrongly."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers import history, make_trainer, prompt_dataset
from test_dialogues import favours_talk, talker
from tiny import build_tokenizer

from trl_nash.algorithms import INITIAL
from trl_nash.generation.dialogue.function import RolloutFunction
from trl_nash.generation.prompts import PromptRenderer


HEARD = "<|im_start|> user no <eos> <|im_start|> assistant"
PROMPTS = [[{"role": "user", "content": text}] for text in ("a", "b c", "d", "e")]


def two_turns(prompts, trainer):
    """Two turns of the policy, between which the user says "no": as one writes it for GRPOTrainer."""
    tokenizer, limit = trainer.processing_class, trainer.max_completion_length
    assert trainer.num_generations == 2 and trainer.args.max_completion_length == limit
    encode = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    found = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": []}
    model = trainer.accelerator.unwrap_model(trainer.model)
    for prompt in prompts:
        ids = encode(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        completion, mask = [], []
        for turn in range(2):
            if turn:
                heard = encode(HEARD)
                completion, mask = completion + heard, mask + [0] * len(heard)
            context = torch.tensor([ids + completion])
            out = model.generate(
                context, attention_mask=torch.ones_like(context), do_sample=True, max_new_tokens=limit // 2 - 4
            )[0, context.size(1) :].tolist()
            completion, mask = completion + out, mask + [1] * len(out)
        found["prompt_ids"].append(ids)
        found["completion_ids"].append(completion)
        found["logprobs"].append([0.0] * len(completion))
        found["env_mask"].append(mask)
    return found


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """ONPO with the function."""
    trainer = make_trainer(
        "onpo-one",
        tmp_path_factory.mktemp("run"),
        tokenizer=build_tokenizer(),
        model=talker(),
        judge=favours_talk,
        dataset=prompt_dataset(PROMPTS),
        extra={"rollout_func": two_turns, "eval_dataset": prompt_dataset(PROMPTS[:2])},
        max_new_tokens=16,
        max_length=100,
        max_steps=2,
    )
    trainer.train()
    return trainer


def test_a_function_for_grpo_runs_unchanged(trainer, tmp_path):
    """The same function trains GRPOTrainer for a step, and ONPO, with evaluation, for two."""
    from trl import GRPOConfig, GRPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grpo = GRPOTrainer(
            model=talker(),
            args=GRPOConfig(
                str(tmp_path), use_cpu=True, bf16=False, report_to="none", max_steps=1, num_generations=2,
                per_device_train_batch_size=2, max_completion_length=16, disable_tqdm=True, save_strategy="no",
                gradient_checkpointing=False,
            ),
            processing_class=build_tokenizer(),
            train_dataset=prompt_dataset(PROMPTS),
            reward_funcs=lambda completions, **_: [float(len(c)) for c in completions],
            rollout_func=two_turns,
        )  # fmt: skip
        grpo.train()
    assert history(trainer, "rollouts/turns") == [2.0, 2.0]
    assert history(trainer, "rollouts/other_tokens") == [len(HEARD.split())] * 2
    assert "eval_policy/win_rate_reference" in trainer.evaluate()


def test_what_is_trained_on_is_what_was_returned(trainer):
    """Token ids, mask and messages of the function's dialogues; the scorer sees its own tokens only."""
    trainer.policies.ensure_initial()
    rows = [trainer.train_dataset[k] for k in range(2)]
    (judged,) = trainer.collector.collect(rows)
    (batch,) = trainer.collector.micro_batches(judged)
    assert (batch.labels != -100).sum() == sum(sum(mask) for own in judged.samples.masks for mask in own)
    for own in judged.samples.turns:
        for turns in own:
            assert [m["role"] for m in turns] == ["assistant", "user", "assistant"] and turns[1]["content"] == "no"


def test_the_function_plays_the_policy_that_is_asked_for(trainer):
    """Within a call for the start of the run `trainer.model` has its weights, and has its own again afterwards."""
    seen, play = [], trainer.sampler.source._function
    trainer.sampler.source._function = lambda prompts: (
        seen.append(next(trainer.model.parameters()).detach().clone()) or play(prompts)
    )
    try:
        for policy in (None, INITIAL):
            trainer.generate([trainer.sampler.prompt_of(trainer.train_dataset[0])], 2, policy)
    finally:
        trainer.sampler.source._function = play
    live = next(trainer.model.parameters())
    assert torch.equal(seen[0], live) and not torch.equal(seen[1], live)
    assert torch.equal(seen[1], next(talker().parameters()))


# ---- What it can return wrongly ----


GOOD = {"prompt_ids": [[5], [5]], "completion_ids": [[6, 1], [7, 1]]}


def play(output, said=None, count=2, **options):
    tokenizer = build_tokenizer()
    args = SimpleNamespace(**{"max_length": 12, "strip_thinking": False} | options)
    say = (lambda message, name: None) if said is None else (lambda message, name: said.setdefault(name, message))

    def function(prompts):
        if isinstance(output, Exception):
            raise output
        return output

    source = RolloutFunction(function, args, PromptRenderer(tokenizer, 8), [tokenizer.eos_token_id], say_once=say)
    from contextlib import nullcontext

    return source.play(["a"], count, None, nullcontext)


@pytest.mark.parametrize(
    "output, sentence",
    [
        (None, "returns a dict with `prompt_ids` and `completion_ids`, and what it returned is None"),
        ({"prompt_ids": [[5]] * 2}, "lacks 'completion_ids'"),
        (GOOD | {"completion_ids": [[6, 1]]}, "returned 1 `completion_ids` for 2 prompts: one for each"),
        (GOOD | {"env_mask": [[1, 1]]}, "returned 1 `env_mask` for 2 prompts"),
        (GOOD | {"env_mask": [[1, 1], [1]]}, "returned 1 values of `env_mask` for the 2 tokens of completion 1"),
        (GOOD | {"logprobs": [[0.0] * 3, [0.0] * 2]}, "returned 3 values of `logprobs` for the 2 tokens"),
        (GOOD | {"env_mask": [[1, 1], [0, 0]]}, "`env_mask` of completion 1 is 0 everywhere"),
        (GOOD | {"completion_ids": [[6, 1], []]}, "returned no token for the prompt or the completion of row 1"),
    ],
)
def test_what_does_not_fit_is_refused(output, sentence):
    with pytest.raises(ValueError, match=sentence):
        play(output)


def test_too_long_rollouts_are_cut_where_a_turn_ends():
    """Of 15 tokens 11 fit: the first turn does, and what was heard behind it is left out, with the second turn."""
    said = {}
    ids, mask = [6, 1] + [4, 13, 17, 1, 4, 14] + [7, 8, 9, 7, 8, 9, 1], [1] * 2 + [0] * 6 + [1] * 7
    samples = play(
        {"prompt_ids": [[5]] * 2, "completion_ids": [ids, ids[:8] + [7, 1]], "env_mask": [mask, mask[:10]]}, said
    )
    assert samples.completion_ids == [[[6, 1], ids[:8] + [7, 1]]]
    assert (
        samples.endings == [["max_length", "over"]]
        and "cut where a turn of the policy ends" in said["rollout max_length"]
    )
    assert [[m["role"] for m in turns] for turns in samples.turns[0]] == [
        ["assistant"],
        ["assistant", "user", "assistant"],
    ]
    samples = play({"prompt_ids": [[5]] * 2, "completion_ids": [[7] * 30, [6, 1]]}, said)
    assert samples.endings == [["too long", "over"]] and samples.masks[0][0] == [0]
    assert "no turn that ends within max_length = 12" in said["rollout too long"]
    # Of a prompt that is too long no more is kept than fits: the row is in a batch, though it is not judged.
    samples = play(GOOD | {"prompt_ids": [[5] * 99, [5]]})
    assert samples.endings == [["too long", "over"]]
    assert [len(samples.prompt_ids[0] + ids) for ids in samples.completion_ids[0]] == [12, 3]


def test_the_rest():
    """Trailing context is dropped, unknown keys are named, a line that is down fails rollouts, `logprobs` are kept."""
    said = {}
    samples = play(
        GOOD | {"completion_ids": [[6, 1, 4], [7, 8]], "env_mask": [[1, 1, 0], [1, 1]], "reward": [1, 2]}, said
    )
    assert samples.completion_ids == [[[6, 1], [7, 8]]] and samples.endings == [["over", "unfinished"]]
    assert "reward is not used" in said["rollout_func others"] and samples.logps is None
    assert play(GOOD | {"logprobs": [[-1.0, -2.0], [None, -3.0]]}).logps[0][0] == [-1.0, -2.0]
    failed = play(ConnectionError("down"), said)
    assert failed.endings == [["rollout_func"] * 2] and "down" in said["rollout rollout_func"]
