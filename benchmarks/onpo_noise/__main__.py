# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What 512 sampled pairs a round leave of ONPO: its last policy and its average, at several steps and histories.

On matrix games a fit is least squares on sampled pairs, and the game that the settings were chosen on (COMAL's cycle)
stands beside games that they were not. With `--language` the trainers play, at a constant learning rate, and the
average is one of weights. Every gap is exact, read from the policies.

    python -m benchmarks.onpo_noise --language 3 --docs docs/reference/methods/onpo.md
"""

import argparse
import json
import os
import time
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import RESULTS
from benchmarks.measuring import fill, machine

from .matrix import GOAL, KINDS, LONG, PAIRS, RARE, ROUNDS, SETTINGS, matrix_rows, theory_rows


def theory_table(rows: list[dict]) -> str:
    lines = ["| step | ηκ | last: predicted | met | average: predicted | met |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{row[f'{kind}_predicted']:.4f} | {spread(row[kind])}" for kind in KINDS]
        lines.append(f"| {row['step']:g} | {row['turn']:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(found: dict) -> str:
    return f"{found['mean']:.4f} ± {found['high'] - found['mean']:.4f}"


def language_table(rows: list[dict]) -> str:
    """Mean, smallest and largest of the seeds."""
    lines = ["| game | setting | last policy | average of weights |", "|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{gaps['mean']:.3f} ({gaps['smallest']:.3f} to {gaps['largest']:.3f})" for gaps in map(row.get, KINDS)
        ]
        lines.append(f"| {row['game']} | {row['setting']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def matrix_table(rows: list[dict]) -> str:
    """COMAL's cycle with 95 % intervals; of the other games the mean, and on how many it is within the goal."""
    groups = {
        "COMAL's cycle": lambda row: row["tuned"],
        "other games": lambda row: not row["tuned"] and row["rarest"] >= RARE,
        "rare answers": lambda row: row["rarest"] < RARE,
    }
    heads = [f"{group}: {kind}" for group in groups for kind in KINDS]
    lines = [f"| setting | rounds | {' | '.join(heads)} |", "|---" * (2 + len(heads)) + "|"]
    for setting, rounds in product(SETTINGS, (ROUNDS, LONG)):
        cells = []
        for group, kind in product(groups.values(), KINDS):
            found = [row for row in rows if (row["setting"], row["rounds"]) == (setting, rounds) and group(row)]
            means = [row[kind]["mean"] for row in found]
            within = f"{np.mean(means):.3f} ({sum(mean <= GOAL for mean in means)} of {len(means)})"
            cells.append(spread(found[0][kind]) if len(found) == 1 else within)
        lines.append(f"| {setting} | {rounds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.onpo_noise", description=__doc__.strip().splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--language", type=int, default=0, help="seeds of the language models")
    parser.add_argument("--output", type=Path, default=RESULTS / "onpo_noise.json")
    parser.add_argument("--docs", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    record = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    record |= {"pairs": PAIRS, "goal": GOAL, "machine": machine()}
    parts = {"theory": theory_rows, "matrix": matrix_rows} if options.seeds else {}
    if options.language:
        from .language import language_rows

        parts["language"] = language_rows
    for part, rows in parts.items():
        began, found = time.monotonic(), []
        seeds = options.language if part == "language" else options.seeds
        chosen = f"--seeds 0 --language {seeds}" if part == "language" else f"--seeds {seeds}"
        for row in rows(seeds):
            print(json.dumps(row), flush=True)
            found.append(row)
        minutes = round((time.monotonic() - began) / 60, 1)
        record[part] = {"command": f"python -m benchmarks.onpo_noise {chosen}", "minutes": minutes, "rows": found}
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        for part, table in (("theory", theory_table), ("matrix", matrix_table), ("language", language_table)):
            fill(options.docs, f"{part} noise", table(record[part]["rows"]))


if __name__ == "__main__":
    main()
