# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Run by `test_kill.py`: trains COMAL without a disturbance, then again and again with a SIGKILL in each attempt, and
writes the weights in which these runs end. Attempts are forks of this process, which has imported everything.
"""

import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

import torch
from helpers import favours_a, make_trainer, prompt_dataset, weights
from safetensors.torch import save_file

from trl_nash import COMALTrainer, PairwiseJudge
from trl_nash.judges.store import JudgementStore
from trl_nash.trainers.run.checkpoints.files import complete_checkpoints


# What a run announces, and the most times that a kill waits for it.
PHASES = {"generate": 6, "judge": 12, "score": 1, "fit": 5, "evaluate": 2, "write": 5}


class LoggingJudge(PairwiseJudge):
    """Answers one by one. Its log says what it was really asked, and which answers were kept before the next one."""

    symmetric = True
    identity = "logging"

    def __init__(self, folder: Path, announce):
        self.cache = JudgementStore(folder / "judgements.sqlite")
        self.announce = announce
        self.log = (folder / f"asked-{os.environ.get('RANK', '0')}.jsonl").open("a", buffering=1)

    def judge(self, prompts, first, second):
        raise AssertionError("everybody asks through judge_each")

    def judge_each(self, prompts, first, second):
        for row, question in enumerate(zip(prompts, first, second, strict=True)):
            self.announce("judge")
            self.log.write(json.dumps(["asked", *question]) + "\n")
            yield row, favours_a(*zip(question, strict=True))[0]
            self.log.write(json.dumps(["kept", *question]) + "\n")


def train(folder: Path, announce) -> None:
    """Trains from the last complete checkpoint in `folder` to the end: 6 rounds of 4 chunks and 4 steps."""

    class Announcing(COMALTrainer):
        def sample_pairs(self, prompts):
            announce("generate")
            return super().sample_pairs(prompts)

        def compute_loss(self, *args, **kwargs):
            announce("fit")
            return super().compute_loss(*args, **kwargs)

        def evaluate(self, *args, **kwargs):
            announce("evaluate")
            return super().evaluate(*args, **kwargs)

        def _save(self, *args, **kwargs):
            announce("write")
            super()._save(*args, **kwargs)

        def _save_optimizer_and_scheduler(self, folder):
            announce("write")
            super()._save_optimizer_and_scheduler(folder)

        def _save_rng_state(self, folder):
            super()._save_rng_state(folder)
            announce("write")  # of the state, which is last

    processes = int(os.environ.get("WORLD_SIZE", 1))
    trainer = make_trainer(
        "comal",
        folder / "out",
        trainer_class=Announcing,
        judge=LoggingJudge(folder, announce),
        dataset=prompt_dataset(["a", "b c", "c d e", "d", "e f", "f g h", "g", "h a"] * processes),
        extra={"eval_dataset": prompt_dataset(["a", "b c", "h", "e"])},
        num_generations=3,
        reference_rounds=2,
        steps_per_generation=4,
        max_steps=24,
        learning_rate=0.05,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=3,
        save_total_limit=2,
    )
    centre = trainer.scorer.centre
    trainer.scorer.centre = lambda *args: (announce("score"), centre(*args))[1]
    complete, _ = complete_checkpoints(folder / "out")
    trainer.train(resume_from_checkpoint=True if complete else None)
    if trainer.accelerator.is_main_process:
        save_file(weights(trainer.accelerator.unwrap_model(trainer.model)), folder / "weights.safetensors")


def attempt(folder: Path, processes: int, phase: str | None = None, times: int = 1, delay: float = 0.0) -> bool:
    """
    Trains in forks of this process, and kills them `delay` seconds after `phase` was announced for the n-th time.

    Returns:
        `bool`: whether they were killed before they ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(processes):
        if (child := os.fork()) == 0:
            try:
                os.close(reader)
                if processes > 1:
                    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                to = writer if rank == 0 else os.open(os.devnull, os.O_WRONLY)
                train(folder, lambda phase, to=to: os.write(to, f"{phase}\n".encode()))
                os._exit(0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
        children.append(child)
    os.close(writer)
    with os.fdopen(reader) as announced:
        for line in announced:
            times -= line.strip() == phase
            if times == 0:
                time.sleep(delay)  # nothing is expected of it: every moment will do
                # All of them stand still before one is gone, which the others would notice.
                for number in (signal.SIGSTOP, signal.SIGKILL):
                    for child in children:
                        os.kill(child, number)
                break
        announced.read()
    codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
    assert codes <= {0, -signal.SIGKILL}, f"a run failed behind {phase}: {codes}"
    return codes == {-signal.SIGKILL}


def main(folder: Path, processes: int, phases: list[str]) -> None:
    attempt(folder / "whole", processes)
    generator = random.Random(0)
    runs, killed = 0, []
    while phases:
        phase = phases[0]
        times, delay = generator.randint(1, PHASES[phase]), generator.uniform(0, 0.01)
        if attempt(folder / f"run-{runs}", processes, phase, times, delay):
            killed.append(phases.pop(0))
        else:
            runs += 1
    if not (folder / f"run-{runs}" / "weights.safetensors").exists():
        attempt(folder / f"run-{runs}", processes)
    (folder / "killed.json").write_text(json.dumps(killed))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
