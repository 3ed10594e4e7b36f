# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`--user` and `--max_turns`: a run, its plan, and what is refused before anything is loaded."""

import runpy
import sys
from pathlib import Path

import pytest
from tiny import build_model

from trl_nash.cli import main
from trl_nash.cli.training import train


@pytest.fixture
def options(model_dir, prompts_file, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    Path("users.py").write_text("def asks(messages, source):\n    return f'no {source}'\n")
    options = {
        "model_name_or_path": model_dir, "dataset_name": prompts_file, "output_dir": "out", "max_steps": "1",
        "max_new_tokens": "8", "max_length": "80", "per_device_train_batch_size": "2", "report_to": "none",
        "use_cpu": "True", "judge": "random",
    }  # fmt: skip
    return [f"--{name}={value}" for name, value in options.items()]


def test_a_run_with_a_user(options, capsys, model_dir, tokenizer):
    model = build_model(tokenizer)
    model.lm_head.weight.data.mul_(0.1)  # so that turns end
    model.save_pretrained(model_dir)
    assert train.main(["onpo", *options, "--user", "users:asks", "--max_turns", "2"]) == 0
    said = capsys.readouterr().out
    assert "user     users:asks, dialogues of up to 2 turns of the policy" in said
    assert train.main(["onpo", *options, "--user", "users:asks", "--max_turns", "2", "--dry_run", "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "calls of the user at most" in said


@pytest.mark.parametrize(
    "more, sentence, early",
    [
        (["--max_turns", "2"], "--max_turns does nothing without --user", True),
        (["--user", "openai:m@http://a:secret@b/v1"], "holds a password or a query", True),
        (["--user", "nobody:here"], "Unknown user 'nobody:here'", False),
        (["--user", "users:asks", "--raw_prompts"], "`raw_prompts` makes no turns", False),
    ],
)
def test_what_is_refused(more, sentence, early, options, capsys):
    command = main.main if early else train.main
    assert command(["onpo", *options, *more]) == (2 if early else 1)
    output = capsys.readouterr()
    assert sentence in output.err + output.out and "secret" not in output.err + output.out


def test_the_example(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "examples" / "dialogues.py"
    assert len(script.read_text().splitlines()) <= 95
    monkeypatch.setattr(sys, "argv", [str(script), "2"])
    trainer = runpy.run_path(str(script), run_name="__main__")["trainer"]
    assert trainer.state.global_step == 2
    assert "win rate against the start" in capsys.readouterr().out
