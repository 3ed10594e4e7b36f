# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The runs of the benchmark: each is played in a process of its own and kept as a file, and none is played twice."""

import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import torch

from .measure import quality
from .play import TOKENS, options_of, play, start


PROMPTS = Path(__file__).parent / "prompts.jsonl"
TRY_SEED = 1000  # of the runs that choose a learning rate


class Run(NamedTuple):
    """One training run; `rounds` of 16 prompts, and the step size that `play` has for it where none is given."""

    judge: str
    method: str
    learning_rate: float
    passes: int
    seed: int
    rounds: int
    num_generations: int
    step_size: float | None = None
    lr_scheduler_type: str = "constant_with_warmup"

    @property
    def name(self) -> str:
        return "-".join(f"{part:g}" if isinstance(part, float) else str(part) for part in self)

    def file(self, folder: Path) -> Path:
        """Where its result is kept: another place for other settings, so that none is taken for theirs."""
        settings = [TOKENS[self.judge], options_of(self.judge, self.method, self.step_size)]
        return folder / f"{self.name}-{crc32(json.dumps(settings).encode()):08x}.json"


def prompts_of(judge: str, tuning: bool) -> tuple[list[str], list[str]]:
    """
    The prompts to train on and those that are held out. A cycle is played on the prompts that are trained on, where
    its equilibrium can be reached; other games are reported on others. Learning rates are chosen on prompts apart.
    """
    prompts = [json.loads(line)["prompt"] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    held_out, apart, rest = prompts[:32], prompts[32:48], prompts[48:]
    if judge == "cycle":
        return (rest[32:48] if tuning else rest[:16]), (apart if tuning else held_out)
    return rest, (apart if tuning else held_out)


def execute(run: Run, model: str, folder: Path) -> None:
    """A process of its own: plays, and leaves its result as a file, whole or not at all."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    train, held_out = prompts_of(run.judge, run.seed == TRY_SEED)
    began = time.monotonic()
    found = play(Path(model), train, held_out, folder=folder / "work", **run._asdict())
    found["seconds"] = round(time.monotonic() - began, 1)
    leave(run.file(folder), found)


def leave(file: Path, found: dict) -> None:
    """Writes it whole or not at all."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.rename(file)


def result_of(run: Run, model: Path, folder: Path) -> dict:
    """What a run found, which is played if no file has it."""
    file = run.file(folder)
    if not file.is_file():
        print(f"{time.strftime('%H:%M')} {run.name} ...", flush=True)
        process = multiprocessing.get_context("spawn").Process(target=execute, args=(run, str(model), folder))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{run.name} ended with exit code {process.exitcode}: see above.")
    return json.loads(file.read_text(encoding="utf-8"))


def chosen_rate(run: Run, rates: list[float], rounds: int, model: Path, folder: Path) -> tuple[float, list[dict]]:
    """The learning rate of the try that ended best, and all tries."""
    if len(rates) == 1:
        return rates[0], []
    tries = []
    for rate in rates:
        short = run._replace(learning_rate=rate, seed=TRY_SEED, rounds=rounds)
        found = result_of(short, model, folder)
        starts = starting_answers(run.judge, True, model, folder)
        tries.append({**short._asdict(), "quality": quality(found, starts), "seconds": found["seconds"]})
    return max(tries, key=lambda one: one["quality"])["learning_rate"], tries


def starting_answers(judge: str, tuning: bool, model: Path, folder: Path) -> dict[str, list[str]]:
    """What the untrained model answers to the prompts of a judge, sampled once: two answers each."""
    file = folder / f"start-{TOKENS[judge]}-{'try' if tuning else 'report'}.json"
    if not file.is_file():
        train, held_out = prompts_of(judge, tuning)
        asked = held_out if judge == "cycle" else [*train, *held_out]
        answers = dict(zip(asked, start(model, asked, TOKENS[judge], 2), strict=True))
        leave(file, answers)
    return json.loads(file.read_text(encoding="utf-8"))
