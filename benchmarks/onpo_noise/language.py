# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The part in which trainers play, at a constant learning rate; the average is one of weights."""

from collections.abc import Iterator

import numpy as np
import torch
from peft import LoraConfig

from trl_nash.games import GameCallback, LanguageGame, load_game, play

from .matrix import GIVEN, HALVING, PROPOSED, ROUNDS, START, TUNED, build_game, build_start, summary


CONSTANT = {"num_generations": 2, "lr_scheduler_type": "constant", "learning_rate": 3e-3}
STEP_2 = {**CONSTANT, "step_size": 2.0, "anchor_history": 5}
TWICE = {"max_steps": 2 * 20 * ROUNDS}  # 40 optimizer steps a round
# Algorithm, options and optimizer steps a round.
SETTINGS = {
    GIVEN: ("onpo", STEP_2, 20),
    PROPOSED: ("onpo", {**STEP_2, "step_size": 1.5, "anchor_history": 8}, 20),
    "step 2 falling to 1/2": ("onpo", {**STEP_2, "step_size": HALVING}, 20),
    "twice the passes": ("onpo", {**STEP_2, **TWICE, "num_iterations": 10}, 40),
    "two fits": ("onpo", {**CONSTANT, **TWICE, "step_size": 2.0, "fits": "two"}, 40),
    "learning rate falling to 0": ("onpo", {**STEP_2, "lr_scheduler_type": "linear"}, 20),
    "COMAL": ("comal", CONSTANT, 20),
}
CASES = (
    "LoRA",
    "two tokens",
    "two games",
    "rock-paper-scissors",
    "five-cycle .9",
    "random:4:1",
    "random:5:3",
)


class AverageOfWeights:
    """The gap of the model whose weights are the average of those after rounds 1 to t, round t with the weight t."""

    def __init__(self, every: int):
        self.every, self.weights, self.gaps, self.last = every, {}, [], []

    def __call__(self, watch: GameCallback) -> None:
        if (len(watch.gaps) - 1) % self.every or len(watch.gaps) == 1:
            return
        self.last.append(watch.gaps[-1])
        live = {name: p for name, p in watch.trainer.model.named_parameters() if p.requires_grad}
        for name, parameter in live.items():
            average = self.weights.setdefault(name, parameter.detach().clone())
            average.lerp_(parameter.detach(), 2 / (len(self.last) + 1))
        kept = {name: parameter.detach().clone() for name, parameter in live.items()}
        copy(self.weights, live)
        self.gaps.append(watch.game.duality_gap(watch.game.policies(watch.trainer.model)))
        copy(kept, live)


def copy(source: dict, target: dict) -> None:
    for name, parameter in target.items():
        parameter.data.copy_(source[name])


def language_case(name: str) -> tuple[LanguageGame, np.ndarray | dict, dict]:
    """Game, start and further arguments of `play`."""
    if name == "LoRA":
        lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        return LanguageGame(load_game(TUNED)), np.array(START), {"peft_config": lora, "learning_rate": 1e-2}
    if name == "two tokens":
        return LanguageGame(load_game(TUNED), tokens_per_answer=2), np.array(START), {}
    if name == "two games":
        first, second = load_game(TUNED), build_game("random:4:1")
        starts = {"choose one": np.array(START), "choose two": build_start("random:4:1", second)}
        return LanguageGame({"choose one": first, "choose two": second}), starts, {}
    game = build_game(name)
    return LanguageGame(game), build_start(name, game), {}


def language_rows(seeds: int) -> Iterator[dict]:
    """One row for each case and setting that trainers play."""
    torch.set_num_threads(1)
    cells = [(TUNED, setting) for setting in SETTINGS] + [(case, PROPOSED) for case in CASES]
    for name, setting in cells:
        algorithm, options, steps_per_round = SETTINGS[setting]
        last, averaged = [], []
        for seed in range(seeds):
            game, start, further = language_case(name)
            average = AverageOfWeights(steps_per_round // 20)
            play(game, algorithm, start=start, seed=seed, rounds=ROUNDS, on_reading=average, **{**options, **further})
            last.append(float(np.mean(average.last[-(ROUNDS // 5) :])))
            averaged.append(float(np.mean(average.gaps[-(ROUNDS // 5) :])))
        yield {
            "game": name,
            "setting": setting,
            "tuned": name == TUNED,
            **{
                kind: {**summary(gaps), "runs": [round(gap, 5) for gap in gaps]}
                for kind, gaps in (("last", last), ("average", averaged))
            },
        }
