# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Messages whose contents come in parts of text read as if they were one text, for everybody."""

import pandas as pd
import pytest
import torch
from datasets import IterableDataset
from helpers import make_trainer, prompt_dataset
from tiny import build_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from trl_nash import RewardJudge
from trl_nash.judges import PairwiseJudge
from trl_nash.judges.questions.template import QuestionTemplate


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


IN_PARTS = [{"role": "system", "content": parts("a")}, {"role": "user", "content": parts("b ", "c", " d")}]
WHOLE = [{"role": "system", "content": "a"}, {"role": "user", "content": "b c d"}]
IMAGE = [{"role": "user", "content": [*parts("a"), {"type": "image", "url": "x.png"}]}]


class Recorded(PairwiseJudge):
    symmetric = True

    def __init__(self):
        self.prompts = []

    def judge(self, prompts, first, second):
        self.prompts += prompts
        return [0.7] * len(prompts)


def test_policy_judge_and_log_read_one_text(tmp_path):
    """Tokens, what the judge is asked and what the table shows are those of the joined text."""
    runs = {}
    for name, prompt in {"whole": WHOLE, "parts": IN_PARTS}.items():
        judge = Recorded()
        trainer = make_trainer(
            "ipo",
            tmp_path / name,
            tokenizer=build_tokenizer(),
            dataset=prompt_dataset([prompt] * 2),
            judge=judge,
            extra={"eval_dataset": prompt_dataset([prompt])},
            max_length=24,
            max_steps=1,
            log_completions=True,
        )
        trainer.train()
        table = pd.read_parquet(tmp_path / name / "completions" / "completions_00001.parquet")
        loss = trainer.evaluate()["eval_loss"]
        runs[name] = trainer.batches[0].input_ids, judge.prompts, table["prompt"].tolist(), loss
    assert torch.equal(runs["whole"][0], runs["parts"][0])
    assert runs["parts"][1] and all(prompt == WHOLE for prompt in runs["parts"][1])
    assert runs["whole"][2:] == runs["parts"][2:] and runs["parts"][2] == ["b c d"] * 2


@pytest.mark.parametrize("kind", ["function", "model"])
def test_rewards_read_one_text(kind):
    """A reward function gets joined messages, and a reward model scores what it scores of them."""
    seen, tokenizer = [], build_tokenizer()
    if kind == "function":

        def reward(prompts, completions):
            seen.extend(prompts)
            return [float(len(messages[0]["content"])) for messages in completions]

        judge = RewardJudge(reward)
    else:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=1
        )
        judge = RewardJudge(LlamaForSequenceClassification(config), reward_processing_classes=tokenizer)
    for ask in (
        lambda prompt: judge([prompt], ["a"], ["b c"]),
        lambda prompt: judge.compare([prompt], [["a", "b c"]], [(0, 1)]).tolist(),
    ):
        assert ask(IN_PARTS) == ask(WHOLE)
    assert all(prompt == WHOLE for prompt in seen)


def test_question_to_a_server():
    template = QuestionTemplate("pair")
    assert template.render(IN_PARTS, "x", "y", "text") == template.render(WHOLE, "x", "y", "text")


@pytest.mark.parametrize(
    "prompt, reason",
    [
        (IMAGE, "a message has a part of type 'image' that is no text"),
        ([{"role": "user", "content": [{"type": "text", "text": None}]}], "a message has a part of type 'text' that"),
        ([{"role": "user", "content": parts("", " ")}], "it is empty"),
        ([{"role": "user", "content": []}], "it is empty"),
    ],
)
def test_other_parts_are_refused_by_row(prompt, reason, tmp_path):
    """When the trainer is built, with the row's number and its beginning; of a stream when the row comes."""
    rows = [IN_PARTS, prompt]
    with pytest.raises(ValueError, match=rf"The prompt in row 1 of `train_dataset` is \[\{{'.*{reason}"):
        make_trainer("ipo", tmp_path, tokenizer=build_tokenizer(), dataset=prompt_dataset(rows))
    with pytest.raises(ValueError, match="The prompt in row 1 of `eval_dataset`"):
        make_trainer(
            "ipo", tmp_path, tokenizer=build_tokenizer(), extra={"eval_dataset": prompt_dataset(rows)}, max_length=24
        )
    stream = IterableDataset.from_generator(lambda: ({"prompt": row} for row in rows))
    trainer = make_trainer("ipo", tmp_path, tokenizer=build_tokenizer(), dataset=stream, max_steps=1, max_length=24)
    with pytest.raises(ValueError, match=reason):
        trainer.train()


def test_a_judge_on_its_own_refuses_other_parts():
    with pytest.raises(ValueError, match="a part of type 'image' that is no text"):
        Recorded()([IMAGE], ["x"], ["y"])
