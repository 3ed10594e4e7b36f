# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest
from judge_files import PAIRS, Ends, complaint, judged, lines

from trl_nash import RandomJudge
from trl_nash.cli.main import main
from trl_nash.judges import JudgeError


@pytest.fixture
def stopping(monkeypatch):
    """Has [`Ends`] stop at a prompt, with an error."""
    monkeypatch.setattr(Ends, "asked", [])

    def stop(prompt: str | None, error: type[BaseException] = JudgeError) -> None:
        monkeypatch.setattr(Ends, "stop", prompt)
        monkeypatch.setattr(Ends, "error", error)

    return stop


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_goes_on_where_it_stopped(write_rows, tmp_path, stopping, capsys, suffix):
    file, output = write_rows(PAIRS), str(tmp_path / f"out{suffix}")
    argv = ["judge", file, "--judge", "judge_files:Ends", "--output", output, "--batch_size", "4"]
    stopping(PAIRS[10]["prompt"])
    assert main(argv) == 1
    text = capsys.readouterr().err
    assert "the server is gone. 8 of 20 pairs are in" in text and "goes on where it stopped" in text
    stopping(PAIRS[16]["prompt"], KeyboardInterrupt)
    assert main(argv) == 130
    assert "interrupted. 16 of 20 pairs are in" in capsys.readouterr().err
    stopping(None)
    assert main(argv) == 0
    assert Ends.asked == [row["prompt"] for row in PAIRS]
    records = lines(tmp_path / "out.jsonl") if suffix == ".jsonl" else pyarrow.parquet.read_table(output).to_pylist()
    assert [record["preference"] for record in records] == RandomJudge()(
        *([row[k] for row in PAIRS] for k in ("prompt", "first", "second"))
    )
    first = capsys.readouterr().out
    assert main(argv) == 0  # nothing is left to ask
    assert len(Ends.asked) == 20
    assert capsys.readouterr().out == first
    longer = write_rows([*PAIRS, {"prompt": "new", "first": "a", "second": "b"}])
    assert main(argv) == 0 and longer == file
    assert Ends.asked[20:] == ["new"]


def test_a_line_that_was_being_written_is_judged_again(write_rows, tmp_path, stopping):
    stopping(None)
    file = write_rows(PAIRS)
    records, _ = judged(tmp_path, file, "judge_files:Ends")
    path = tmp_path / "out" / "judgements.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert judged(tmp_path, file, "judge_files:Ends")[0] == records
    assert Ends.asked[20:] == [PAIRS[-1]["prompt"]]


def test_ctrl_c_of_the_process(write_rows, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\ndef judge(prompts, first, second):\n    time.sleep(0.3)\n    return [0.5] * len(prompts)\n"
    )
    argv = ["judge", write_rows(PAIRS), "--judge", "slow:judge", "--output", "out.jsonl", "--batch_size", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "trl_nash.cli.main", *argv],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    deadline = time.monotonic() + 60
    while not ((tmp_path / "out.jsonl").exists() and (tmp_path / "out.jsonl").stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=30)
    done = len(lines(tmp_path / "out.jsonl"))
    assert process.returncode == 130 and 0 < done < 20
    assert f"interrupted. {done} of 20 pairs are in out.jsonl" in text and "Traceback" not in text


def test_another_judge_or_file_does_not_go_on(write_rows, tmp_path, capsys):
    file, output = write_rows(PAIRS), str(tmp_path / "out" / "judgements.jsonl")
    judged(tmp_path, file, "judge_files:biased")
    capsys.readouterr()
    same = (file, "--output", output, "--judge")
    assert "judgements of judge_files:biased" in complaint(capsys, *same, "random")
    assert "name another --output" in complaint(capsys, *same, "judge_files:biased", "--second_judge", "random")
    write_rows([PAIRS[0], PAIRS[1] | {"first": "other"}, *PAIRS[2:]])
    assert "Row 1 (from 0) is not what it was" in complaint(capsys, *same, "judge_files:biased")
    assert "is there already" in complaint(capsys, write_rows(PAIRS, "p.jsonl"), "--judge=random", "--output", file)


def test_a_label_may_come_later(tmp_path, write_rows):
    bare = [{key: value for key, value in row.items() if key != "label"} for row in PAIRS]
    file = write_rows(bare)
    assert "label" not in judged(tmp_path, file, "random")[1]["judge"]
    write_rows(PAIRS)
    assert judged(tmp_path, file, "random")[1]["judge"]["label"]["pairs"] == 16


def test_secrets_are_not_written(write_rows, tmp_path):
    judged(tmp_path, write_rows(PAIRS), "random", "--judge_kwargs", '{"seed": 987654321}')
    for path in (tmp_path / "out").iterdir():
        assert b"987654321" not in path.read_bytes()


def test_messages_in_parquet(write_rows, tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": "a"}], "completions": ["a", "b", "c"]},
        {"prompt": "text", "completions": ["d", "e"]},
    ]
    for name, kept in (("one", rows[:1]), ("both", rows)):
        output = tmp_path / f"{name}.parquet"
        argv = ["judge", write_rows(kept, f"{name}.jsonl"), "--judge", "random", "--output", str(output)]
        assert main(argv) == 0 and main(argv) == 0
        found = pyarrow.parquet.read_table(output).to_pylist()
        prompt = found[0]["prompt"]
        assert (json.loads(prompt) if name == "both" else prompt) == rows[0]["prompt"]
        assert not (tmp_path / f"{name}.parquet.jsonl").exists()
