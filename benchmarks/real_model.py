# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Who wins on a real language model: SmolLM2-135M-Instruct, LoRA in bf16, real prompts, the same prompts and as many
answers for every method, on two CPU cores.

    make real                                             # what is missing of one seed, then the page
    python benchmarks/real_model.py --seeds 3             # three seeds; a killed command goes on where it was
    python benchmarks/real_model.py --judges cycle --methods comal grpo

Three judges: a cycle over classes of answers whose equilibrium is known; four raters who vote; one of them alone. For
each method the learning rate is the best of --learning_rates on prompts that are not reported. Every run is a file in
the cache, and benchmarks/results/real_model.json has them all, the tries included; docs/background/real_model.md is
written from it (`--docs`).
"""

import argparse
import json
import multiprocessing
import os
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple


HERE = Path(__file__).parent
RESULTS = HERE / "results" / "real_model.json"
PROMPTS = HERE / "real" / "prompts.jsonl"
JUDGES = ("cycle", "majority", "one-rater")
METHODS = ("comal", "mpo", "onpo", "onpo-two-fits", "inpo", "egpo", "nash-mp", "mnpo", "nash-md", "nash-prox")
METHODS += ("online-ipo", "iterative-ipo", "sppo", "online-dpo", "grpo")
TRY_SEED = 1000  # of the runs that choose a learning rate


class Run(NamedTuple):
    """One training run; `rounds` of 16 prompts."""

    judge: str
    method: str
    learning_rate: float
    passes: int
    seed: int
    rounds: int

    @property
    def name(self) -> str:
        return "-".join(f"{part:g}" if isinstance(part, float) else str(part) for part in self)


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
    import torch
    from real.play import play

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    train, held_out = prompts_of(run.judge, run.seed == TRY_SEED)
    began = time.monotonic()
    found = play(Path(model), train, held_out, folder=folder / "work", **run._asdict())
    found["seconds"] = round(time.monotonic() - began, 1)
    part = folder / f"{run.name}.part"
    part.write_text(json.dumps(found), encoding="utf-8")
    part.rename(folder / f"{run.name}.json")


def result_of(run: Run, model: Path, folder: Path) -> dict:
    """What a run found, which is played if no file has it."""
    file = folder / f"{run.name}.json"
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
    from real.measure import quality

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
    from real.play import TOKENS, start

    file = folder / f"start-{TOKENS[judge]}-{'try' if tuning else 'report'}.json"
    if not file.is_file():
        train, held_out = prompts_of(judge, tuning)
        asked = held_out if judge == "cycle" else [*train, *held_out]
        answers = dict(zip(asked, start(model, asked, TOKENS[judge], 2), strict=True))
        file.write_text(json.dumps(answers), encoding="utf-8")
    return json.loads(file.read_text(encoding="utf-8"))


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=JUDGES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[1e-3, 2e-3], help="tried for each method")
    parser.add_argument("--passes", type=int, nargs="+", help="over a round; each number is reported")
    parser.add_argument("--rounds", type=int, help="instead of those of each judge")
    parser.add_argument("--tried_rounds", type=int, default=4, help="of a run that tries a learning rate")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--model", type=Path, help="folder of another instruct model")
    parser.add_argument("--pip_args", default="", help="for the download of the model")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="page whose tables and figures are replaced")
    return parser.parse_args(argv)


def main() -> None:
    options = parse()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from real.measure import measured, read, write
    from real.model import CACHE, instruct_model
    from real.play import PASSES, ROUNDS

    model = options.model or instruct_model(options.pip_args)
    folder = CACHE / "real_model" / model.name
    folder.mkdir(parents=True, exist_ok=True)
    record = read(options.output)
    grid = [
        (judge, seed, passes, method)
        for judge, seed in product(options.judges, range(options.seeds))
        for passes, method in product(options.passes or [PASSES[judge]], options.methods)
    ]
    for number, (judge, seed, passes, method) in enumerate(grid, start=1):
        run = Run(judge, method, 0.0, passes, seed, options.rounds or ROUNDS[judge])
        rate, tries = chosen_rate(run, options.learning_rates, options.tried_rounds, model, folder)
        run = run._replace(learning_rate=rate)
        found = measured(result_of(run, model, folder), starting_answers(judge, False, model, folder))
        record = write(options.output, record, {**run._asdict(), **found}, tries)
        print(f"{time.strftime('%H:%M')} {number}: {run.name} {found['summary']}", flush=True)
    if options.docs:
        from real.page import fill_page

        fill_page(record, options.docs)


if __name__ == "__main__":
    main()
