# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Whose folder it is: a run in it is gone on with, by any name, or given up, and never written over unasked."""

import json
import os
import shutil
import signal
from argparse import Namespace
from pathlib import Path

import pytest
from tiny import build_model, build_tokenizer

from trl_nash.cli.training import train
from trl_nash.cli.training.output_folder import check_output_folder, give_up
from trl_nash.usage import UsageError


OPTIONS = """--model_name_or_path=model --dataset_name=prompts.jsonl --output_dir=out --judge=random --max_new_tokens=4
    --max_length=32 --per_device_train_batch_size=2 --steps_per_generation=2 --test_split_size=0 --report_to=none
    --save_steps=2 --use_cpu=True""".split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run of four steps, which is finished."""
    folder = tmp_path_factory.mktemp("finished")
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [{"prompt": f"{one} {other}"} for one in "abcd" for other in "abcd"]
    (folder / "prompts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert train.main(["comal", *OPTIONS, "--max_steps=4"]) == 0
    finally:
        os.chdir(here)
    yield folder
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run(finished, tmp_path, monkeypatch, capsys, caplog):
    """Runs in a copy of the folder, and returns the exit code and all that was said."""
    shutil.copytree(finished, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.delenv("RANK", raising=False)

    def run(*options: str) -> tuple[int, str]:
        code = train.main(["comal", *OPTIONS, *options])
        output = capsys.readouterr()
        return code, output.out + output.err + caplog.text

    return run


@pytest.mark.parametrize("resume", ["latest", "true", "out", "out/checkpoint-4"])
def test_a_finished_run_is_not_trained_further(resume, run):
    """It is said, the model is there, and a longer run goes on, named by its folder or otherwise."""
    before = Path("out/model.safetensors").read_bytes()
    code, said = run(f"--resume_from_checkpoint={resume}", "--max_steps=4")
    assert code == 0 and Path("out/model.safetensors").read_bytes() == before
    assert "resumes  out/checkpoint-4. out has checkpoint-2, too." in said
    assert "The run in out is finished: checkpoint-4 is of step 4, and it has 4." in said
    assert "Finished before, after 4 steps. The model is in out." in said
    code, said = run(f"--resume_from_checkpoint={resume}", "--max_steps=6")
    assert code == 0 and "Trained 6 steps in" in said
    assert "goes on from out/checkpoint-4 with other settings. max_steps: 4 before, 6 now." in said


def test_a_folder_in_use_is_given_up_on_demand(run):
    """Checkpoints of the run before are gone then: `latest` must not find them."""
    code, said = run("--max_steps=2")
    assert code == 2 and said.splitlines()[-1] == (
        "trl-nash comal: --output_dir out is in use: it holds a model and checkpoint-2, checkpoint-4 of another run. "
        "Name another folder, add --resume_from_checkpoint latest to go on with it, or add --overwrite to give it up."
    )
    assert run("--max_steps=2", "--overwrite")[0] == 0
    assert [path.name for path in Path("out").glob("checkpoint-*")] == ["checkpoint-2"]


def test_the_checkpoints_that_there_are_are_named(run):
    """Before anything is loaded."""
    shutil.rmtree("model")
    code, said = run("--resume_from_checkpoint=out/checkpoint-3")
    assert code == 2 and "Complete are checkpoint-2, checkpoint-4: resume from out/checkpoint-4." in said
    Path("empty").mkdir()
    code, said = run("--resume_from_checkpoint=empty", "--output_dir=new")
    assert code == 2 and "`resume_from_checkpoint='empty'` finds no complete checkpoint in empty." in said
    code, said = run("--resume_from_checkpoint=latest", "--output_dir=new")
    assert code == 2 and "finds no complete checkpoint in new. Start without it." in said


@pytest.mark.parametrize(
    ("resume", "overwrite", "complaint"),
    [
        (None, False, "is in use: it holds checkpoint-2, ..., checkpoint-10 of another run"),
        ("false", False, "--resume_from_checkpoint latest"),
        ("elsewhere", False, "Name another folder, or add --overwrite"),
        ("elsewhere/checkpoint-2", False, "is in use"),
        ("latest", True, "leave one of them out"),
        ("elsewhere", True, "leave one of them out"),
        (None, True, None),
        ("Latest", False, None),
        ("true", False, None),
        ("here", False, None),
        ("./here/", False, None),
        ("here/checkpoint-4", False, None),
    ],
)
def test_who_may_write_to_a_folder(resume, overwrite, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for step in (2, 4, 6, 10):
        (tmp_path / "here" / f"checkpoint-{step}").mkdir(parents=True)
    arguments = Namespace(output_dir="here", resume_from_checkpoint=resume, overwrite=overwrite)
    if complaint is None:
        check_output_folder(arguments)
    else:
        with pytest.raises(UsageError, match=complaint):
            check_output_folder(arguments)
    for folder in ("new", "here/logs", "here/checkpoint-best"):
        (tmp_path / folder).mkdir()
        check_output_folder(Namespace(output_dir=folder, resume_from_checkpoint=None, overwrite=False))


def test_the_folder_that_nobody_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = Namespace(output_dir=None, resume_from_checkpoint=None, overwrite=False)
    check_output_folder(arguments)
    (tmp_path / "trainer_output" / "checkpoint-2").mkdir(parents=True)
    with pytest.raises(UsageError, match="trainer_output is in use"):
        check_output_folder(arguments)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("model_name_or_path", "out/checkpoint-4"),
        ("dataset_name", "out/checkpoint-4/prompts.jsonl"),
        ("judge", ["random", "reward:out/checkpoint-4"]),
    ],
)
def test_overwriting_keeps_what_the_run_reads(option, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "checkpoint-4").mkdir(parents=True)
    same = {"resume_from_checkpoint": None, "overwrite": True, "model_name_or_path": "org/name", "beta": 0.1}

    with pytest.raises(UsageError, match=f"which --{option} reads: name another --output_dir"):
        check_output_folder(Namespace(output_dir="out", **same | {option: value}))
    check_output_folder(Namespace(output_dir="other", **same | {option: value}))
    check_output_folder(Namespace(output_dir="out", **same))


def test_overwriting_gives_up_a_pool(tmp_path):
    """Its weights would be put on another model; what else is in the folder stays, and a folder of that name too."""
    ours, theirs = tmp_path / "one" / "pool", tmp_path / "two" / "pool"
    for pool in (ours, theirs):
        (pool / "policies").mkdir(parents=True)
        (pool / "notes.txt").touch()
    (ours / "members.json").write_text("{}")
    give_up(ours.parent)
    give_up(theirs.parent)
    assert [path.name for path in ours.iterdir()] == ["notes.txt"]
    assert (theirs / "policies").is_dir()


def test_overwriting_follows_no_link(tmp_path):
    kept, folder = tmp_path / "kept", tmp_path / "run"
    kept.mkdir()
    folder.mkdir()
    (folder / "checkpoint-2").symlink_to(kept)

    give_up(folder)

    assert kept.is_dir() and not list(folder.iterdir())
