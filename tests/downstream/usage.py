# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A program that uses the package, with every type that it relies on written out. mypy reads it (`make types`), as it
reads the programs of users; `test_usage.py` runs it.
"""

from collections.abc import Callable, Sequence

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


def main(folder: str) -> None:
    reward: Callable[..., list[float | None]] = as_reward_func(shorter_wins)
    assert reward(["?"] * 2, ["a", "bb"]) == [1.0, 0.0]
    for judge in judges()[:3]:
        verdicts: list[float] = judge(["?"], ["a"], ["bb"])
        assert verdicts == [1.0]
    prompts, step_size, fits = configs(folder)
    assert prompts == 8 and step_size == 2.0 and len(fits) == 1
    gap, history = game()
    assert abs(gap) < 1e-9 and len(history.gaps) == 41
    method: list[Fit] = onpo(Past(0), step_size=1.0)
    assert method and "peft" in pip_install("peft")


if __name__ == "__main__":
    main("usage")
