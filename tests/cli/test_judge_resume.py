# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import json
import os
import signal
import subprocess
import sys

import pyarrow.parquet
import pytest
from judge_files import PAIRS, Ends, Unanswered, complaint, judged, lines
from waiting import PATIENCE, until

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


def test_what_a_server_left_unanswered_is_asked_again(write_rows, tmp_path, monkeypatch):
    """And nothing else: other abstentions are verdicts."""
    monkeypatch.setattr(Unanswered, "asked", [])
    away = {PAIRS[3]["prompt"], PAIRS[7]["prompt"]}
    monkeypatch.setattr(Unanswered, "away", away)
    spec = ("judge_files:Unanswered", "--second_judge", "judge_files:Reasons")
    records, figures = judged(tmp_path, write_rows(PAIRS), *spec)
    assert figures["judge"]["abstained"] == {"server": 2}
    monkeypatch.setattr(Unanswered, "away", set())
    again, figures = judged(tmp_path, write_rows(PAIRS), *spec)
    assert set(Unanswered.asked[20:]) == away and len(Unanswered.asked) == 22
    assert figures["judge"]["abstained"] == {} and figures["second_judge"]["abstained"] == {"too long": 8}
    assert figures["second_judge"]["cost"]["asked"] == 20
    expected = RandomJudge()(*([row[k] for row in PAIRS] for k in ("prompt", "first", "second")))
    assert [record["preference"] for record in again] == expected
    assert [record for record in again if record["prompt"] not in away] == [
        record for record in records if record["prompt"] not in away
    ]


def test_a_verdict_is_kept_when_its_row_is_asked_again(write_rows, tmp_path, monkeypatch):
    file = write_rows([{"prompt": "x", "completions": ["a", "b", "c"]}])
    found = []
    for away in ({"c"}, {"b"}, set()):
        monkeypatch.setattr(Unanswered, "away", away)
        records, _ = judged(tmp_path, file, "judge_files:Unanswered")
        found.append([record["preference"] is not None for record in records])  # of a b, a c, b c
    assert found == [[True, False, False], [True, True, False], [True, True, True]]


def test_the_first_judge_is_kept_when_the_second_fails(write_rows, tmp_path, monkeypatch, stopping, capsys):
    """What one judge was paid for is not lost with the other, and the orders of a pair are counted once."""
    monkeypatch.setattr(Unanswered, "asked", [])
    file, output = write_rows(PAIRS), tmp_path / "out.jsonl"
    argv = ["judge", file, "--judge", "judge_files:Unanswered", "--second_judge", "judge_files:Ends"]
    argv += ["--output", str(output), "--batch_size", "4"]
    stopping(PAIRS[9]["prompt"])
    assert main(argv) == 1
    assert "8 of 20 pairs are in" in capsys.readouterr().err
    assert len(Unanswered.asked) == 12 and len(lines(output)) == 12 + 8  # the last line of a pair counts
    stopping(None)
    assert main(argv) == 0
    assert Unanswered.asked == Ends.asked == [row["prompt"] for row in PAIRS]
    assert [record["row"] for record in map(json.loads, output.read_text().splitlines())] == list(range(20))
    assert all(record["preference"] == record["second_preference"] for record in lines(output))


def test_a_shorter_file_after_a_failure(write_rows, tmp_path, stopping):
    """Rows that only one judge has judged, and that are in the file no more, stay as they are."""
    output = tmp_path / "out.parquet"
    argv = ["--judge", "random", "--second_judge", "judge_files:Ends", "--output", str(output)]
    stopping(PAIRS[9]["prompt"])
    assert main(["judge", write_rows(PAIRS), *argv]) == 1
    assert main(["judge", write_rows(PAIRS[:5]), *argv]) == 0
    found = pyarrow.parquet.read_table(output).to_pylist()
    assert [row["second_preference"] is None for row in found] == [False] * 5 + [True] * 15
    stopping(None)
    assert main(["judge", write_rows(PAIRS), *argv]) == 0
    assert None not in pyarrow.parquet.read_table(output)["second_preference"].to_pylist()
    assert Ends.asked == [row["prompt"] for row in PAIRS]


def test_orders_are_counted_once(write_rows, tmp_path, monkeypatch):
    """Of an ensemble the first member has been asked when the second one fails."""
    monkeypatch.setattr(Ends, "asked", [])
    monkeypatch.setattr(Ends, "stop", PAIRS[5]["prompt"])
    monkeypatch.setattr(Ends, "error", JudgeError)
    kwargs = '{"judges": ["judge_files:biased", "judge_files:Ends"]}'
    argv = ["--judge_kwargs", kwargs, "--batch_size", "4"]
    output = str(tmp_path / "out" / "judgements.jsonl")
    assert main(["judge", write_rows(PAIRS), "--judge", "ensemble", "--output", output, *argv]) == 1
    monkeypatch.setattr(Ends, "stop", None)
    _, figures = judged(tmp_path, write_rows(PAIRS), "ensemble", *argv)
    assert figures["judge"]["orders"] == {"pairs": 12, "position_bias": pytest.approx(0.2), "flip_rate": 0.0}


def test_an_output_that_was_changed(write_rows, tmp_path, capsys):
    file, output = write_rows(PAIRS), tmp_path / "out" / "judgements.jsonl"
    judged(tmp_path, file, "random")
    capsys.readouterr()
    argv = (file, "--judge", "random", "--output", str(output))
    text = output.read_text()
    output.write_text(text.replace('"row"', '"Row"'))
    assert "has a row without 'row': put it back" in complaint(capsys, *argv)
    output.write_text(text[50:])
    assert "line 1: " in complaint(capsys, *argv, code=1)
    output.write_text(text)
    output.with_name(f"{output.name}.run.json").write_text("{")
    assert "is damaged: remove it" in complaint(capsys, *argv)
    assert output.read_text() == text


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
        "import pathlib, time\nout = pathlib.Path('out.jsonl')\n"
        "def judge(prompts, first, second):\n"
        "    if out.exists() and out.stat().st_size:\n"
        f"        pathlib.Path('waits').touch()\n        time.sleep({PATIENCE})\n"
        "    return [0.5] * len(prompts)\n"
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
    until(lambda: process.poll() is not None or (tmp_path / "waits").exists())
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=PATIENCE)
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
    records, figures = judged(tmp_path, file, "random")
    assert figures["judge"]["label"]["pairs"] == 16
    assert [record["label"] for record in records] == [row["label"] for row in PAIRS]


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
