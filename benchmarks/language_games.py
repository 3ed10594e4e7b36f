# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Do the real trainers reach the equilibrium? Every algorithm on COMAL's cycle: one-token answers, LoRA, answers of two
tokens, and two games at once told apart by their prompt. Every figure is exact, read from the models.

    python benchmarks/language_games.py --seeds 3 --docs docs/games.md

writes benchmarks/results/language_games.json and the table in docs/games.md.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import time
from itertools import product
from pathlib import Path


CASES = ("one token", "LoRA", "two tokens", "two games")
ALGORITHMS = ("comal", "onpo", "inpo", "iterative-ipo", "nash-md")
START = (0.2, 0.5, 0.3)
RESULTS = Path(__file__).parent / "results" / "language_games.json"


def case(name: str):
    """Game, start and further arguments of [`play`]."""
    import numpy as np
    from peft import LoraConfig

    from trl_nash.games import LanguageGame, MatrixGame, load_game

    cycle = load_game("comal-cycle")
    if name == "LoRA":
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        return LanguageGame(cycle), START, {"peft_config": lora, "learning_rate": 1e-2}
    if name == "two tokens":
        return LanguageGame(cycle, tokens_per_answer=2), START, {}
    if name == "two games":
        turned = np.ix_([1, 2, 0], [1, 2, 0])  # the same cycle, whose answers have changed places
        game = LanguageGame({"choose one": cycle, "choose two": MatrixGame(cycle.preferences[turned])})
        return game, {"choose one": START, "choose two": (0.2, 0.6, 0.2)}, {}
    return LanguageGame(cycle), START, {}


def run(job: tuple[str, str, int, int]) -> dict:
    """One training run."""
    name, algorithm, seed, rounds = job
    import numpy as np
    import torch

    from trl_nash.games.players import own_equilibrium, play

    torch.set_num_threads(1)
    game, start, options = case(name)
    began = time.monotonic()
    watch = play(game, algorithm, start=start, seed=seed, rounds=rounds, **options)
    target = own_equilibrium(game, algorithm, start)
    tail = len(watch.gaps) // 5
    result = {
        "case": name,
        "algorithm": algorithm,
        "seed": seed,
        "tail_gap": float(np.mean(watch.gaps[-tail:])),
        "last_gap": watch.gaps[-1],
        "kl_nash": game.kl_from(game.nash, watch.policies[-1]),
        "improper": float(np.mean([policy[-1] for policy in watch.policies[-1].values()])),
        "seconds": round(time.monotonic() - began, 1),
    }
    if target is not None:
        result["own_gap"] = game.duality_gap({prompt: np.append(policy, 0.0) for prompt, policy in target.items()})
        result["kl_own"] = float(np.mean([game.kl_from(target, policies) for policies in watch.policies[-tail:]]))
    return result


def table(results: list[dict], rounds: int) -> str:
    """The medians over seeds as a Markdown table, and what they are."""
    import numpy as np

    seeds = len({result["seed"] for result in results})
    lines = [
        f"Mean duality gap of the last 20 % of {rounds} rounds: median of {seeds} seeds (smallest to largest).",
        "The starts have .28, two games .24.",
        "",
        f"| algorithm | {' | '.join(CASES)} |",
        "|---|" + "---|" * len(CASES),
    ]
    own = []
    for algorithm in ALGORITHMS:
        cells, distances = [], []
        for name in CASES:
            runs = [result for result in results if (result["case"], result["algorithm"]) == (name, algorithm)]
            gaps = [result["tail_gap"] for result in runs]
            cells.append(f"{np.median(gaps):.3f} ({min(gaps):.3f} to {max(gaps):.3f})")
            if "kl_own" in runs[0]:
                distance = np.median([result["kl_own"] for result in runs])
                distances.append(f"{distance:.4f} (gap {runs[0]['own_gap']:.3f})")
        lines.append(f"| {algorithm} | {' | '.join(cells)} |")
        if distances:
            own.append(f"| {algorithm} | {' | '.join(distances)} |")
    lines += [
        "",
        "INPO and Nash-MD stay near their reference. KL to the equilibrium of their own, in nats, over the same",
        "rounds, and the gap which that equilibrium has:",
        "",
        f"| algorithm | {' | '.join(CASES)} |",
        "|---|" + "---|" * len(CASES),
        *own,
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    jobs = [(*cell, options.rounds) for cell in product(CASES, ALGORITHMS, range(options.seeds))]
    began, results = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for result in pool.imap_unordered(run, jobs):
            results.append(result)
            print(f"{len(results)}/{len(jobs)} {json.dumps(result)}", flush=True)
    results.sort(key=lambda result: jobs.index((result["case"], result["algorithm"], result["seed"], options.rounds)))
    record = {
        "command": "python benchmarks/language_games.py",
        "rounds": options.rounds,
        "machine": f"{platform.processor() or platform.machine()}, {options.processes} processes of one thread",
        "minutes": round((time.monotonic() - began) / 60, 1),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    text = table(results, options.rounds)
    print(text)
    if options.docs:
        page = options.docs.read_text(encoding="utf-8")
        filled = re.sub(
            r"(<!-- grid:begin -->\n).*?(<!-- grid:end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", page, flags=re.DOTALL
        )
        options.docs.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
