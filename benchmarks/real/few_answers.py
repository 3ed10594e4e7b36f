# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What the number of answers to a prompt leaves of COMAL on the cycle, if nothing else is wrong: a table of three
log-probs for each prompt, whose classes go a share of the way to their targets if a round has sampled them.

    python -m benchmarks.real.few_answers

It prints the gaps of docs/background/real_model.md; a minute or two on one core.
"""

import json

import numpy as np
from scipy.special import softmax

from benchmarks import RESULTS

from .judges import CYCLE
from .measure import gaps


SETTINGS = [(6, 3 / 4, 6), (8, 0.9, 8), (10, 1, 6)]  # step, ρ, rounds after which the reference moves
ANSWERS = (8, 32, 128)
SHARE = 0.65  # of the way that a class goes in a round that has sampled it
ROUNDS, LAST, SEEDS = 30, 5, 400


def play(starts: np.ndarray, step: float, rho: float, reference_rounds: int, answers: int, seed: int) -> np.ndarray:
    """Gap of the mean and mean gap of a prompt, in the mean of the last rounds; `starts` has shape (prompts, 3)."""
    rng = np.random.default_rng(seed)
    logps, found = np.log(starts), []
    for number in range(ROUNDS):
        if number % reference_rounds == 0:
            reference = logps
        counts = rng.multinomial(answers, softmax(logps, axis=1))
        weights = counts / answers
        target = step * weights @ CYCLE.preferences.T + rho * _centred(reference - logps)
        target -= (weights * target).sum(1, keepdims=True)
        logps = logps + SHARE * np.where(counts > 0, target, 0)
        found.append(gaps(softmax(logps, axis=1)))
    return np.mean(found[-LAST:], 0)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(1, keepdims=True)


def main() -> None:
    starts = np.array(json.loads((RESULTS / "real_model_cycle_tries.json").read_text())["start_shares"])
    starts /= starts.sum(1, keepdims=True)
    for setting in SETTINGS:
        for answers in ANSWERS:
            found = np.array([play(starts, *setting, answers, seed) for seed in range(SEEDS)])
            mean, own = found.mean(0)
            low, high = np.quantile(found[:, 0], [0.05, 0.95])
            print(
                f"step, rho, K {setting}, {answers} answers: gap of the mean {mean:.2f} (9 of 10 runs {low:.2f} to "
                f"{high:.2f}), of a prompt {own:.2f}"
            )


if __name__ == "__main__":
    main()
