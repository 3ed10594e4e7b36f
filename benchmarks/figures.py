# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Draws the figures of the documentation anew, from what benchmarks have recorded in benchmarks/results; nothing is
trained. Simulations are played again, in seconds. Each figure is two SVGs without a ground, for light and dark pages.

    python -m benchmarks.figures
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks import RESULTS, ROOT
from benchmarks.logprob import report
from trl_nash.cli.simulate import parse, simulation_of
from trl_nash.figures.svg import save_schemes
from trl_nash.games import load_game, nash_equilibrium
from trl_nash.games.plots import gap_figure, simplex_figure
from trl_nash.games.simulation.report import draw


IMAGES = ROOT / "docs" / "images"
SIMULATIONS = {
    "default": [],
    "pairs": ["--pairs", "512", "--seeds", "3"],
    "step-3": ["--step_size", "3"],
    "two-turns": "--game two-turns --step_size 2 --beta 0.1667 --reference_rounds 6 --rounds 200".split(),
}
SHOWN = ("default-gap", "default-simplex", "pairs-gap", "step-3-gap", "two-turns-gap")  # on a page
# The rows of language_games.py and what they are called; of GRPO the best of four learning rates.
CONTEST = {
    "comal": "comal",
    "onpo": "onpo",
    "inpo": "inpo",
    "nash-md": "nash-md",
    "iterative-ipo": "iterative-ipo",
    "online-dpo": "online-dpo",
    "grpo, rate 1e-4": "grpo",
}
README = ("comal", "onpo", "iterative-ipo", "grpo")
SMOOTH = 5  # rounds


def simulated(folder: Path) -> None:
    """What `trl-nash simulate` draws."""
    for name, argv in SIMULATIONS.items():
        simulation = simulation_of(parse(argv))
        for outcome in simulation.outcomes:
            for seed in range(simulation.seeds):
                simulation.run(outcome, seed)
        for kind, figure in draw(simulation).items():
            if f"{name}-{kind}" in SHOWN:
                save_schemes(folder, f"{name}-{kind}", figure)


def trained(folder: Path) -> None:
    """Language models on COMAL's cycle."""
    from trl_nash.games.language import LanguageGame
    from trl_nash.games.players import own_equilibrium

    record = json.loads((RESULTS / "language_games.json").read_text(encoding="utf-8"))
    runs = [run for run in record["results"] if run["case"] == "one token" and run["algorithm"] in CONTEST]
    gaps, paths = (
        {CONTEST[row]: [r[name] for r in runs if r["algorithm"] == row] for row in CONTEST}
        for name in ("gaps", "policies")
    )
    game, start = load_game("comal-cycle"), np.array(runs[0]["policies"][0])
    own = {name: own_equilibrium(LanguageGame(game), name, start) for name in ("inpo", "nash-md")}
    own = {name: next(iter(policies.values())) for name, policies in own.items()}
    seeds = {len(found) for found in gaps.values()}
    if len(seeds) > 1:
        raise SystemExit("language_games.json has more seeds of some algorithms than of others: run it for all.")
    setting = f"{record['rounds']} rounds of 512 prompts, {seeds.pop()} seeds (band); mean of {SMOOTH} rounds"
    save_schemes(
        folder,
        "language-games-gap",
        gap_figure(
            gaps,
            targets={name: game.duality_gap(policy) for name, policy in own.items()},
            title=f"Language models on comal-cycle\n{setting}",
            smooth=SMOOTH,
        ),
    )
    first = {name: found[:1] for name, found in paths.items()}
    save_schemes(
        folder,
        "language-games-simplex",
        simplex_figure(
            first,
            equilibrium=nash_equilibrium(game),
            actions=game.actions,
            start=start,
            targets=own,
            title=f"Language models on comal-cycle\n{record['rounds']} rounds of 512 prompts, the first seed",
        ),
    )
    save_schemes(
        folder,
        "readme-gap",
        gap_figure(
            {name: gaps[name] for name in README},
            title=f"Language models on a cyclic preference\n{setting}",
            smooth=SMOOTH,
        ),
    )


def measured(folder: Path) -> None:
    """Time and memory of the kernel on a CPU."""
    report.save_figures(json.loads((RESULTS / "logprob_cpu.json").read_text(encoding="utf-8")), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder that they are written to")
    options = parser.parse_args()
    for draw_some in (simulated, trained, measured):
        draw_some(options.images)


if __name__ == "__main__":
    main()
