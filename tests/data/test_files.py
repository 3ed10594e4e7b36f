# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Files as people have them: the same rows for training, for a stream, and for `trl-nash judge`."""

import gzip
import importlib.util
import json

import pytest
from datasets import Dataset

from trl_nash.data.files import first_row, load_splits, read_rows, take_split


BOM = b"\xef\xbb\xbf"
LINES = b'{"prompt": "one"}\n{"prompt": "two"}\n'
ROWS = [{"prompt": "one"}, {"prompt": "two"}]
FILES = {
    "prompts.jsonl": LINES,
    "PROMPTS.JSONL": LINES,
    "prompts [v1].jsonl": LINES,
    "what? * [a-z].jsonl": LINES,
    "with.dots.v2.json": json.dumps(ROWS).encode(),
    "lines.json": LINES,
    "inside.json": json.dumps({"version": 2, "data": ROWS}, indent=1).encode(),
    "marked.jsonl": BOM + LINES,
    "marked.json": BOM + json.dumps(ROWS).encode(),
    "marked inside.json": BOM + json.dumps({"data": ROWS}).encode(),
    "marked.csv": BOM + b"prompt\none\ntwo\n",
    "prompts.jsonl.gz": gzip.compress(LINES, mtime=0),
    "prompts.Json.GZ": gzip.compress(json.dumps({"data": ROWS}).encode()),
    "prompts.tsv": b"prompt\none\ntwo\n",
    "prompts.tsv.gz": gzip.compress(b"prompt\none\ntwo\n", mtime=0),
    "prompts.txt": b"one\n\n  \ntwo\n",
    "windows.txt": BOM + b"one\r\ntwo\r\n",
    "prompts.txt.gz": gzip.compress(b"one\ntwo", mtime=0),
}


@pytest.fixture(autouse=True)
def datasets_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: bytes = LINES) -> str:
        (tmp_path / name).write_bytes(content)
        return name

    return write


@pytest.mark.parametrize("name", FILES)
def test_all_readers_see_the_same_rows(name, write):
    write(name, FILES[name])
    assert list(load_splits(name)["train"]) == ROWS
    assert list(load_splits(name, streaming=True)["train"]) == ROWS
    assert read_rows(name) == ROWS
    assert first_row(name) == ROWS[0]


def test_a_changed_file_is_read_anew(write):
    write("a.jsonl")
    assert len(load_splits("a.jsonl")["train"]) == 2
    write("a.jsonl", LINES * 2)
    assert len(load_splits("a.jsonl")["train"]) == 4


def test_cells_of_tables(write):
    """Tabs separate, commas do not, and a cell may hold a line's end."""
    write("a.tsv", b'prompt\tlevel\n"one, two\nthree"\t4\n')
    assert list(load_splits("a.tsv")["train"]) == [{"prompt": "one, two\nthree", "level": 4}]
    assert read_rows("a.tsv") == [{"prompt": "one, two\nthree", "level": "4"}]
    assert first_row("a.tsv") == {"prompt": "one, two\nthree", "level": "4"}


def test_the_first_row_of_a_large_file_is_all_that_is_read(write, tmp_path):
    write("a.jsonl", LINES + b"what cannot be read")
    assert first_row("a.jsonl") == ROWS[0]
    Dataset.from_list(ROWS).to_parquet(tmp_path / "a.parquet")
    assert first_row("a.parquet") == ROWS[0]


def test_zstandard(write, monkeypatch):
    if importlib.util.find_spec("zstandard"):
        import zstandard

        write("a.jsonl.zst", zstandard.ZstdCompressor().compress(LINES))
        assert list(load_splits("a.jsonl.zst")["train"]) == read_rows("a.jsonl.zst") == ROWS
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    write("b.jsonl.zst", b"\x28\xb5\x2f\xfd")
    for read in (load_splits, read_rows):
        with pytest.raises(ImportError, match="b.jsonl.zst is compressed by Zstandard: pip install zstandard"):
            read("b.jsonl.zst")


def test_folders(write, tmp_path):
    """What `save_to_disk` wrote, with splits or without, and a folder of files."""
    from datasets import DatasetDict

    rows = Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "plain")
    DatasetDict(train=rows, test=rows.select([0])).save_to_disk(tmp_path / "splits.json")
    assert list(load_splits("plain")) == ROWS
    assert {split: len(rows) for split, rows in load_splits("splits.json").items()} == {"train": 2, "test": 1}
    (tmp_path / "data").mkdir()
    write("data/train.jsonl")
    assert list(load_splits("data")["train"]) == ROWS
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="the folder empty cannot be read as a dataset"):
        load_splits("empty")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("prompts.docx", b"x", "prompts.docx ends in no format that is read: .jsonl, .json, .parquet, .csv"),
        ("prompts", b"x", "prompts ends in no format that is read"),
        ("a [1].jsonl.gz", gzip.compress(LINES, mtime=0), "because of the brackets in its name: rename it"),
        ("gone.jsonl", None, "gone.jsonl: there is no such file"),
        ("a.jsonl", b'{"prompt": \n', "a.jsonl cannot be read as jsonl"),
        ("a.json", b'{"rows": []}', "a.json"),
        ("a.txt", b"\xff\xfe\xff", "a.txt cannot be read as txt"),
    ],
)
def test_files_that_cannot_be_read(name, content, complaint, write):
    """A path that exists is never taken for the name of a dataset on the hub."""
    if content is not None:
        write(name, content)
    only = {"a.json": [read_rows], "a [1].jsonl.gz": [load_splits]}
    for read in only.get(name, [load_splits, read_rows]):
        with pytest.raises((ValueError, FileNotFoundError), match=complaint):
            read(name)
    if complaint.startswith("a."):
        assert first_row(name) is None


def test_parts_of_a_split(write):
    splits = load_splits(write("a.jsonl", LINES * 5))
    assert len(take_split(splits, "train[:30%]", "a", "x")) == 3
    assert list(take_split(splits, "train[1:3]", "a", "x")) == ROWS[::-1]
    for wanted in ("train[", "test[:3]", "test"):
        with pytest.raises(ValueError, match="a has no split .*, it has 'train': choose with --split"):
            take_split(splits, wanted, "a", "--split")
