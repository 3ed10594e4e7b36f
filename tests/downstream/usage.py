# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A program that uses the package, with every type that it relies on written out. mypy reads it (`make types`), as it
reads the programs of users; `test_usage.py` runs it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from trl_nash import (
    CallableJudge,
    COMALConfig,
    EnsembleJudge,
    ONPOConfig,
    PairwiseJudge,
    as_reward_func,
    load_judge,
)
from trl_nash.algorithms import Fit, Past, onpo
from trl_nash.extras import pip_install
from trl_nash.games import History, MatrixGame, load_game, nash_equilibrium
from trl_nash.games.solvers import comal


def shorter_wins(prompts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> list[float]:
    return [float(len(a) < len(b)) for a, b in zip(first, second, strict=True)]


class Shortest(PairwiseJudge):
    symmetric = True

    def judge(self, prompts: list[str], first: list[str], second: list[str]) -> list[float]:
        return shorter_wins(prompts, first, second)


def judges() -> list[PairwiseJudge]:
    mixture: EnsembleJudge = EnsembleJudge([Shortest(), shorter_wins], weights=[1.0, 3.0], rule="mean")
    return [Shortest(), CallableJudge(shorter_wins, symmetric=True), mixture, load_judge("random")]


def configs(folder: str) -> tuple[int, list[float] | float, list[Fit]]:
    comal_config = COMALConfig(output_dir=folder, step_size=[2.0], reference_rounds=6, bf16=False, use_cpu=True)
    onpo_config = ONPOConfig(output_dir=folder, anchor_history=3, bf16=False, use_cpu=True)
    past: Past = onpo_config.past(2)
    prompts: int = comal_config.prompts_per_round
    return prompts, comal_config.step_size, onpo_config.fits_of(past)


def game() -> tuple[float, History]:
    cycle: MatrixGame = load_game("comal-cycle")
    equilibrium: np.ndarray = nash_equilibrium(cycle)
    history: History = comal(cycle, start=[0.2, 0.5, 0.3], rounds=40, step_size=0.5, beta=0.1, reference_rounds=20)
    gap: float = cycle.duality_gap(equilibrium)
    return gap, history


class Found(NamedTuple):
    """What the program finds; `test_usage.py` knows what that must be."""

    rewards: list[float | None]
    verdicts: list[list[float]]
    prompts: int
    step_size: list[float] | float
    fits: list[Fit]
    gap: float
    gaps: int
    method: list[Fit]
    command: str


def main(folder: str) -> Found:
    reward: Callable[..., list[float | None]] = as_reward_func(shorter_wins)
    verdicts: list[list[float]] = [judge(["?"], ["a"], ["bb"]) for judge in judges()[:3]]
    prompts, step_size, fits = configs(folder)
    gap, history = game()
    method: list[Fit] = onpo(Past(0), step_size=1.0)
    return Found(
        rewards=reward(["?"] * 2, ["a", "bb"]),
        verdicts=verdicts,
        prompts=prompts,
        step_size=step_size,
        fits=fits,
        gap=gap,
        gaps=len(history.gaps),
        method=method,
        command=pip_install("peft"),
    )


if __name__ == "__main__":
    print(main("usage"))
