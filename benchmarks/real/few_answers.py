# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
How far rounds of COMAL moved classes on the cycle that were rare, and what the number of answers to a prompt leaves of
it if nothing else is wrong: a table of three log-probs for each prompt, whose classes go a share of the way to their
targets if a round has sampled them.

    python -m benchmarks.real.few_answers

It prints the figures of docs/background/real_model.md; a minute or two on one core.
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
BINS = [0.02, 0.05, 0.1, 0.2, 0.5, 0.8]  # of a class's share


def ways(shares: np.ndarray, step: float, rho: float, reference_rounds: int) -> list[float]:
    """
    The share of its way to a round's target that the log-odds of a class went, by least squares, for classes whose
    share lay between two of `BINS`; `shares` has shape (rounds + 1, prompts, 3).
    """
    logps, found = np.log(shares), []
    for number, policy in enumerate(shares[:-1]):
        reference = logps[number - number % reference_rounds]
        target = step * policy @ CYCLE.preferences.T + rho * (reference - logps[number])
        for k in range(3):
            others = np.delete(policy, k, 1) / np.delete(policy, k, 1).sum(1, keepdims=True)
            wanted, went = (
                change[:, k] - (others * np.delete(change, k, 1)).sum(1)
                for change in (target, logps[number + 1] - logps[number])
            )
            found += zip(np.digitize(policy[:, k], BINS), wanted, went, strict=True)
    place, wanted, went = np.array(found).T
    return [
        float((wanted * went)[place == bin].sum() / (wanted**2)[place == bin].sum()) for bin in range(1, len(BINS))
    ]


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
    shares = np.array(json.loads((RESULTS / "real_model_cycle_tries.json").read_text())["comal_shares"])
    shares /= shares.sum(-1, keepdims=True)
    for low, high, way in zip(BINS[:-1], BINS[1:], ways(shares, *SETTINGS[0]), strict=True):
        print(f"classes with a share of {low:g} to {high:g} went {way:.2f} of their way")
    for setting in SETTINGS:
        for answers in ANSWERS:
            found = np.array([play(shares[0], *setting, answers, seed) for seed in range(SEEDS)])
            mean, own = found.mean(0)
            low, high = np.quantile(found[:, 0], [0.05, 0.95])
            print(
                f"step, rho, K {setting}, {answers} answers: gap of the mean {mean:.2f} (9 of 10 runs {low:.2f} to "
                f"{high:.2f}), of a prompt {own:.2f}"
            )


if __name__ == "__main__":
    main()
