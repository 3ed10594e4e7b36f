# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A run that stops by itself or is interrupted, and one that goes on in other processes."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from checkpointed import Interrupt, assert_same_run, build, copy_of
from helpers import equal, favours_a

from trl_nash.algorithms import INITIAL, Policy
from trl_nash.policies import FrozenPolicies


def test_resuming_after_the_judge_gave_up(tmp_path):
    """
    ONPO's judge abstains on round 3 (but for equal completions): the run stops with a checkpoint of step 4, whose
    past policies are those of the start of round 3. Resumed with a judge that works, the round begins as it would,
    and the past policies are each round's own.
    """
    broken = False

    def judge(prompts, first, second):
        return [None] * len(first) if broken else favours_a(prompts, first, second)

    snapshots = []  # the live policy at the start of rounds 1, 2, 3 ...

    def run(**kwargs):
        trainer = build("onpo-one", tmp_path, judge=judge, save_steps=100)
        collect = trainer.collector.collect

        def watch(rows, *args):
            nonlocal broken
            now = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
            if not snapshots or not equal(snapshots[-1], now):
                snapshots.append(now)
            broken = trainer.round == 2 and not kwargs
            return collect(rows, *args)

        trainer.collector.collect = watch
        return trainer, lambda: trainer.train(**kwargs)

    trainer, train = run()
    with pytest.raises(RuntimeError, match=r"\d of the 4 pairs of round 3 have no verdict.*A checkpoint of step 4"):
        train()
    checkpoint = tmp_path / "checkpoint-4"
    assert checkpoint.is_dir()

    trainer, train = run(resume_from_checkpoint=str(checkpoint))
    train()
    assert len(snapshots) == 4
    kept = {INITIAL: 0, Policy(2): 2, Policy(3): 3}  # of the last three in a fifth round's anchor, those there are
    assert set(trainer.policies) == set(kept)
    for policy, index in kept.items():
        assert equal(trainer.policies._weights[policy], snapshots[index])
    assert trainer.state.global_step == 8


# ---- A run that is interrupted ----


def test_resuming_after_an_interrupt(whole_run, tmp_path):
    """A run that is killed in step 6 of 8, with checkpoints every 5, goes on from step 5 as if it had not been."""
    whole, _ = whole_run("comal", "full")
    trainer = build("comal", tmp_path, save_steps=5, extra={"callbacks": [Interrupt(6)]})
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = build("comal", tmp_path, save_steps=5)
    resumed.train(resume_from_checkpoint=True)
    assert_same_run(resumed, whole, after=5)


# ---- Another number of processes ----


def say_saved_by(checkpoint: Path, processes: int) -> None:
    file = checkpoint / "nash" / "round.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"processes": processes}))


def test_a_round_in_progress_needs_as_many_processes(whole_run, tmp_path):
    """The samples of a round lie with the ranks that drew them; between rounds any number of processes goes on."""
    whole, folder = whole_run("comal", "full")
    copy_of(folder, tmp_path, [5, 6])
    say_saved_by(tmp_path / "checkpoint-5", 2)
    say_saved_by(tmp_path / "checkpoint-6", 2)
    with pytest.raises(ValueError, match="by 2 processes in the middle of a round.* 1: resume with 2.*multiple of 2"):
        build("comal", tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    resumed = build("comal", tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert_same_run(resumed, whole, after=6)


@pytest.mark.parametrize("saved, now", [(3, 2), (2, 3), (4, 1)])
def test_shards_are_cut_anew(saved, now, tmp_path):
    """FSDP2 gives ranks the rows that `torch.chunk` does; the last may have few, or none."""
    whole = {"matrix": torch.randn(7, 3), "vector": torch.randn(4), "short": torch.randn(2, 5)}

    def shards(processes):
        parts = {key: tensor.chunk(processes) for key, tensor in whole.items()}
        none = {key: tensor[:0] for key, tensor in whole.items()}
        return [
            {key: (parts[key][rank] if rank < len(parts[key]) else none[key]).clone() for key in whole}
            for rank in range(processes)
        ]

    files = [tmp_path / f"initial-{rank:05d}.safetensors" for rank in range(saved)]
    for file, shard in zip(files, shards(saved), strict=True):
        safetensors.torch.save_file(shard, file)
    for rank, expected in enumerate(shards(now)):
        assert equal(FrozenPolicies._rows(files, rank, now), expected)


def test_deepspeed_needs_as_many_processes(whole_run, tmp_path):
    copy_of(whole_run("comal", "full")[1], tmp_path, [6])
    say_saved_by(tmp_path / "checkpoint-6", 2)
    trainer = build("comal", tmp_path)
    trainer.keeper._accelerator = SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=object()))
    with pytest.raises(ValueError, match="by 2 processes, and DeepSpeed cannot .* 1: resume with 2, or .* the model"):
        trainer.keeper.check(tmp_path / "checkpoint-6")
