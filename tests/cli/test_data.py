# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import pytest

from trl_nash.cli.data import find_prompt_column, load_prompts, read_prompt
from trl_nash.compat import DatasetMixtureConfig


USER = {"role": "user", "content": "a b"}
ASSISTANT = {"role": "assistant", "content": "c"}


@dataclass
class Options:
    dataset_name: str | None = None
    dataset_config: str | None = None
    dataset_train_split: str = "train"
    dataset_test_split: str = "test"
    dataset_streaming: bool = False
    prompt_column: str | None = None
    raw_prompts: bool = False


def load(tokenizer, name=None, *, evaluate=False, mixture=None, **options):
    mixture = mixture or DatasetMixtureConfig()
    return load_prompts(Options(name, **options), mixture, tokenizer, evaluate=evaluate, seed=0)


@pytest.mark.parametrize(
    ("row", "column", "prompt"),
    [
        ({"prompt": "a", "messages": [USER]}, "prompt", "a"),
        ({"context_messages": [USER], "messages": [ASSISTANT]}, "context_messages", [USER]),
        ({"messages": [USER, ASSISTANT, ASSISTANT]}, "messages", [USER]),
        ({"messages": [USER, ASSISTANT, USER]}, "messages", [USER, ASSISTANT, USER]),
        ({"chosen": [USER, ASSISTANT], "rejected": [USER, {**ASSISTANT, "content": "d"}]}, "chosen", [USER]),
        ({"chosen": "why a yes", "rejected": "why a no"}, "chosen", "why a"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: I do", "rejected": "\n\nHuman: a\n\nAssistant: I am"},
            "chosen",
            "\n\nHuman: a\n\nAssistant:",
        ),
        ({"instruction": "a", "input": "b", "output": "c"}, "instruction", "a\n\nb"),
        ({"instruction": "a", "input": "", "output": "c"}, "instruction", "a"),
        ({"question": "a", "answer": "b"}, "question", "a"),
        ({"prompt": [USER, ASSISTANT]}, "prompt", [USER, ASSISTANT]),  # a beginning to be continued
    ],
)
def test_prompts_as_people_have_them(row, column, prompt):
    assert find_prompt_column(row, None, "data") == column
    assert read_prompt(row, column, as_turn=False) == prompt
    if isinstance(prompt, str):
        assert read_prompt(row, column, as_turn=True) == [{"role": "user", "content": prompt}]


def test_the_named_column_is_taken():
    assert find_prompt_column({"prompt": "a", "query": "b"}, "query", "data") == "query"


@pytest.mark.parametrize(
    ("row", "wanted", "complaint"),
    [
        (
            {"text": "a", "chosen": "b"},
            None,
            "data has no prompt column among .* it has 'text', 'chosen'. Name the one",
        ),
        ({"query": "a"}, "qery", "data has no such column: did you mean query?"),
        ({"query": "a"}, "xyz", "data has no such column: it has 'query'."),
    ],
)
def test_no_prompt_column(row, wanted, complaint):
    with pytest.raises(ValueError, match=complaint):
        find_prompt_column(row, wanted, "data")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ([], "it is empty"),
        ([ASSISTANT], "it is empty"),
        ([{"role": "user", "content": ""}], "it is empty"),
        (None, "neither text nor a list of messages but None"),
        ([{"from": "human", "value": "a"}], 'its messages need a "role" and a "content"'),
    ],
)
def test_prompts_that_cannot_be_used(value, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_prompt({"messages": value}, "messages", as_turn=True)


def test_jsonl_becomes_conversations_and_keeps_its_columns(tokenizer, prompts_file):
    prompts = load(tokenizer, prompts_file)
    assert (prompts.name, prompts.column, len(prompts.train), prompts.evaluation) == (prompts_file, "prompt", 16, None)
    assert prompts.first == prompts.train[0]["prompt"] == [{"role": "user", "content": "a a"}]
    assert prompts.train[5]["source"] == "b"


def test_strings_stay_strings_when_asked_or_without_a_chat_template(tokenizer, prompts_file):
    assert load(tokenizer, prompts_file, raw_prompts=True).first == "a a"
    tokenizer.chat_template = None
    assert load(tokenizer, prompts_file).first == "a a"


def test_conversations_need_a_chat_template(tokenizer, write_rows):
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="tokenizer has no chat template"):
        load(tokenizer, write_rows([{"messages": [USER]}]))


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_other_files(tokenizer, tmp_path, suffix):
    from datasets import Dataset

    path = str(tmp_path / f"prompts.{suffix}")
    getattr(Dataset.from_list([{"question": "a", "answer": "b"}] * 3), f"to_{suffix}")(path)
    prompts = load(tokenizer, path)
    assert (prompts.column, len(prompts.train), prompts.train[2]["answer"]) == ("question", 3, "b")


def test_datasets_saved_to_disk(tokenizer, tmp_path):
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"prompt": "a"}] * 3)
    rows.save_to_disk(tmp_path / "plain")
    assert len(load(tokenizer, str(tmp_path / "plain")).train) == 3
    DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "splits")
    assert len(load(tokenizer, str(tmp_path / "splits"), evaluate=True).evaluation) == 1


def test_a_mixture_of_files(tokenizer, write_rows):
    files = [write_rows([{"prompt": word}] * 4, f"{word}.jsonl") for word in "ab"]
    mixture = DatasetMixtureConfig(datasets=[{"path": file} for file in files], test_split_size=0.25)
    prompts = load(tokenizer, "ignored", mixture=mixture, evaluate=True)
    assert prompts.name == " + ".join(files)
    assert (len(prompts.train), len(prompts.evaluation)) == (6, 2)


def test_the_same_rows_are_split_off_in_every_process(tokenizer, prompts_file):
    halves = [
        load(tokenizer, prompts_file, evaluate=True, mixture=DatasetMixtureConfig(test_split_size=0.25))
        for _ in range(2)
    ]
    assert len(halves[0].evaluation) == 4
    assert halves[0].evaluation["prompt"][:] == halves[1].evaluation["prompt"][:]


def test_streaming(tokenizer, prompts_file):
    prompts = load(tokenizer, prompts_file, dataset_streaming=True)
    assert prompts.first == [{"role": "user", "content": "a a"}]
    assert sum(1 for _ in prompts.train) == 16
    with pytest.raises(ValueError, match="cannot divide .* while it is streamed"):
        mixture = DatasetMixtureConfig(test_split_size=0.5)
        load(tokenizer, prompts_file, dataset_streaming=True, evaluate=True, mixture=mixture)


def test_a_missing_split_names_those_that_there_are(tokenizer, prompts_file):
    with pytest.raises(ValueError, match="has no split 'test', it has 'train': choose with --dataset_test_split"):
        load(tokenizer, prompts_file, evaluate=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "there is no such file"),
        ("", "the file is empty"),
        ('{"prompt": "a"}\n{"prompt": ""}\n', "the prompt of row 1 .column 'prompt'. cannot be used: it is empty"),
        ('{"prompt": "a"}\n{"prompt": \n', "cannot be read as jsonl"),
    ],
)
def test_files_that_cannot_be_used(tokenizer, tmp_path, text, complaint):
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        load(tokenizer, str(path))


def test_no_rows(tokenizer, tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("prompt\n")
    with pytest.raises(ValueError, match="rows.csv cannot be read as csv: .*no data"):
        load(tokenizer, str(path))
