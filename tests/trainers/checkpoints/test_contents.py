# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is in a checkpoint, and in a saved model, and whose checkpoints are refused."""

import errno
import json
import os
import shutil

import pytest
import safetensors.torch
from checkpointed import STEPS_A_ROUND, Interrupt, build, names
from helpers import ALGORITHMS, equal
from safetensors import safe_open


# ---- What is in a checkpoint ----


FROZEN = {
    "ipo": {"initial"},
    "onpo-one": {"initial", "round_1", "round_2"},
    "onpo-two": {"initial", "round_2_fit_1"},
    "comal": {"initial", "round_2"},
    "nash-md": {"initial"},
    "nash-ema": {"initial", "average"},
}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_contents_of_a_checkpoint(algorithm, kind, whole_run):
    """
    After round 3, which is number 2: the policies that round 4 looks back to as safetensors (`initial` is adapters off
    under LoRA), the round's buffer in its middle only, and a line of JSON. All files of ours lie in `nash` and none of
    them is a pickle.
    """
    _, folder = whole_run(algorithm, kind)
    steps = STEPS_A_ROUND.get(algorithm, 2)
    frozen = {
        f"policies/{name}-00000.safetensors" for name in FROZEN[algorithm] if (kind, name) != ("lora", "initial")
    }
    checkpoint = folder / f"checkpoint-{3 * steps}"
    assert names(checkpoint / "nash") == frozen | {"round.json"}
    assert json.loads((checkpoint / "nash" / "round.json").read_text())["epoch"] == 1
    if steps > 1:
        assert names(folder / "checkpoint-1" / "nash") >= {"round-00000.safetensors"}
    theirs = names(checkpoint) - {f"nash/{name}" for name in names(checkpoint / "nash")}
    pickles = {name for name in theirs if not name.endswith((".json", ".safetensors", ".md", ".jinja"))}
    assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}  # transformers' own


