# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import json
import math

import pytest
from judge_files import PAIRS, complaint

from trl_nash.cli.main import main
from trl_nash.evaluation.rows import read_label, read_rows


@pytest.mark.parametrize("suffix", [".json", ".csv", ".parquet", ".jsonl"])
def test_all_formats_are_the_same_rows(tmp_path, write_rows, suffix):
    import pandas as pd

    rows = [{"prompt": "a, b\nc", "first": "é", "second": '"', "label": 0.5}, PAIRS[3] | {"note": "x", "label": None}]
    rows[0]["note"] = "y"
    file = tmp_path / f"pairs{suffix}"
    match suffix:
        case ".json":
            file.write_text(json.dumps(rows))
        case ".csv":
            pd.DataFrame(rows).to_csv(file, index=False)
        case ".parquet":
            pd.DataFrame(rows).to_parquet(file)
        case ".jsonl":
            write_rows(rows, file.name)
    found = read_rows(str(file))
    assert [(row.prompt, row.completions, row.columns, row.label) for row in found] == [
        (row["prompt"], [row["first"], row["second"]], {"note": row["note"]}, row["label"]) for row in rows
    ]


def test_completions_in_csv(tmp_path):
    (tmp_path / "c.csv").write_text('prompt,completions\nx,"[""a"", ""b""]"\n')
    assert read_rows(str(tmp_path / "c.csv"))[0].completions == ["a", "b"]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_files_from_windows(tmp_path, suffix):
    row = '{"prompt": "x", "first": "a", "second": "é"}'
    text = {".json": f"[{row}]", ".jsonl": f"{row}\r\n", ".csv": "prompt,first,second\r\nx,a,é\r\n"}[suffix]
    (tmp_path / f"file{suffix}").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (found,) = read_rows(str(tmp_path / f"file{suffix}"))
    assert (found.prompt, found.completions) == ("x", ["a", "é"])


def test_long_cells_of_csv(tmp_path):
    (tmp_path / "long.csv").write_text(f"prompt,first,second\nx,{'a' * 200_000},b\n")
    assert len(read_rows(str(tmp_path / "long.csv"))[0].completions[0]) == 200_000


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "one two", "chosen": "a", "rejected": "b"},
        {"chosen": "one two a", "rejected": "one two b"},
        {"prompt": "one two", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"},
        {
            "prompt": "one two",
            "chosen": [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "b"}],
        },
        {
            "chosen": [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "a"}],
            "rejected": [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "b"}],
        },
        {
            "prompt": [{"role": "user", "content": "one two"}],
            "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}],
        },
    ],
)
def test_preference_datasets(write_rows, row):
    (found,) = read_rows(write_rows([row]))
    assert found.prompt in ("one two", [{"role": "user", "content": "one two"}])
    assert (found.completions, found.label, found.columns) == (["a", "b"], 1.0, {})


def test_labels():
    values = [1, 0.25, "0.5", "First", "second", " tie\n", None, "", math.nan]
    assert [read_label(value) for value in values] == [1.0, 0.25, 0.5, 1.0, 0.0, 0.5, None, None, None]
    for value in (2, -1, "model_a", True, False, math.inf, [1], b"1.5"):
        with pytest.raises(ValueError, match="`label` must be"):
            read_label(value)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "has no rows"),
        (
            [{"promt": "a", "first": "b", "second": "c"}],
            "no column `prompt`: did you mean promt, rename it. It has promt",
        ),
        ([{"prompt": "a", "frist": "b", "second": "c"}], "no column `first`: did you mean frist"),
        ([{"prompt": "a", "completion": ["b"]}], "no column `completions`: did you mean completion"),
        ([{"text": "a"}], "needed are prompt with first and second"),
        ([{"prompt": "", "first": "b", "second": "c"}], "row 0 (from 0) cannot be used: its prompt: it is empty"),
        ([{"prompt": [], "first": "b", "second": "c"}], "row 0 (from 0) cannot be used: its prompt: it is empty"),
        ([{"prompt": "a", "first": "b\ud800", "second": "c"}], "half of a surrogate pair, '\\ud800'"),
        ([{"prompt": [{"role": "user", "content": "\ude00"}], "first": "b", "second": "c"}], "half of a surrogate"),
        ([{"prompt": 3, "first": "b", "second": "c"}], "neither text nor a list of messages but 3"),
        ([{"prompt": "a", "first": "b", "second": 4}], "`second` is neither text nor"),
        ([{"prompt": "a", "first": "b", "second": None}], "`second` is neither text nor"),
        ([{"prompt": "a", "first": "b", "second": [{"role": "user", "content": "c"}]}], "`second` must be"),
        ([{"prompt": "a", "completions": "bc"}], "`completions` must be a list of two or more"),
        ([{"prompt": "a", "completions": ["b"]}], "`completions` must be a list of two or more"),
        ([{"prompt": "a", "completions": ["b", 1]}], "`completions[1]` is neither text nor"),
        ([{"prompt": "a", "completions": ["b", "c", "d"], "label": 1}], "`label` says which of two"),
        ([{"prompt": "a", "first": "b", "second": "c", "label": "x"}], "`label` must be P(first wins)"),
    ],
)
def test_bad_rows(write_rows, capsys, rows, expected):
    assert main(["judge", write_rows(rows), "--judge", "random"]) in (1, 2)
    text = capsys.readouterr().err
    assert expected in text and text.count("\n") == 1 and "Traceback" not in text


def test_bad_files(tmp_path, capsys):
    assert "there is no such file" in complaint(capsys, "none.jsonl", "--judge", "random")
    assert "are read from .jsonl, .json" in complaint(capsys, "pairs.docx", "--judge", "random")
    for name, content, expected in (
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt"\n', "line 2: "),
        ("b.jsonl", b"[1]\n", "row 0 (from 0) is not an object"),
        ("c.json", b'{"prompt": "a"}', "holds a dict and not a list"),
        ("d.parquet", b"no", "cannot be read as parquet"),
        ("e.csv", b"prompt,first,second\na,b,c,d\n", "more cells than the heading"),
        ("f.csv", b"prompt,completions\na,b\n", "is not a list in JSON"),
        ("g.jsonl", b"\xff\xfe", "cannot be read as jsonl"),
    ):
        (tmp_path / name).write_bytes(content)
        assert expected in complaint(capsys, str(tmp_path / name), "--judge", "random", code=1)
