# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Two processes of every backend end where one process ends, and they were of that backend.

A launch runs all its cells. `make test` runs a selection, `make slow` all of them.
"""

import functools
import tempfile
from pathlib import Path

import pytest
import torch
from cells import CELLS, MEMORY, METHODS, REWARD, ROUND, ROUNDS, STOP, build, run, save_models
from distribute import BACKENDS, launch, needs_deepspeed
from matrix import FSDP1
from safetensors.torch import load_file


SHARDED = ("zero3", "fsdp2")
FAST = {
    "ddp": ["full/comal", "full/nash-md", "full/nash-ema", "qlora/onpo-one", MEMORY],
    "zero3": ["full/comal", "full/onpo-one", "full/continuous", "full/nash-md", "lora/nash-md", REWARD, STOP],
    "fsdp2": [
        *("full/comal", "full/onpo-two", "lora/continuous", "full/nash-md", "lora/nash-md"),
        *(REWARD, STOP, MEMORY, FSDP1),  # the last one leaves its process unfit for others
    ],
}
ALL = {backend: [*CELLS, REWARD] for backend in BACKENDS}
BESIDE = "ValueError: Under ZeRO-3 and FSDP2 a second policy cannot be run beside the live one."


def is_refused(backend: str, cell: str) -> bool:
    return cell == FSDP1 or (backend in SHARDED and cell == "full/nash-md")


def grid(selection: dict[str, list[str]], *marks, refused: bool = False) -> list:
    return [
        pytest.param(backend, cell, tuple(cells), marks=marks, id=f"{backend}-{cell}")
        for backend, cells in selection.items()
        for cell in cells
        if is_refused(backend, cell) is refused and cell not in (STOP, MEMORY)
    ]


@functools.cache
def folder() -> tempfile.TemporaryDirectory:
    """With the models of all cells; removed when the tests end."""
    folder = tempfile.TemporaryDirectory()
    save_models(f"{folder.name}/model")
    return folder


@functools.cache
def launched(backend: str, cells: tuple[str, ...]) -> tuple[dict, Path]:
    """What two processes of `backend` say of each cell, one entry a rank, and the folder with the final weights."""
    if backend.startswith("zero"):
        needs_deepspeed()
    output = Path(tempfile.mkdtemp(dir=folder().name))
    arguments = [f"{folder().name}/model", str(output), *cells]
    return launch(BACKENDS[backend], "matrix.py", *arguments, result=output / "result.json"), output


@functools.cache
def alone(cell: str) -> dict:
    """What one process makes of the cell."""
    return run(build(cell, f"{folder().name}/model", Path(tempfile.mkdtemp(dir=folder().name))))


def check_backend(backend: str, cell: str, facts: dict) -> None:
    """That it was this backend which ran on this rank."""
    adapted, stage = cell.split("/")[0] != "full", int(backend[-1]) if backend.startswith("zero") else 0
    wrapped = {
        "ddp": "DistributedDataParallel",
        "fsdp2": f"FSDP{'PeftModelForCausalLM' if adapted else 'LlamaForCausalLM'}",
    }
    assert facts["processes"] == 2
    assert facts["wrapped"] == wrapped.get(backend, "DeepSpeedEngine")
    assert facts["zero_stage"] == stage
    if backend.startswith("zero") and cell != MEMORY:
        assert facts["micro_batch"] == ROUND // 2 // 2  # prompts
    assert set(facts["reads_prompts_once"]) == {adapted}
    assert facts["partitioned"] == (stage == 3) and facts["dtensors"] == (backend == "fsdp2")
    assert (facts["linear4bit"] > 0) == cell.startswith("qlora")
    # FSDP2 cuts rows, of which a tensor may have an odd number.
    assert 0.48 < facts["local"] / facts["whole"] < 0.52 if backend in SHARDED else facts["local"] == facts["whole"]


def check_memory(backend: str, facts: dict) -> None:
    """That all frozen policies are in memory that the ranks share, unless they hold different shards."""
    sizes = [] if backend in SHARDED else [4 * facts["local"]] * len(facts["snapshots"])
    assert len(facts["shared"]) == len(sizes)
    # Whole pages, and a few bytes between the tensors.
    assert sum(sizes) <= sum(facts["shared"].values()) <= 1.1 * sum(sizes) + 4096 * len(sizes)


@pytest.mark.parametrize(("backend", "cell", "cells"), grid(FAST) + grid(ALL, pytest.mark.slow))
def test_as_one_process(backend, cell, cells):
    """
    Losses, metrics, sampled tokens and final weights are those of one process, and a frozen policy costs a rank its
    shard, or a machine one copy.

    The tolerances are the rounding of fp32, in which gradients are summed in another order: some 1e-6 of the weights
    after eight steps, 1e-5 of a loss that is a square of differences of log-probs, 1e-4 of what divides by it (R²).
    The weights move by 1e-2 and more.
    """
    ranks, output = launched(backend, cells)
    ranks = ranks[cell]
    for rank in ranks:
        assert "error" not in rank, rank["traceback"]
        check_backend(backend, cell, rank["facts"])
        assert {*rank["facts"]["snapshots"].values()} <= {4 * rank["facts"]["local"]}
        check_memory(backend, rank["facts"])
    # The same memory, not two of the same size.
    assert ranks[0]["facts"]["shared"] == ranks[1]["facts"]["shared"]
    expected = alone(cell)
    assert expected["moved"] > 1e-2
    final = load_file(output / f"{cell.replace('/', '-')}.safetensors")
    assert final.keys() == expected["weights"].keys()
    for name, weight in final.items():
        torch.testing.assert_close(weight, expected["weights"][name], atol=5e-6, rtol=0, msg=lambda m, n=name: n + m)
    losses = torch.tensor([rank["losses"] for rank in ranks]).mean(0)
    torch.testing.assert_close(losses, torch.tensor(expected["losses"]), atol=1e-4, rtol=1e-4)
    for metrics, other in zip(ranks[0]["metrics"], expected["metrics"], strict=True):
        assert metrics == pytest.approx(other, abs=2e-3, rel=1e-4)
    assert ranks[0]["evaluation"] == ranks[1]["evaluation"] and "eval_loss" in expected["evaluation"]
    assert ranks[0]["evaluation"] == pytest.approx(expected["evaluation"], abs=2e-3, rel=1e-4)
    sampled = ranks[0]["sampled"] | ranks[1]["sampled"]
    assert sampled.keys() == expected["sampled"].keys()
    if cell.endswith("continuous"):
        sampled = ranks[0]["sampled"]  # the engine gives each rank random numbers of its own
    # Seeded alike; a draw on the edge may fall to the other side.
    assert sum(sampled[key] == expected["sampled"][key] for key in sampled) >= 0.9 * len(sampled)


@pytest.mark.parametrize(
    ("backend", "cell", "cells"), grid(FAST, refused=True) + grid(ALL, pytest.mark.slow, refused=True)
)
def test_what_cannot_work_is_refused(backend, cell, cells):
    """When the trainer is built, on every rank, in a sentence that says what to do instead."""
    for rank in launched(backend, cells)[0][cell]:
        assert rank["error"].startswith("ValueError: FSDP1 is not supported" if cell == FSDP1 else BESIDE)
        assert "`fsdp_version: 2`" in rank["error"] if cell == FSDP1 else "`peft_config=`" in rank["error"]
        assert rank["at"] == "construction", rank["traceback"]


@pytest.mark.parametrize(
    ("backend", "models"),
    [
        # Weights, gradients, two moments of Adam, a frozen policy; and the buckets in which DDP sends gradients.
        ("ddp", 5 + 1),
        # Half of each, and the whole weights of which a round is sampled.
        ("fsdp2", 5 / 2 + 1),
    ],
)
def test_peak_memory(backend, models):
    """A rank never has more than policy, optimizer and one frozen policy, or its shard of them."""
    for rank in launched(backend, tuple(FAST[backend]))[0][MEMORY]:
        assert "error" not in rank, rank["traceback"]
        check_backend(backend, MEMORY, rank["facts"])
        check_memory(backend, rank["facts"])
        assert list(rank["facts"]["snapshots"]) == ["initial"]
        # The rest takes less than the least that a second copy of anything would, which is half a model.
        assert models < rank["peak"] / (4 * rank["facts"]["whole"]) < models + 0.45


@pytest.mark.parametrize("backend", SHARDED)
def test_a_run_that_stops_while_it_samples_saves_a_checkpoint(backend):
    """All ranks stop, and the weights that were gathered to sample are shards again when they are saved."""
    ranks, output = launched(backend, tuple(FAST[backend]))
    for rank in ranks[STOP]:
        assert rank["error"].startswith("JudgeError: The judge is out of money. A checkpoint of step 1 is in")
    assert (output / "full-stop" / "checkpoint-1" / "trainer_state.json").is_file()


@pytest.mark.parametrize("cell", ["full/comal", "lora/nash-md"])
def test_zero3_gathers_weights_once_a_round_to_sample(cell):
    """Not once a token, nor once a generation chunk or opponent: a round of four prompts a rank has four chunks."""
    for rank in launched("zero3", tuple(FAST["zero3"]))[0][cell]:
        assert rank["gathered"] == [1] * ROUNDS


def test_the_cells_freeze_what_they_are_there_for():
    """
    In the last of four rounds COMAL's reference is the policy that the third began with, and ONPO looks back to that
    (one fit), or to the one between the third's fits (two fits).
    """
    kept = {"comal": "round_2", "onpo-one": "round_2", "onpo-two": "round_2_fit_1"}
    assert kept.keys() < METHODS.keys()
    for backend, cells in FAST.items():
        for cell in cells:
            if (name := kept.get(cell.split("/")[1])) is not None:
                assert name in launched(backend, tuple(cells))[0][cell][0]["facts"]["frozen"]
