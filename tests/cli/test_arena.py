# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash arena`: the table, the plan, and what ends it."""

import json
import subprocess
import sys

import pytest
from judge_files import Ends

from trl_nash.cli.main import main
from trl_nash.judges import JudgeError


PROMPTS = [f"{a} {b}" for a in "abcd" for b in "abc"]


def by_length(prompts, first, second):
    return [0.5 if len(a) == len(b) else float(len(a) > len(b)) for a, b in zip(first, second, strict=True)]


@pytest.fixture
def arena(write_rows, tmp_path):
    """The command with two files, of which the second has longer completions, and further arguments."""
    argv = ["arena", *(_file(write_rows, name, count) for name, count in (("short", 2), ("long", 9)))]
    argv += ["--prompts", write_rows([{"prompt": prompt} for prompt in PROMPTS])]
    argv += ["--judge", "judge_files:Ends", "--output_dir", str(tmp_path / "out")]
    return lambda *more: main([*argv, *more])


def _file(write_rows, name: str, count: int) -> str:
    rows = [{"prompt": prompt, "completion": f"{prompt} {'x' * count}"} for prompt in PROMPTS]
    return write_rows(rows, f"{name}.jsonl")


@pytest.fixture(autouse=True)
def judge(monkeypatch):
    monkeypatch.setattr(Ends, "asked", [])
    monkeypatch.setattr(Ends, "stop", None)


