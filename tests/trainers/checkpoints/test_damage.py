# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A checkpoint that is not whole is never resumed from, and a full disk takes none."""

import errno
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from checkpointed import assert_same_run, build, copy_of, cut, names
from safetensors import SafetensorError
from transformers import TrainerState

from trl_nash.trainers.run.checkpoints.files import complete_checkpoints


DAMAGES = {
    "no state": (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json"),
    "cut state": (lambda folder: cut(folder / "trainer_state.json"), "trainer_state.json"),
    "cut weights": (lambda folder: cut(folder / "model.safetensors"), "model.safetensors is cut"),
    "cut optimizer": (lambda folder: cut(folder / "optimizer.pt"), "optimizer.pt is cut"),
    "cut policy": (
        lambda folder: cut(folder / "nash" / "policies" / "initial-00000.safetensors"),
        "nash/policies/initial-00000.safetensors is cut",
    ),
    **{
        f"no {name}": (lambda folder, name=name: (folder / name).unlink(), f"{name}.* is missing")
        for name in (
            *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
            *("nash/round.json", "nash/policies/initial-00000.safetensors"),
        )
    },
    "empty": (lambda folder: [shutil.rmtree(folder), folder.mkdir()], "trainer_state.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_checkpoint_is_never_resumed_from(damage, whole_run, tmp_path, caplog):
    """`True` takes the one before and names what it leaves alone; its path is refused, with the reason."""
    whole, folder = whole_run("comal", "full")
    copy_of(folder, tmp_path, [1, 5, 6])
    harm, reason = DAMAGES[damage]
    harm(tmp_path / "checkpoint-6")
    left = names(tmp_path / "checkpoint-6")
    trainer = build("comal", tmp_path, save_strategy="no")
    with pytest.raises(ValueError, match=rf"checkpoint-6'` is not a complete.*{reason}.*from .*/checkpoint-5\."):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    with caplog.at_level("WARNING"):
        trainer.train(resume_from_checkpoint=True)
    (warning,) = [record.getMessage() for record in caplog.records if "left alone" in record.getMessage()]
    assert "checkpoint-5. Not complete" in warning and re.search(rf"checkpoint-6 .*{reason}", warning)
    assert_same_run(trainer, whole, after=5)
    assert names(tmp_path / "checkpoint-6") == left


def test_no_complete_checkpoint_is_an_error(whole_run, tmp_path):
    """Asked for, a resume does not silently become a new run."""
    copy_of(whole_run("comal", "full")[1], tmp_path, [5])
    cut(tmp_path / "checkpoint-5" / "trainer_state.json")
    with pytest.raises(
        ValueError, match="finds no complete checkpoint.*checkpoint-5 is not complete.*without it"
    ) as error:
        build("comal", tmp_path).train(resume_from_checkpoint=True)
    assert "  " not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint in \S+empty\. Start without it"):
        build("comal", tmp_path / "empty").train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="checkpoint-9'` is not a complete checkpoint: there is no such folder"):
        build("comal", tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-9"))


def test_leftovers_do_not_come_back(whole_run, tmp_path):
    """Written over what another run has left half-written, a checkpoint holds its own policies alone."""
    whole, folder = whole_run("onpo-one", "full")
    copy_of(folder, tmp_path, [1, 2])
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    policies = tmp_path / "checkpoint-2" / "nash" / "policies"
    (policies / "initial-00000.safetensors").rename(policies / "round_9-00000.safetensors")
    build("onpo-one", tmp_path).train(resume_from_checkpoint=True)
    assert names(policies) == names(folder / "checkpoint-2" / "nash" / "policies")


def test_a_checkpoint_of_this_run_is_not_written_again(tmp_path):
    """A stop at a step that has its checkpoint leaves it alone: a kill in a second writing would take it."""
    trainer = build("comal", tmp_path, save_steps=4, steps_per_generation=4)
    state = tmp_path / "checkpoint-4" / "trainer_state.json"
    sample, times = trainer.sample_pairs, []

    def stop(prompts):
        if trainer.round == 1:
            times.append(state.stat().st_mtime_ns)
            trainer.request_stop("SIGTERM")
        return sample(prompts)

    trainer.sample_pairs = stop
    with pytest.raises(RuntimeError, match="A checkpoint of step 4"):
        trainer.train()
    assert times == [state.stat().st_mtime_ns]


# ---- A full disk ----


@pytest.mark.parametrize("write", range(8))
def test_a_full_disk_keeps_the_last_checkpoint(write, whole_run, tmp_path, monkeypatch):
    """
    Whichever write of the checkpoint of step 6 fails, the run stops with a sentence that names the folder and the
    complete checkpoint, which `save_total_limit=1` has not deleted; resumed, the run is the undisturbed one.
    """
    whole, _ = whole_run("comal", "full")
    trainer = build("comal", tmp_path, save_total_limit=1)
    full = SimpleNamespace(writes=0)

    def limited(function, message):
        def write_or_fail(*args, **kwargs):
            if trainer.state.global_step == 6:
                full.writes += 1
                if full.writes == write + 1:
                    raise message
            return function(*args, **kwargs)

        return write_or_fail

    no_space = OSError(errno.ENOSPC, "No space left on device")
    # How torch.save and safetensors say it.
    torn = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    rust = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    monkeypatch.setattr(torch, "save", limited(torch.save, torn))
    monkeypatch.setattr("safetensors.torch.save_file", limited(safetensors.torch.save_file, rust))
    monkeypatch.setattr(Path, "write_text", limited(Path.write_text, no_space))
    monkeypatch.setattr(TrainerState, "save_to_json", limited(TrainerState.save_to_json, no_space))
    monkeypatch.setattr(trainer, "_save", limited(trainer._save, rust))
    with pytest.raises(RuntimeError, match="checkpoint-6 could not be written .*checkpoint-5 is complete: make space"):
        trainer.train()
    monkeypatch.undo()
    complete, faults = complete_checkpoints(tmp_path)
    assert [path.name for path in complete] == ["checkpoint-5"]
    assert {path.name for path in faults} <= {"checkpoint-6"} and full.writes == write + 1
    resumed = build("comal", tmp_path, save_total_limit=1)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole, after=5)
