# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What a pairing costs in accuracy at equal judge calls: how far the fit of a round is from the step that was asked for,
on games whose preferences add up, cycle, or are a mixture of both. The fits are those of `trl_nash.games.sampled`.

    python -m benchmarks.pairings

writes benchmarks/results/pairings.json. The error is the mean over rounds of `Σ π (step - exact step)²`, both without
their mean; a call is a pair of different answers that the judge is asked.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks import RESULTS
from trl_nash.games import MatrixGame, load_game
from trl_nash.games.sampled import SampledPairs
from trl_nash.rounds.pairings import PAIR_SELECTIONS, pairing_of


SIZED = ("random", "active")


def games() -> dict[str, MatrixGame]:
    """Three kinds of preferences: a cycle, those of a reward, and the mean of these and of random ones."""
    generator = np.random.default_rng(0)
    strength, noise = generator.normal(0, 2, 20), generator.uniform(-0.45, 0.45, (20, 20))
    reward = 1 / (1 + np.exp(strength - strength[:, None]))
    return {
        "comal-cycle": load_game("comal-cycle"),
        "reward": MatrixGame(reward),
        "mixture": MatrixGame((reward + 0.5 + (noise - noise.T) / 2) / 2),
    }


def errors(
    game: MatrixGame, selection: str, *, label: str, calls: int, rounds: int, count: int = 8, pairs: int = 8
) -> dict:
    """
    The error of the fit of a round that has so many judge calls on average: its mean over rounds, and the deviation
    of that mean.
    """
    policy = np.random.default_rng(5).dirichlet(np.full(len(game), 2.0))
    exact = game.preferences @ policy
    per_prompt = pairs if selection in SIZED else None
    trained = pairing_of(selection, per_prompt).trained(count)

    def sampler(prompts: int, seed: int) -> SampledPairs:
        return SampledPairs(
            game,
            pairs=prompts * trained,
            pair_selection=selection,
            pairs_per_prompt=per_prompt,
            num_generations=count,
            preference_label=label,
            seed=seed,
        )

    pilot = sampler(2000, rounds)
    pilot.sample(np.log(policy))
    prompts = max(1, round(calls / (pilot.judge_calls / 2000)))
    found, asked = [], 0
    for seed in range(rounds):
        fit = sampler(prompts, seed)
        miss = fit(np.log(policy))(np.zeros(len(game)), 1.0) - exact
        found.append(float(policy @ (miss - miss.mean()) ** 2))
        asked += fit.judge_calls
    return {
        "error": float(np.mean(found)),
        "deviation": float(np.std(found) / np.sqrt(rounds)),
        "prompts": prompts,
        "calls": asked / rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=400, help="judge calls of a round")
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--pairs_per_prompt", type=int, default=8)
    parser.add_argument("--output", type=Path, default=RESULTS / "pairings.json")
    options = parser.parse_args()
    results = []
    for label in ("soft", "sampled"):
        print(f"\n{label} labels: 1000 x error (± deviation)")
        print(f"{'':12}" + "".join(f"{name:>22}" for name in games()))
        for selection in PAIR_SELECTIONS:
            cells = []
            for name, game in games().items():
                found = errors(
                    game,
                    selection,
                    label=label,
                    calls=options.calls,
                    rounds=options.rounds,
                    count=options.num_generations,
                    pairs=options.pairs_per_prompt,
                )
                results.append({"game": name, "label": label, "pairing": selection, **found})
                cells.append(f"{1e3 * found['error']:.3f} ± {1e3 * found['deviation']:.3f}")
            print(f"{selection:12}" + "".join(f"{cell:>22}" for cell in cells), flush=True)
    record = {name: getattr(options, name) for name in ("calls", "rounds", "num_generations", "pairs_per_prompt")}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(record | {"results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