def test_table_and_files(write_rows, model_dir, prompts_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("judge_files.by_length", by_length, raising=False)
    long = [{"prompt": json.loads(line)["prompt"], "completion": "x" * 999} for line in open(prompts_file)]
    argv = ["arena", f"start={model_dir}", write_rows(long, "long.jsonl"), "--prompts", prompts_file]
    argv += ["--judge", "judge_files:by_length", "--output_dir", str(tmp_path / "out"), "--max_new_tokens", "4"]
    assert main([*argv, "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "16 prompts, 16 pairs of answers, of which judge_files:by_length has judged 0." in text
    assert "which are 32 questions in both orders" in text
    assert "Time not measured yet: answers of start, judgements." in text and not (tmp_path / "out").exists()
    assert main(argv) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines() if line]
    assert lines[1][:2] == ["long", "100.0%"] and lines[2][:2] == ["start", "0.0%"]
    half_width = 50 * (1 - 0.025 ** (1 / 16))  # of 16 prompts, all won
    assert float(lines[1][2].strip("±")) == pytest.approx(half_width, abs=2)
    assert "long is the hardest to exploit: no policy of the pool beats it by its mean win rate (0.0 – " in text
    found = {file.name for file in (tmp_path / "out").iterdir()}
    assert found == {
        *("answers", "judgements", "alpaca_eval", "model_answer"),
        *("policies.json", "arena.json", "arena.parquet", "arena.html", ".lock"),
    }
    assert main([*argv, "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "has judged 16. To judge: 0 pairs" in text and "About 0 seconds in all." in text
    longer = write_rows([{"prompt": "a new one"}, *map(json.loads, open(prompts_file))][::-1], "longer.jsonl")
    assert main([*argv[:4], longer, *argv[5:], "--dry_run"]) == 2  # prompts in another order
    assert "Prompt 0 (from 0) is not what it was" in capsys.readouterr().err
    longer = write_rows([*map(json.loads, open(prompts_file)), {"prompt": "a new one"}], "longer.jsonl")
    assert main([*argv[:4], longer, *argv[5:], "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "17 prompts, 16 pairs" in text and " 1  0" in " ".join(text.split()).replace("1 0", " 1  0")


def test_policies_that_do_not_differ(write_rows, tmp_path, capsys, monkeypatch):
    """Each of three wins about half: nobody is called the hardest to exploit, on the terminal or on the page."""

    def by_chance(prompts, first, second):
        sides = zip(prompts, first, second, strict=True)
        return [float((sum(map(ord, prompt)) + (len(a) > len(b))) % 2) for prompt, a, b in sides]

    monkeypatch.setattr("judge_files.by_chance", by_chance, raising=False)
    files = [_file(write_rows, name, count) for name, count in (("short", 2), ("long", 9), ("longer", 12))]
    prompts = write_rows([{"prompt": prompt} for prompt in PROMPTS])
    argv = ["arena", *files, "--prompts", prompts, "--judge", "judge_files:by_chance"]
    assert main([*argv, "--output_dir", str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "arena.html").read_text()
    for text in (capsys.readouterr().out, page):
        assert "No difference can be seen with 12 prompts: all intervals of win rates contain 50 %." in text
        assert "hardest to exploit" not in text and "Elo is off by" not in text


@pytest.mark.parametrize("more", [[], ["--dry_run"]], ids=["run", "dry run"])
@pytest.mark.parametrize(("spec", "why"), [("./typo", "there is no such folder"), ("{}", "there is no config.json")])
def test_a_model_that_is_not_there_is_refused_before_another_is_sampled(
    spec, why, more, model_dir, prompts_file, tmp_path, capsys
):
    argv = ["arena", f"start={model_dir}", f"second={spec.format(tmp_path)}", "--prompts", prompts_file, *more]
    assert main([*argv, "--judge", "judge_files:Ends", "--output_dir", str(tmp_path / "out")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and why in said.err and said.err.count("\n") == 1
    assert not list((tmp_path / "out").rglob("*.jsonl"))


def test_rows_that_are_left_out_are_counted(write_rows, tmp_path, caplog):
    """Of prompts that are written otherwise, and further answers."""
    asked = [*PROMPTS[:4], *(f"{prompt} " for prompt in PROMPTS[4:]), *PROMPTS[:2]]
    file = write_rows([{"prompt": prompt, "completion": "x"} for prompt in asked], "spaces.jsonl")
    argv = ["arena", file, _file(write_rows, "long", 9), "--judge", "judge_files:Ends", "--output_dir"]
    argv += [str(tmp_path / "out"), "--prompts", write_rows([{"prompt": prompt} for prompt in PROMPTS])]
    assert main(argv) == 0
    assert [record.getMessage() for record in caplog.records if "left out" in record.getMessage()] == [
        f"{file}: 8 of its 14 rows are of other prompts, and left out.",
        f"{file}: 2 of its 14 rows are further answers to a prompt, and left out.",
    ]


def test_a_dry_run_counts_what_a_judge_is_asked(write_rows, tmp_path, capsys, monkeypatch):
    """
    Of three answers to 12 prompts, of which one policy has no answer to the last: a group judge is asked once a prompt
    in each order, and is then asked no more than was said; a scorer is shown each answer; others each pair.
    """
    asked = []

    def scores(prompts, groups):
        asked.extend(groups)
        return [[len(text) for text in group] for group in groups]

    monkeypatch.setattr("judge_files.scores", scores, raising=False)
    files = [_file(write_rows, name, count) for name, count in (("short", 2), ("long", 9))]
    rows = [{"prompt": prompt, "completion": "x"} for prompt in PROMPTS[:-1]]
    argv = ["arena", *files, write_rows(rows, "some.jsonl"), "--output_dir", str(tmp_path / "out"), "--prompts"]
    argv += [write_rows([{"prompt": prompt} for prompt in PROMPTS]), "--judge"]
    for judge, kwargs, said in (
        ("group:judge_files:scores", {}, "34 pairs, which are 24 requests, all answers to a prompt in both orders;"),
        ("openai-group:m@http://x/v1", {"order": "random"}, "which are 12 requests, all answers to a prompt in one o"),
        ("reward:org/model", {}, "34 pairs, which are 35 answers to score;"),
        ("openai:m@http://x/v1", {"order": "random"}, "34 pairs, which are 34 questions in one order;"),
        ("judge_files:biased", {}, "34 pairs, which are 68 questions in both orders;"),
    ):
        assert main([*argv, judge, "--judge_kwargs", json.dumps(kwargs), "--dry_run"]) == 0
        assert said in " ".join(capsys.readouterr().out.split())
    assert main([*argv, "group:judge_files:scores"]) == 0 and len(asked) == 24
    capsys.readouterr()
    assert main([*argv, "group:judge_files:scores", "--dry_run"]) == 0
    assert "has judged 34. To judge: 0 pairs, which are 0 requests" in capsys.readouterr().out


def test_dialogues(model_dir, model, write_rows, tmp_path, capsys, monkeypatch):
    """The plan counts what is at most played, and a user that fails is said."""
    monkeypatch.setattr("judge_files.by_length", by_length, raising=False)
    monkeypatch.setattr("judge_files.nobody", lambda messages, source: 1 / 0, raising=False)
    model.lm_head.weight.data.mul_(0.1)  # so that turns end
    model.save_pretrained(model_dir)
    prompts = write_rows([{"prompt": prompt, "source": "a"} for prompt in PROMPTS])
    file = write_rows([{"prompt": prompt, "completion": "x"} for prompt in PROMPTS], "file.jsonl")
    argv = ["arena", f"start={model_dir}", file, "--prompts", prompts, "--judge", "judge_files:by_length"]
    argv += ["--output_dir", str(tmp_path / "out"), "--max_new_tokens", "30", "--user", "judge_files:nobody"]
    assert main([*argv, "--max_turns", "3", "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert "An answer is a dialogue with judge_files:nobody, of 3 turns of the policy at most." in text
    assert "To play: 12 dialogues, at most 36 turns and 1,080 tokens of theirs, and 24 calls of the user." in text
    assert main([*argv, "--max_turns", "3"]) == 0
    assert "Dialogues that failed, and were not judged: start " in capsys.readouterr().out.replace("\n", " ")
    assert main([*argv[:-2], "--max_turns", "3"]) == 2
    assert "max_turns is of dialogues: name a user, or leave it out." in capsys.readouterr().err


@pytest.mark.parametrize("error, code", [(JudgeError, 1), (KeyboardInterrupt, 130)])
def test_goes_on_where_the_judge_stopped(arena, capsys, monkeypatch, error, code):
    monkeypatch.setattr(Ends, "stop", PROMPTS[7])
    monkeypatch.setattr(Ends, "error", error)
    assert arena("--judge_batch_size", "2") == code
    text = capsys.readouterr().err
    assert "24 answers are in" in text and "the same command goes on from there." in text
    assert len(Ends.asked) == 6
    monkeypatch.setattr(Ends, "stop", None)
    assert arena("--judge_batch_size", "2") == 0
    assert Ends.asked == PROMPTS
    first = capsys.readouterr().out
    assert arena() == 0 and len(Ends.asked) == 12
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    "argv, message",
    [
        ([], "a file of prompts is needed"),
        (["--prompts", "p.jsonl"], "a judge is needed"),
        (["--prompts", "p.jsonl", "--judge", "random"], "an arena needs two policies or more, got 0"),
        (["a", "a", "--prompts", "p.jsonl", "--judge", "random"], "two policies have the same name, 'a'"),
        (["a", "b", "--prompts", "p.jsonl", "--judge", "random"], "p.jsonl: there is no such file"),
        (["a", "b", "--prompts", "p.jsonl", "--judge", "random", "--top_p", "2"], "top_p must be from 1e-06 to 1"),
        (["a", "b", "--prompts", "p.jsonl", "--judge", "random", "--batch_size", "0"], "batch_size must be at least"),
        (["a", "b", "--prompts", "p.jsonl", "--judge", "random", "--judge_kwargs", "{"], "judge_kwargs must be JSON"),
        (["a", "b", "--prompt", "p.jsonl"], "unknown option --prompt: did you mean --prompts?"),
    ],
)
def test_what_cannot_be_run(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["arena", *argv]) == 2
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_is_not_there(prompts_file, tmp_path, capsys):
    missing = [str(tmp_path / name) for name in ("nothing", "neither")]
    argv = ["--prompts", prompts_file, "--judge", "random", "--output_dir", str(tmp_path / "out")]
    assert main(["arena", *argv, *missing]) == 1
    text = capsys.readouterr().err.strip()
    assert "nothing" in text and "Traceback" not in text


def test_help_is_quick_and_needs_neither_torch_nor_scipy():
    code = (
        "import sys; from trl_nash.cli.main import main\n"
        "try: main(['arena', '--help'])\n"
        "except SystemExit: pass\n"
        "found = {'torch', 'transformers', 'trl', 'scipy'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, capture_output=True)