@pytest.mark.parametrize(
    "algorithm, kind",
    [("onpo-one", "full"), ("onpo-one", "lora"), ("comal", "lora"), ("comal", "trained lora"), ("nash-ema", "full")],
)
def test_a_saved_model_holds_the_policy_alone(algorithm, kind, whole_run, tmp_path):
    """`save_model` writes the live policy: one set of weights, equal to the model's, and no frozen policy."""
    trainer, _ = whole_run(algorithm, kind)
    trainer.save_model(tmp_path)
    assert not any("nash" in name or "policies" in name for name in names(tmp_path))
    (file,) = [name for name in names(tmp_path) if name.endswith(".safetensors")]
    with safe_open(tmp_path / file, "pt") as saved:
        tensors = {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    live = {name.replace(".default", ""): p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert equal(tensors, live)


@pytest.mark.parametrize("option", ["save_only_model", "foreign"])
def test_a_checkpoint_without_rounds_is_refused(option, tmp_path):
    """A checkpoint of another trainer, or of `save_only_model`, has no rounds: the error says how to go on from it."""
    build("comal", tmp_path, max_steps=1, save_only_model=option == "save_only_model").train()
    checkpoint = tmp_path / "checkpoint-1"
    if option == "foreign":
        shutil.rmtree(checkpoint / "nash")
    with pytest.raises(ValueError, match="has no folder `nash`.*save_only_model.*as the model"):
        build("comal", tmp_path, max_steps=2).train(resume_from_checkpoint=str(checkpoint))


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    """Its frozen policies mean something else."""
    build("onpo-one", tmp_path, max_steps=1).train()
    with pytest.raises(ValueError, match="was saved by ONPO, and this is COMAL: give its path as the model"):
        build("comal", tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(
    "options, sizes",
    [
        (
            {"steps_per_generation": 4},
            "rounds of 4 prompts, 2 optimizer steps, and these are of 8 prompts, 4",
        ),
        ({"per_device_train_batch_size": 1}, "rounds of 4 prompts, and these are of 2 prompts:"),
        ({"num_iterations": 2}, "rounds of 2 optimizer steps, and these are of 4 optimizer steps:"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stop", [1, 2], ids=["in a round", "between rounds"])
def test_rounds_of_another_size_are_refused(stop, options, sizes, whole_run, tmp_path):
    """Where in the run a step is follows from the size of a round: both sizes are in the sentence."""
    _, folder = whole_run("comal", "full")
    with pytest.raises(ValueError, match=f"checkpoint-{stop} was saved with {sizes}.*rounds that it was saved with"):
        build("comal", tmp_path, **options).train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}"))


def test_a_missing_buffer_is_named(tmp_path):
    """In the middle of a round the buffer of this process is needed."""
    build("comal", tmp_path, max_steps=1).train()
    (tmp_path / "checkpoint-1" / "nash" / "round-00000.safetensors").unlink()
    with pytest.raises(ValueError, match="nash/round-00000.safetensors is missing. Start a new run"):
        build("comal", tmp_path, max_steps=2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_save_total_limit_removes_all_of_a_checkpoint(tmp_path):
    """Frozen policies and rounds go with their checkpoint."""
    build("comal", tmp_path, save_total_limit=2).train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-7", "checkpoint-8"]


def test_saving_at_the_end_of_epochs(tmp_path):
    """`save_strategy="epoch"` keeps checkpoints at the ends of rounds, without a buffer."""
    build("comal", tmp_path, save_strategy="epoch").train()
    folders = sorted(tmp_path.glob("checkpoint-*"))
    assert [folder.name for folder in folders] == ["checkpoint-4", "checkpoint-8"]
    assert not any("round-00000.safetensors" in name for folder in folders for name in names(folder))


# ---- Frozen policies on disk ----


def test_a_frozen_policy_is_written_once(tmp_path, monkeypatch):
    """
    Checkpoints of one run share the files of what has not changed: 12 checkpoints, one `initial`, and COMAL's
    reference, which moves at the start of round 4 and is that of rounds 4, 5 and 6, in those before which it is needed
    again: of steps 7 to 10. One of them, copied elsewhere, is whole, and the others' deletion takes nothing.
    """
    options = {"num_train_epochs": 3, "reference_rounds": 3}
    build("comal", tmp_path / "whole", **options).train()
    file = "nash/policies/{}-00000.safetensors"
    inode = {
        name: {
            step: path.stat().st_ino
            for step in range(1, 13)
            if (path := tmp_path / "whole" / f"checkpoint-{step}" / file.format(name)).exists()
        }
        for name in ("initial", "round_3")
    }
    assert len(set(inode["initial"].values())) == 1 and list(inode["initial"]) == list(range(1, 13))
    assert len(set(inode["round_3"].values())) == 1 and list(inode["round_3"]) == [7, 8, 9, 10]
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links")))
    build("comal", tmp_path / "copies", **options).train()
    for step in (1, 8, 12):
        for name in names(tmp_path / "whole" / f"checkpoint-{step}" / "nash"):
            first, second = (tmp_path / run / f"checkpoint-{step}" / "nash" / name for run in ("whole", "copies"))
            assert first.read_bytes() == second.read_bytes()


def test_shared_files_outlive_their_first_checkpoint(whole_run, tmp_path):
    """With `save_total_limit=1` files pass from checkpoint to checkpoint; a moving average is written every time."""
    for algorithm in ("comal", "nash-ema"):
        whole, _ = whole_run(algorithm, "full")
        folder = tmp_path / algorithm
        stopped = build(algorithm, folder, save_total_limit=1, extra={"callbacks": [Interrupt(4)]})
        with pytest.raises(KeyboardInterrupt):
            stopped.train()
        resumed = build(algorithm, folder, save_total_limit=1)
        resumed.train(resume_from_checkpoint=True)
        for name, kept in whole.policies._weights.items():
            assert equal(resumed.policies._weights[name], kept)
        (last,) = folder.glob("checkpoint-*")
        expected = whole_run(algorithm, "full")[1] / last.name
        for name in names(last / "nash" / "policies"):
            parts = (path / "nash" / "policies" / name for path in (last, expected))
            assert equal(*(safetensors.torch.load_file(part) for part in parts))
