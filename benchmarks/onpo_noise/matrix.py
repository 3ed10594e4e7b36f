# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The part on matrix games, where a fit is least squares on sampled pairs."""

from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax
from scipy.stats import t as student

from trl_nash.algorithms import Method, Past, inpo, mnpo, onpo
from trl_nash.games import MatrixGame, load_game, nash_equilibrium, rotation_rate


GIVEN, PROPOSED = "step 2, 5 policies", "step 1.5, 8 policies"
PAIRS, ROUNDS, LONG = 512, 80, 300
GOAL = 0.06
RARE = 0.1  # at the equilibrium; on its way there a policy gives such answers less, and chance can lose them
KINDS = ("last", "average")
TUNED, START = "comal-cycle", (0.2, 0.5, 0.3)
NAMED = ("rock-paper-scissors", "raters", "dice", "weak-edge", "condorcet", "five-cycle .9", "five-cycle .7")
RANDOM = (*(f"random:4:{seed}" for seed in range(10)), *(f"random:5:{seed}" for seed in range(6)), "random:8:1")
DAMPED = [0.2 * 0.8**age for age in range(15)] + [0.8**15]  # optimism of four steps for one that is kept
HALVING = [2 - 1.5 * t / (ROUNDS - 1) for t in range(ROUNDS)]

SETTINGS: dict[str, tuple[Method, int | None]] = {  # with the rounds after which the reference moves
    GIVEN: (partial(onpo, step_size=2.0, anchor_history=5), None),
    "step 2, 3 policies": (partial(onpo, step_size=2.0, anchor_history=3), None),
    "step 2, all policies": (partial(onpo, step_size=2.0), None),
    PROPOSED: (partial(onpo, step_size=1.5, anchor_history=8), None),
    "step 1, 8 policies": (partial(onpo, step_size=1.0, anchor_history=8), None),
    "step 2 falling to 1/2, 8 policies": (
        lambda past: onpo(past, step_size=HALVING[min(past.round, ROUNDS - 1)], anchor_history=8),
        None,
    ),
    "kept step .6, optimism 2.4": (partial(mnpo, step_size=3.0, beta=0.0, history_weights=DAMPED), None),
    "COMAL": (partial(inpo, step_size=2.0, beta=1 / 6), 6),
}


def build_game(name: str) -> MatrixGame:
    """A game of `load_game`, or five answers in a circle of which each beats the next two."""
    kind, _, win_rate = name.partition(" ")
    if kind != "five-cycle":
        return load_game(name)
    ahead = (np.arange(5) - np.arange(5)[:, None]) % 5
    return MatrixGame(np.select([ahead == 0, ahead <= 2], [0.5, float(win_rate)], 1 - float(win_rate)))


def build_start(name: str, game: MatrixGame) -> np.ndarray:
    """Not the equilibrium, nor near it."""
    weights = np.array(START) if name == TUNED else np.arange(1.0, len(game) + 1)
    return weights / weights.sum()


