# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

from dataclasses import dataclass

import pytest
from accelerate import PartialState

from trl_nash.cli.training.data import load_prompts
from trl_nash.compat import DatasetMixtureConfig
from trl_nash.generation.prompts import PromptRenderer


USER = {"role": "user", "content": "a b"}


@dataclass
class Options:
    dataset_name: str | None = None
    dataset_config: str | None = None
    dataset_train_split: str = "train"
    dataset_test_split: str = "test"
    dataset_streaming: bool = False
    prompt_column: str | None = None


@pytest.fixture(autouse=True)
def process():
    """What arguments of training make before data are loaded: which process this is."""
    PartialState()


def load(tokenizer, name=None, *, evaluate=False, mixture=None, raw_prompts=False, **options):
    mixture = mixture or DatasetMixtureConfig()
    render = PromptRenderer(tokenizer, 64, raw_prompts=raw_prompts)
    return load_prompts(Options(name, **options), mixture, render, evaluate=evaluate, seed=0)


def test_columns_that_are_joined_are_all_named(tokenizer, write_rows):
    file = write_rows([{"system": "", "instruction": "a", "input": "b", "output": "c"}])
    assert load(tokenizer, file).column == "'instruction' with 'input' and 'system'"


def test_jsonl_becomes_conversations_and_keeps_its_columns(tokenizer, prompts_file):
    prompts = load(tokenizer, prompts_file)
    assert (prompts.name, prompts.column, len(prompts.train), prompts.evaluation) == (
        prompts_file,
        "'prompt'",
        16,
        None,
    )
    assert prompts.first["prompt"] == prompts.train[0]["prompt"] == [{"role": "user", "content": "a a"}]
    assert prompts.train[5]["source"] == "b"


def test_strings_stay_strings_when_asked_or_without_a_chat_template(tokenizer, prompts_file):
    assert load(tokenizer, prompts_file, raw_prompts=True).first["prompt"] == "a a"
    tokenizer.chat_template = None
    assert load(tokenizer, prompts_file).first["prompt"] == "a a"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_other_files(tokenizer, tmp_path, suffix):
    from datasets import Dataset

    path = str(tmp_path / f"prompts.{suffix}")
    getattr(Dataset.from_list([{"question": "a", "answer": "b"}] * 3), f"to_{suffix}")(path)
    prompts = load(tokenizer, path)
    assert (prompts.column, len(prompts.train), prompts.train[2]["answer"]) == ("'question'", 3, "b")


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
    assert prompts.first["prompt"] == [{"role": "user", "content": "a a"}]
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


# ---- Several data sets, each of its own shape ----


def test_datasets_of_several_shapes(tokenizer, write_rows, tmp_path, capsys):
    """A file, what `save_to_disk` wrote, and text dialogues: each resolved by itself, with their other columns."""
    from datasets import Dataset

    write_rows([{"question": "a", "answer": 1}] * 2, "a.jsonl")
    write_rows([{"chosen": "\n\nHuman: b\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"}] * 2, "b.json")
    share = [{"from": "human", "value": "c"}, {"from": "gpt", "value": "x"}]
    Dataset.from_list([{"conversations": share, "answer": "one", "tools": "[]"}] * 2).save_to_disk(tmp_path / "c.d")
    called = [{"role": "user", "content": "d", "name": "me"}]
    write_rows([{"messages": called, "answer": 2.5}] * 4, "d.jsonl")
    paths = [str(tmp_path / name) for name in ("a.jsonl", "b.json", "c.d", "d.jsonl")]
    mixture = DatasetMixtureConfig(datasets=[{"path": path} for path in paths])
    mixture.datasets[3].split = "train[:50%]"
    prompts = load(tokenizer, mixture=mixture)
    turns = [[turn["content"] for turn in prompt] for prompt in prompts.train["prompt"]]
    assert turns == [["a"]] * 2 + [["b"]] * 2 + [["c"]] * 2 + [["d"]] * 2
    assert prompts.column == "'question' + 'chosen' with 'rejected' + 'conversations' + 'messages'"
    assert "answer" not in prompts.train.column_names and prompts.train["question"][:3] == ["a", "a", None]
    assert "Note: 'answer' of " in capsys.readouterr().out
    mixture.datasets = mixture.datasets[:2]
    assert load(tokenizer, mixture=mixture).train["answer"][:] == [1, 1, None, None]


def test_fractions_of_a_mixture(tokenizer, write_rows):
    """A third and two thirds of the largest mixture that repeats nothing: 2 of 4 rows, and all 4."""
    files = [write_rows([{"prompt": word}] * 4, f"{word}.jsonl") for word in "ab"]
    mixture = DatasetMixtureConfig(datasets=[{"path": f, "fraction": x} for f, x in zip(files, (1, 2), strict=True)])
    assert [turns[0]["content"] for turns in load(tokenizer, mixture=mixture).train["prompt"]] == list("aabbbb")
    mixture.datasets[0].fraction = None
    with pytest.raises(ValueError, match="set `fraction` of all datasets"):
        load(tokenizer, mixture=mixture)


def test_markup_in_a_file_stays_text(tokenizer, write_rows):
    text = "<|im_start|>user a <eos> <|im_start|>assistant "
    prompts = load(tokenizer, write_rows([{"prompt": text}, {"prompt": "b"}]))
    assert prompts.train["prompt"][:] == [text, "b"]
    tokenizer.chat_template = None
    assert load(tokenizer, write_rows([{"prompt": text}], "other.jsonl")).train["prompt"][:] == [text]


def test_rows_of_another_shape_are_named(tokenizer, write_rows):
    rows = [{"messages": [USER]}, {"messages": [{"role": "user", "content": None}]}]
    with pytest.raises(ValueError, match=r"row 1 \(column 'messages'\) cannot be used: the content of its message 0"):
        load(tokenizer, write_rows(rows))
