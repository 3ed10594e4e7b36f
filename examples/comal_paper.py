# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
The synthetic experiment of COMAL (https://huggingface.co/papers/2410.23223), with exact updates.

    python examples/comal_paper.py

Three answers beat each other in a circle. From (.2, .5, .3), iterative IPO, iterative DPO and SPPO spiral out to the
edge, INPO stops at the equilibrium of the regularised game, and COMAL converges to the Nash policy (4, 3, 4)/11. Takes
a few seconds, and saves a page in `comal-paper/`, with figures if matplotlib is installed.
"""

from trl_nash.games import (
    MatrixGame,
    gap_figure,
    kl_divergence,
    nash_equilibrium,
    regularized_equilibrium,
    save_report,
    simplex_figure,
)
from trl_nash.games.solvers import comal, inpo, iterative_dpo, mirror_descent, sppo


GAME = MatrixGame(
    [
        [0.5, 0.1, 0.8],  # a beats c
        [0.9, 0.5, 0.1],  # b beats a
        [0.2, 0.9, 0.5],  # c beats b
    ]
)
START = [0.2, 0.5, 0.3]
ROUNDS = 2000
STEP_SIZE = 0.5
BETA = 0.1  # of the regularised game
REFERENCE_ROUNDS = 20  # COMAL's reference moves after as many

if __name__ == "__main__":
    setting = {"start": START, "rounds": ROUNDS, "step_size": STEP_SIZE}
    runs = {
        "iterative-ipo": mirror_descent(GAME, **setting),
        # Its loss is logistic, and σ(u) - ½ = u/4 near 0: DPO turns four times as fast at the same step.
        "iterative-dpo": iterative_dpo(GAME, **setting | {"step_size": STEP_SIZE / 4}),
        "sppo": sppo(GAME, **setting),
        "inpo": inpo(GAME, **setting, beta=BETA),
        "comal": comal(GAME, **setting, beta=BETA, reference_rounds=REFERENCE_ROUNDS),
    }
    nash = nash_equilibrium(GAME)
    regularized = regularized_equilibrium(GAME, START, BETA).policy
    print(f"Nash policy        {nash.round(4)}")
    print(f"regularised        {regularized.round(4)}, gap {GAME.duality_gap(regularized):.4f}\n")

    rows = [
        {
            "algorithm": name,
            **{f"gap @{t}": float(run.gaps[t]) for t in (100, 500, ROUNDS)},
            "KL from Nash": kl_divergence(nash, run.last),
            "last policy": " ".join(f"{probability:.3f}" for probability in run.last),
        }
        for name, run in runs.items()
    ]
    for row in [{column: column for column in rows[0]}, *rows]:
        print("".join(f"{f'{cell:.2g}' if isinstance(cell, float) else cell:<15}" for cell in row.values()))

    title = f"COMAL's synthetic experiment\nexact fits, {ROUNDS} rounds, step_size {STEP_SIZE}"
    marks = {"equilibrium": nash, "start": START, "targets": {"inpo": regularized}}

    def figures() -> dict:
        return {
            "gap": gap_figure({name: [run.gaps] for name, run in runs.items()}, title=title),
            "simplex": simplex_figure(
                {name: [run.policies] for name, run in runs.items()}, actions=GAME.actions, title=title, **marks
            ),
        }

    print("\nSaved", save_report("comal-paper", figures, rows, "COMAL's synthetic experiment"))
