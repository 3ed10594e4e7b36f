# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a judge sees of completions that think."""

import pytest
from helpers import CountingJudge, make_trainer, prompt_dataset
from tiny import CHAT_TEMPLATE, build_tokenizer

from trl_nash.generation.prompts import opens_thinking, strip_thinking


WORDS = "a b c d user assistant <think> </think>".split()
# As Qwen3-Thinking's and DeepSeek-R1's, whose completions hold no more than the closing tag.
OPENING_TEMPLATE = CHAT_TEMPLATE.replace(
    "<|im_start|>assistant {% endif %}", "<|im_start|>assistant <think> {% endif %}"
)


@pytest.mark.parametrize(
    "text, opened, answer",
    [
        ("a b", False, "a b"),
        (" a\n", False, "a"),
        ("<think>a</think> b", False, "b"),
        ("<think>a</think> b <think>c</think> d", False, "d"),
        ("<think>a <think>b</think> c</think> d", False, "d"),
        ("<think></think>", False, ""),
        ("<think>a b", False, ""),
        ("a <think>b", False, ""),
        ("<think>a</think> b <think>c", False, ""),
        ("a</think> b", False, "b"),
        ("a</think> b", True, "b"),
        ("a b", True, ""),
        ("", True, ""),
        ("<think>a</think> b", True, "b"),
        ("a</think> b <think>c", True, ""),
    ],
)
def test_what_is_said_behind_the_thinking(text, opened, answer):
    """Everything up to the last `</think>` is thinking; one that never ends says nothing."""
    assert strip_thinking(text, opened) == answer


@pytest.mark.parametrize(
    "prompt, opened",
    [
        ("assistant\n<think>\n", True),
        ("assistant <think>", True),
        ("assistant\n<think>\n\n</think>\n\n", False),  # thinking turned off, as Qwen3's template does it
        ("what is <think> for? assistant", False),
        ("", False),
    ],
)
def test_whether_a_prompt_opens_the_thinking(prompt, opened):
    assert opens_thinking(prompt) == opened


@pytest.mark.parametrize("special", [False, True], ids=["words", "special tokens"])
@pytest.mark.parametrize("opening", [False, True], ids=["plain", "opening template"])
def test_no_judge_sees_thinking(opening, special, tmp_path):
    """
    Of a template that opens the thinking and of one that does not, and where decoding would skip the tags, the judge
    sees answers only; the tokens that are trained on stay as they are.
    """
    tokenizer = build_tokenizer(words=WORDS)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>", "</think>"]})
    if opening:
        tokenizer.chat_template = OPENING_TEMPLATE
    start = "" if opening else "<think> "
    answers = [start + "a </think> b <eos>", start + "a c a c a"]  # the second is cut in its thinking
    judge = CountingJudge()
    trainer = make_trainer(
        "ipo",
        tmp_path,
        tokenizer=tokenizer,
        dataset=prompt_dataset([[{"role": "user", "content": word}] for word in "abcd"]),
        judge=judge,
        strip_thinking=True,
        max_steps=1,
    )
    rows = [tokenizer(answer)["input_ids"] for answer in answers]
    trainer.generate = lambda prompts, count, policy=None: (
        [tokenizer(trainer.sampler.render(prompt)[0])["input_ids"] for prompt in prompts],
        [rows for _ in prompts],
    )
    trainer.train()
    (call,) = judge.calls
    assert (call["first"], call["second"]) == (["b", "b"], ["", ""])
    for batch in trainer.batches:
        trained = [ids[labels != -100].tolist() for ids, labels in zip(batch.input_ids, batch.labels, strict=True)]
        assert trained == rows * 2


def test_without_the_option_a_judge_sees_everything(tmp_path):
    judge = CountingJudge()
    tokenizer = build_tokenizer(words=WORDS)
    trainer = make_trainer("ipo", tmp_path, tokenizer=tokenizer, dataset=prompt_dataset("abcd"), judge=judge)
    text = "<think> a </think> b"
    assert trainer.judging.decode(tokenizer(text + " <eos>")["input_ids"], tokenizer("a")["input_ids"]) == text