def sampled_advantages(game: MatrixGame, logs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """What a fit of `SampledPairs` adds to its centre per unit of step, for S runs at once: logs of shape (S, N)."""
    size, policies = len(game), np.exp(logs)
    chances = (policies[:, :, None] * policies[:, None, :]).reshape(len(logs), -1)
    counts = generator.multinomial(PAIRS, chances / chances.sum(axis=1, keepdims=True)).reshape(-1, size, size)
    counts = counts + counts.transpose(0, 2, 1)
    wins = (counts * game.advantage).sum(axis=2)
    laplacians = counts.sum(axis=2)[:, :, None] * np.eye(size) - counts
    return np.einsum("sij,sj->si", np.linalg.pinv(laplacians, hermitian=True), wins)


def run(
    game: MatrixGame, start: np.ndarray, method: Method, seeds: int, reference_rounds: int | None = None
) -> np.ndarray:
    """Log-policies of shape (seeds, LONG + 1, N); with no seeds those of exact fits, (1, LONG + 1, N)."""
    generator, logs = np.random.default_rng(0), [np.tile(np.log(start), (max(seeds, 1), 1))]
    for t in range(LONG):
        (fit,) = method(Past(t, reference_rounds))
        centre = sum(weight * logs[max(policy.round, 0)] for policy, weight in fit.centre.items())
        exact = np.exp(logs[-1]) @ game.advantage.T
        advantages = sampled_advantages(game, logs[-1], generator) if seeds else exact
        logs.append(log_softmax(centre + fit.step_size * advantages, axis=1))
    return np.stack(logs, axis=1)


def averages(values: np.ndarray) -> np.ndarray:
    """The averages so far, of rounds 1 to t, round t with the weight t: (S, T + 1, N) to (S, T, N)."""
    weights = np.arange(1, values.shape[1])[:, None]
    return (values[:, 1:] * weights).cumsum(axis=1) / weights.cumsum(axis=0)


def tail_gaps(game: MatrixGame, logs: np.ndarray) -> dict[str, np.ndarray]:
    """Mean gaps of the last 20 % of rounds, shape (S,): of the policies, of averages in logs and in probabilities."""
    policies, tail = np.exp(logs), (logs.shape[1] - 1) // 5
    kinds = {
        "last": policies,
        "average": np.exp(log_softmax(averages(logs), axis=-1)),
        "mean": averages(policies),
    }
    return {kind: 2 * (kept[:, -tail:] @ game.advantage.T).max(-1).mean(-1) for kind, kept in kinds.items()}


def summary(gaps: ArrayLike) -> dict[str, float]:
    """Mean with its 95 % interval (Student's), extremes, and the share of runs within the goal."""
    values = np.array(gaps)
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    found = {"mean": values.mean(), "low": values.mean() - half, "high": values.mean() + half}
    found |= {"smallest": values.min(), "largest": values.max(), "within": (values <= GOAL).mean()}
    return {"n": len(values), **{key: round(float(value), 5) for key, value in found.items()}}


def matrix_rows(seeds: int) -> Iterator[dict]:
    """One row for each game and setting."""
    for name in (TUNED, *NAMED, *RANDOM):
        game = build_game(name)
        start, nash = build_start(name, game), nash_equilibrium(game)
        facts = {
            "game": name,
            "tuned": name == TUNED,
            "kappa": round(rotation_rate(game, nash), 4),
            "rarest": round(float(nash[nash > 1e-9].min()), 4),
            "start_gap": round(float(game.duality_gap(start)), 4),
        }
        for setting, (method, reference_rounds) in SETTINGS.items():
            exact, sampled = (run(game, start, method, count, reference_rounds) for count in (0, seeds))
            for rounds in (ROUNDS, LONG):
                found = tail_gaps(game, sampled[:, : rounds + 1])
                limit = tail_gaps(game, exact[:, : rounds + 1])
                yield {
                    **facts,
                    "setting": setting,
                    "rounds": rounds,
                    "exact": {kind: round(float(gaps[0]), 5) for kind, gaps in limit.items()},
                    **{kind: summary(gaps) for kind, gaps in found.items()},
                }


def one_round_gap(game: MatrixGame, draws: int = 20_000) -> float:
    """2 E max_y of the error of the win rates against the equilibrium, fitted to the pairs of one round."""
    nash = nash_equilibrium(game)
    errors = sampled_advantages(game, np.tile(np.log(nash), (draws, 1)), np.random.default_rng(0))
    return float(2 * (errors - errors @ nash[:, None]).max(axis=1).mean())


def theory_rows(seeds: int) -> Iterator[dict]:
    """The stationary gap of the last policy and of the average, predicted and met, with all policies in the anchor."""
    game = load_game(TUNED)
    nash, unit = nash_equilibrium(game), one_round_gap(game)
    kappa = rotation_rate(game, nash)
    for step in (0.5, 1.0, 1.5, 2.0, 2.4):
        turn = step * kappa
        method = partial(onpo, step_size=step)
        found = tail_gaps(game, run(game, nash, method, seeds))
        yield {
            "step": step,
            "turn": round(turn, 4),
            "one_round": round(unit, 5),
            "last_predicted": round(unit * np.sqrt((1 + 3 * turn**2) / (1 - 3 * turn**2)), 5),
            "average_predicted": round(unit * np.sqrt(4 / (3 * 0.9 * LONG)), 5),  # 0.9: the middle of the last 20 %
            **{kind: summary(found[kind]) for kind in KINDS},
        }
