# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Run as two processes of one backend by `test_matrix.py`: trains cells in sequence and writes what came of them."""

import faulthandler
import gc
import json
import os
import sys
import time
import traceback
from pathlib import Path

import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import FullyShardedDataParallelPlugin, gather_object
from cells import MEMORY, build, measure, run
from distribute import shard_on_cpu
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor


FSDP1 = "full/fsdp1"  # a cell that is launched as FSDP2 and asks for the first version; the last one
PATIENCE = 600  # seconds; ranks that wait for different things wait for ever


def facts(trainer) -> dict:
    """What this rank can say of the backend that ran."""
    model, wrapped = trainer.model, trainer.model_wrapped
    trained = [p for p in model.parameters() if p.requires_grad]
    return {
        "processes": trainer.accelerator.num_processes,
        "wrapped": type(wrapped).__name__,
        "micro_batch": wrapped.train_micro_batch_size_per_gpu()
        if hasattr(wrapped, "zero_optimization_stage")
        else None,
        "zero_stage": wrapped.zero_optimization_stage() if hasattr(wrapped, "zero_optimization_stage") else 0,
        "dtensors": sum(isinstance(p, DTensor) for p in trained) / len(trained),
        "partitioned": sum(hasattr(p, "ds_tensor") for p in trained) / len(trained),
        "whole": sum(p.ds_numel if hasattr(p, "ds_numel") else p.numel() for p in trained),
        "local": sum(local_numel(p) for p in trained),
        "linear4bit": sum(type(m).__name__ == "Linear4bit" for m in model.modules()),
        "snapshots": {
            str(policy): sum(t.numel() * t.element_size() for t in weights.values())
            for policy, weights in trainer.policies._weights.items()
        },
        "frozen": sorted(trainer.frozen),
        "reads_prompts_once": trainer.reads_prompts_once,
        "shared": shared(),
    }


def shared() -> dict[str, int]:
    """Bytes of the memory in which this process keeps policies together with others, by the memory's number."""
    fields = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "trl-nash-policy" in line]
    return {inode: int(span.split("-")[1], 16) - int(span.split("-")[0], 16) for span, _, _, _, inode, *_ in fields}


def local_numel(parameter: torch.nn.Parameter) -> int:
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor.numel()
    return parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()


def pretend_fsdp1() -> None:
    """From now on accelerate is told of FSDP1, whose plugin it cannot build without a GPU."""
    initialise = FullyShardedDataParallelPlugin.__post_init__

    def initialise_and_pretend(self):
        initialise(self)
        self.fsdp_version = 1

    FullyShardedDataParallelPlugin.__post_init__ = initialise_and_pretend


def forget() -> None:
    """The next trainer is the first one of its process as far as accelerate and transformers know."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    gc.collect()
    unset_hf_deepspeed_config()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def main(model_folder: str, folder: Path, cells: list[str]) -> None:
    shard_on_cpu()
    results, processes, rank = {}, int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    for cell in cells:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        began, weights, trainer = time.perf_counter(), {}, None
        if cell == FSDP1:
            pretend_fsdp1()
        try:
            where = (model_folder, folder / cell.replace("/", "-"), processes)
            if cell == MEMORY:
                trainer, result = measure(cell, *where)
            else:
                trainer = build(cell, *where)
                result = run(trainer)
                weights = result.pop("weights")
            result["facts"] = facts(trainer)
        except Exception as error:  # both ranks raise alike, or the launch times out
            result = {
                "error": f"{type(error).__name__}: {error}",
                "at": "construction" if trainer is None else "training",
                "traceback": traceback.format_exc(),
            }
        trainer = None
        result["seconds"] = time.perf_counter() - began
        results[cell] = gather_object([result])
        if rank == 0:
            save_file(weights, folder / f"{cell.replace('/', '-')}.safetensors")
        forget()
    faulthandler.cancel_dump_traceback_later()
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(results))
    if processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
