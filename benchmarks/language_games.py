# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

r"""
Do the real trainers reach the equilibrium? Every algorithm on COMAL's cycle: one-token answers, LoRA, answers of two
tokens, and two games at once told apart by their prompt; and on the game `two-turns`, of dialogues with a user. Every
figure is exact, read from the models.

    python -m benchmarks.language_games --seeds 3 --docs docs/background/games.md

`comal, PAIRING` is COMAL with K = 8 and so many prompts that a round has as many judge calls, whatever the pairing.
The command writes benchmarks/results/language_games.json and the tables in docs/background/games.md;

    python -m benchmarks.language_games --cases "two turns" "two turns, LoRA" --docs docs/background/dialogues.md \
        --output benchmarks/results/dialogue_games.json

does so for dialogues. `--algorithms` and `--cases` run a part of the grid. What the file has is not run again, so that
the same command goes on where it was stopped: remove the file, or lines of it, to measure anew. `python -m
benchmarks.figures` draws what it recorded.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import shlex
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks import RESULTS


CASES = ("one token", "LoRA", "two tokens", "two games")
_SHORT = ("one token", "two games")
_DIALOGUES = ("two turns", "two turns, LoRA")
GRPO = "grpo, rate "
PAIRED = "comal, "
CALLS, ANSWERS, PAIRS = 1536, 8, 8  # of a round, of a prompt, and of a prompt where pairs are drawn
PAIRINGS = "all iid random circular swiss elimination tournament best_worst active".split()
# The rows of the grid and their cases. The others are as COMAL or Nash-MD in what LoRA and longer answers change.
ROWS = {
    "comal": CASES + _DIALOGUES,
    "mpo": _SHORT,
    "onpo": CASES + _DIALOGUES,
    "nash-prox": _SHORT,
    "inpo": CASES + _DIALOGUES,
    "egpo": _SHORT,
    "nash-mp": _SHORT,
    "mnpo": _SHORT,
    "nash-md": CASES,
    "online-ipo": _SHORT,
    "iterative-ipo": CASES + _DIALOGUES,
    "sppo": _SHORT,
    "online-dpo": ("one token",),
    **{f"{GRPO}{rate}": _SHORT for rate in ("1e-4", "3e-4", "1e-3", "3e-3")},
    **{f"{PAIRED}{pairing}": ("one token",) for pairing in PAIRINGS},
}
# On dialogues exact fits with ONPO's step for games of one turn are at .057 after 80 rounds, and with these at .029.
ON_DIALOGUES = {"onpo": {"step_size": 2.0, "anchor_history": 16}}
START = (0.2, 0.5, 0.3)


def case(name: str):
    """Game, start and further arguments of [`play`]."""
    import numpy as np
    from peft import LoraConfig

    from trl_nash.games import DIALOGUES, DialogueLanguageGame, LanguageGame, MatrixGame, load_game
    from trl_nash.games.dialogues.named import default_policy

    cycle = load_game("comal-cycle")
    options = {}
    if name.endswith("LoRA"):
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        options = {"peft_config": lora, "learning_rate": 1e-2}
    if name in _DIALOGUES:
        game = DIALOGUES["two-turns"]()
        return DialogueLanguageGame(game), default_policy(game), options
    if name == "two tokens":
        return LanguageGame(cycle, tokens_per_answer=2), START, {}
    if name == "two games":
        turned = np.ix_([1, 2, 0], [1, 2, 0])  # the same cycle, whose answers have changed places
        game = LanguageGame({"choose one": cycle, "choose two": MatrixGame(cycle.preferences[turned])})
        return game, {"choose one": START, "choose two": (0.2, 0.6, 0.2)}, {}
    return LanguageGame(cycle), START, options


def run(job: tuple[str, str, int, int]) -> dict:
    """One training run: the case, the row, its seed, and the samplings of which its rounds have one or two."""
    name, row, seed, samplings = job
    import numpy as np
    import torch

    from trl_nash.games.players import PLAYERS, own_equilibrium, play

    torch.set_num_threads(1)
    game, start, options = case(name)
    algorithm = row
    if row.startswith(GRPO):
        algorithm, options["learning_rate"] = "grpo", float(row.removeprefix(GRPO))
    elif row.startswith(PAIRED):
        algorithm, options = "comal", options | paired(row.removeprefix(PAIRED))
    if name in _DIALOGUES:
        options = options | ON_DIALOGUES.get(algorithm, {})
    began = time.monotonic()
    rounds = samplings // PLAYERS[algorithm].samplings
    watch = play(game, algorithm, start=start, seed=seed, rounds=rounds, **options)
    target = own_equilibrium(game, algorithm, start)
    tail = len(watch.gaps) // 5
    result = {
        "case": name,
        "algorithm": row,
        "seed": seed,
        "tail_gap": float(np.mean(watch.gaps[-tail:])),
        "last_gap": watch.gaps[-1],
        "kl_nash": game.kl_from(game.nash, watch.policies[-1]),
        "improper": game.improper(watch.policies[-1]),
        "seconds": round(time.monotonic() - began, 1),
        "gaps": [round(gap, 6) for gap in watch.gaps],
    }
    if name not in _DIALOGUES and len(watch.policies[0]) == 1:
        paths = [policy for (policy,) in (reading.values() for reading in watch.policies)]
        result["policies"] = [
            [round(float(share), 5) for share in policy[:-1] / policy[:-1].sum()] for policy in paths
        ]
    if target is not None:
        result["own_gap"] = game.duality_gap(game.extended(target))
        result["kl_own"] = float(np.mean([game.kl_from(target, policies) for policies in watch.policies[-tail:]]))
    return result


def paired(pairing: str) -> dict:
    """The options of a round with `CALLS` judge calls, up to a multiple of 4 prompts."""
    from trl_nash.rounds.pairings import pairing_of

    pairs = PAIRS if pairing in ("random", "active") else None
    calls = pairing_of(pairing, pairs).calls(ANSWERS)
    return {
        "pair_selection": pairing,
        "pairs_per_prompt": pairs,
        "num_generations": ANSWERS,
        "prompts": 4 * round(CALLS / calls / 4),
    }


def pairing_table(results: list[dict]) -> str:
    """COMAL by pairing, at equal judge calls, as a Markdown table."""
    import numpy as np

    lines = ["| pairing | prompts in a round | mean gap of the last 20 % |", "|---|---|---|"]
    for pairing in PAIRINGS:
        tails = [result["tail_gap"] for result in results if result["algorithm"] == f"{PAIRED}{pairing}"]
        found = f"{np.median(tails):.3f}" if tails else "not run"
        if len(tails) > 1:
            found += f" ({min(tails):.3f} to {max(tails):.3f})"
        lines.append(f"| `{pairing}` | {paired(pairing)['prompts']} | {found} |")
    return "\n".join(lines)


def table(results: list[dict], rounds: int, cases: Sequence[str]) -> str:
    """The medians over seeds as a Markdown table, and what they are."""
    import numpy as np

    results = [result for result in results if result["case"] in cases]
    starts = "The starts have .28, two games .24." if tuple(cases) == CASES else "The starts have .22."
    seeds = len({result["seed"] for result in results})
    header = [f"| algorithm | {' | '.join(cases)} |", "|---|" + "---|" * len(cases)]
    gaps, own = [], []
    for row in (row for row in ROWS if set(ROWS[row]) & set(cases) and not row.startswith(PAIRED)):
        cells, distances = [], []
        for name in cases:
            runs = [result for result in results if (result["case"], result["algorithm"]) == (name, row)]
            tails = [result["tail_gap"] for result in runs]
            fewer = f", {len(runs)} of {seeds}" if len(runs) < seeds else ""
            spread = f" ({min(tails):.3f} to {max(tails):.3f}{fewer})" if seeds > 1 and runs else ""
            cells.append(f"{np.median(tails):.3f}{spread}" if runs else "not run")
            found = [result["kl_own"] for result in runs if "kl_own" in result]
            distances.append(f"{np.median(found):.4f} (gap {runs[0]['own_gap']:.3f})" if found else "not run")
        gaps.append(f"| {row} | {' | '.join(cells)} |")
        if set(distances) != {"not run"}:
            own.append(f"| {row} | {' | '.join(distances)} |")
    return "\n".join(
        [
            f"Mean duality gap of the last 20 % of {rounds} rounds"
            + f" (EGPO and Nash-MP, which sample twice in each: {rounds // 2})" * (tuple(cases) == CASES)
            + ":",
            f"{f'median of {seeds} seeds (smallest to largest)' if seeds > 1 else 'of one seed each'}. {starts}",
            "",
            *header,
            *gaps,
            "",
            "Those that stay near their reference: KL to the equilibrium of their own, in nats, over the same rounds, "
            "and the",
            "gap which that equilibrium has:",
            "",
            *header,
            *own,
        ]
    )


def merge(results: list[dict], output: Path, rounds: int) -> list[dict]:
    """Writes new results beside those that the file has of other runs, in the order of the grid; returns all."""
    kept = []
    if output.exists():
        record = json.loads(output.read_text(encoding="utf-8"))
        if record["rounds"] != rounds:
            raise SystemExit(f"{output} has runs of {record['rounds']} rounds, not {rounds}: choose another --output.")
        kept = record["results"]
    merged = {cell_of(result): result for result in [*kept, *results]}
    order = {(name, row): place for place, (name, row) in enumerate(product(CASES + _DIALOGUES, ROWS))}
    results = sorted(merged.values(), key=lambda result: (order[cell_of(result)[:2]], result["seed"]))
    cases = dict.fromkeys(result["case"] for result in results)
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.language_games", "--cases", *cases]),
        "rounds": rounds,
        "machine": f"{platform.processor() or platform.machine()}, processes of one thread",
        "results": results,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({name: value for name, value in record.items() if name != "results"}, indent=1)
    lines = ",\n".join(json.dumps(result) for result in record["results"])  # a run a line: its readings are many
    output.write_text(f'{head[:-2]},\n "results": [\n{lines}\n]}}\n', encoding="utf-8")
    return record["results"]


def cell_of(result: dict) -> tuple[str, str, int]:
    """Which run a result is of."""
    return result["case"], result["algorithm"], result["seed"]


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--cases", nargs="+", choices=CASES + _DIALOGUES, default=CASES)
    parser.add_argument("--algorithms", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS / "language_games.json")
    parser.add_argument("--docs", type=Path, help="page whose table is replaced")
    return parser.parse_args(argv)


def main() -> None:
    options = parse()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    cells = product(options.cases, options.algorithms, range(options.seeds))
    jobs = [(*cell, options.rounds) for cell in cells if cell[0] in ROWS[cell[1]]]
    results = merge([], options.output, options.rounds)
    known = {cell_of(result) for result in results}
    jobs = [job for job in jobs if job[:3] not in known]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for number, result in enumerate(pool.imap_unordered(run, jobs), start=1):
            results = merge([result], options.output, options.rounds)
            print(f"{number}/{len(jobs)} {json.dumps(result)}", flush=True)
    tables = {"grid": table(results, options.rounds, options.cases)}
    if "one token" in options.cases:
        tables["pairings"] = pairing_table(results)
    for name, text in tables.items():
        print(f"{text}\n")
        if options.docs:
            page = options.docs.read_text(encoding="utf-8")
            marks = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
            page = re.sub(marks, lambda match, text=text: f"{match[1]}{text}\n{match[2]}", page, flags=re.DOTALL)
            options.docs.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
