# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What 512 sampled pairs a round leave of ONPO: its last policy and its average, at several steps and histories.

On matrix games a fit is least squares on sampled pairs, and the game that the settings were chosen on (COMAL's cycle)
stands beside games that they were not. With `--language` the trainers play, at a constant learning rate, and the
average is one of weights. Every gap is exact, read from the policies.

    python benchmarks/onpo_noise.py --seeds 30 --language 3 --docs docs/onpo.md
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from measuring import fill, machine
from scipy.special import log_softmax

from trl_nash.algorithms import Method, Past, inpo, mnpo, onpo
from trl_nash.games import GameCallback, LanguageGame, MatrixGame, SampledPairs, load_game, nash_equilibrium
from trl_nash.games import play, rotation_rate


RESULTS = Path(__file__).parent / "results" / "onpo_noise.json"
GIVEN, PROPOSED = "step 2, 5 policies", "step 1.5, 8 policies"
PAIRS, ROUNDS, LONG = 512, 80, 300
GOAL = 0.06
RARE = 0.1  # of 512 pairs a tenth has the answer: below that, chance can lose it
KINDS = ("last", "average")
TUNED, START = "comal-cycle", (0.2, 0.5, 0.3)
NAMED = ("rock-paper-scissors", "raters", "dice", "weak-edge", "condorcet", "five-cycle .9", "five-cycle .7")
RANDOM = (*(f"random:4:{seed}" for seed in range(10)), *(f"random:5:{seed}" for seed in range(6)), "random:8:1")
DAMPED = [0.2 * 0.8**age for age in range(15)] + [0.8**15]  # optimism of four steps for one that is kept
HALVING = [2 - 1.5 * t / (ROUNDS - 1) for t in range(ROUNDS)]


def steps(past: Past) -> float:
    return HALVING[min(past.round, ROUNDS - 1)]


SETTINGS: dict[str, tuple[Method, int | None]] = {  # with the rounds after which the reference moves
    GIVEN: (partial(onpo, step_size=2.0, anchor_history=5), None),
    "step 2, 3 policies": (partial(onpo, step_size=2.0, anchor_history=3), None),
    "step 2, all policies": (partial(onpo, step_size=2.0), None),
    PROPOSED: (partial(onpo, step_size=1.5, anchor_history=8), None),
    "step 1, 8 policies": (partial(onpo, step_size=1.0, anchor_history=8), None),
    "step 2 falling to 1/2, 8 policies": (lambda past: onpo(past, step_size=steps(past), anchor_history=8), None),
    "kept step .6, optimism 2.4": (partial(mnpo, step_size=3.0, beta=0.0, history_weights=DAMPED), None),
    "COMAL": (partial(inpo, step_size=2.0, beta=1 / 6), 6),
}

CONSTANT = {"num_generations": 2, "lr_scheduler_type": "constant", "learning_rate": 3e-3}
STEP_2 = {**CONSTANT, "step_size": 2.0, "anchor_history": 5}
TWICE = {"max_steps": 2 * 20 * ROUNDS}  # 40 optimizer steps a round
# Algorithm, options and optimizer steps a round.
LANGUAGE_SETTINGS = {
    GIVEN: ("onpo", STEP_2, 20),
    PROPOSED: ("onpo", {**STEP_2, "step_size": 1.5, "anchor_history": 8}, 20),
    "step 2 falling to 1/2": ("onpo", {**STEP_2, "step_size": HALVING}, 20),
    "twice the passes": ("onpo", {**STEP_2, **TWICE, "num_iterations": 10}, 40),
    "two fits": ("onpo", {**CONSTANT, **TWICE, "step_size": 2.0, "fits": "two"}, 40),
    "learning rate falling to 0": ("onpo", {**STEP_2, "lr_scheduler_type": "linear"}, 20),
    "COMAL": ("comal", CONSTANT, 20),
}
LANGUAGE_CASES = (
    "LoRA",
    "two tokens",
    "two games",
    "rock-paper-scissors",
    "five-cycle .9",
    "random:4:1",
    "random:5:3",
)


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


def run(
    game: MatrixGame, start: np.ndarray, method: Method, seed: int | None, reference_rounds: int | None = None
) -> np.ndarray:
    """Log-policies of shape (LONG + 1, N); without a seed the fits are exact."""
    pairs = None if seed is None else SampledPairs(game, pairs=PAIRS, seed=seed)
    logs = [np.log(start)]
    for t in range(LONG):
        (fit,) = method(Past(t, reference_rounds))
        centre = sum(weight * logs[max(policy.round, 0)] for policy, weight in fit.centre.items())
        if pairs is None:
            logs.append(log_softmax(centre + fit.step_size * (game.advantage @ np.exp(logs[-1]))))
        else:
            logs.append(pairs(logs[-1])(centre, fit.step_size))
    return np.array(logs)


def averages(values: np.ndarray) -> np.ndarray:
    """The averages so far, of shape (T, N): of rounds 1 to t, round t with the weight t."""
    weights = np.arange(1, len(values))[:, None]
    return (values[1:] * weights).cumsum(axis=0) / weights.cumsum(axis=0)


def tail_gaps(game: MatrixGame, logs: np.ndarray) -> dict[str, float]:
    """Mean gaps of the last 20 % of rounds: of the policies, of their averages in logs and in probabilities."""
    policies, rounds = np.exp(logs), len(logs) - 1
    kinds = {
        "last": policies[1:],
        "average": np.exp(log_softmax(averages(logs), axis=1)),
        "mean": averages(policies),
    }
    return {
        kind: float((2 * (values[-(rounds // 5) :] @ game.advantage.T).max(axis=1)).mean())
        for kind, values in kinds.items()
    }


def summary(gaps: list[float]) -> dict[str, float]:
    """Mean with its 95 % interval (normal), extremes and the share of runs within the goal."""
    values = np.array(gaps)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
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
            exact, *runs = (run(game, start, method, seed, reference_rounds) for seed in (None, *range(seeds)))
            for rounds in (ROUNDS, LONG):
                found = [tail_gaps(game, logs[: rounds + 1]) for logs in runs]
                yield {
                    **facts,
                    "setting": setting,
                    "rounds": rounds,
                    "exact": tail_gaps(game, exact[: rounds + 1]),
                    **{kind: summary([gaps[kind] for gaps in found]) for kind in found[0]},
                }


def one_round_gap(game: MatrixGame, draws: int = 20_000) -> float:
    """2 E max_y of the error of the win rates against the equilibrium, fitted to the pairs of one round."""
    pairs, log_nash = SampledPairs(game, pairs=PAIRS), np.log(nash_equilibrium(game))
    errors = [pairs(log_nash)(np.zeros(len(game)), 1.0) for _ in range(draws)]
    centred = np.array(errors) - np.array(errors) @ np.exp(log_nash)[:, None]
    return float(2 * centred.max(axis=1).mean())


def theory_rows(seeds: int) -> Iterator[dict]:
    """The stationary gap of the last policy and of the average, predicted and met, with all policies in the anchor."""
    game = load_game(TUNED)
    nash, unit = nash_equilibrium(game), one_round_gap(game)
    kappa = rotation_rate(game, nash)
    for step in (0.5, 1.0, 1.5, 2.0, 2.4):
        turn = step * kappa
        method = partial(onpo, step_size=step)
        found = [tail_gaps(game, run(game, nash, method, seed)) for seed in range(seeds)]
        yield {
            "step": step,
            "turn": round(turn, 4),
            "one_round": round(unit, 5),
            "last_predicted": round(unit * np.sqrt((1 + 3 * turn**2) / (1 - 3 * turn**2)), 5),
            "average_predicted": round(unit * np.sqrt(4 / (3 * 0.9 * LONG)), 5),  # 0.9: the middle of the last 20 %
            "last": summary([gaps["last"] for gaps in found]),
            "average": summary([gaps["average"] for gaps in found]),
        }


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
        from peft import LoraConfig

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
    import torch

    torch.set_num_threads(1)
    cells = [(TUNED, setting) for setting in LANGUAGE_SETTINGS] + [(case, PROPOSED) for case in LANGUAGE_CASES]
    for name, setting in cells:
        algorithm, options, steps_per_round = LANGUAGE_SETTINGS[setting]
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
            "last": {**summary(last), "runs": [round(gap, 5) for gap in last]},
            "average": {**summary(averaged), "runs": [round(gap, 5) for gap in averaged]},
        }


def language_table(rows: list[dict]) -> str:
    """Mean, smallest and largest of the seeds."""
    lines = ["| game | setting | n | last policy | average of weights |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{row[kind]['mean']:.3f} ({min(row[kind]['runs']):.3f} to {max(row[kind]['runs']):.3f})" for kind in KINDS
        ]
        lines.append(f"| {row['game']} | {row['setting']} | {row['last']['n']} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def matrix_table(rows: list[dict]) -> str:
    """The game that was tuned on, with 95 % intervals; of the others the mean and in how many it is within the goal."""
    lines = [
        "| setting | rounds | COMAL's cycle: last | average | other games: last | average | with rare answers: last | average |",
        "|---|---|---|---|---|---|---|---|",
    ]
    groups = (
        lambda row: row["tuned"],
        lambda row: not row["tuned"] and row["rarest"] >= RARE,
        lambda row: row["rarest"] < RARE,
    )
    for setting in SETTINGS:
        for rounds in (ROUNDS, LONG):
            here = [row for row in rows if (row["setting"], row["rounds"]) == (setting, rounds)]
            cells = []
            for index, group in enumerate(groups):
                for kind in KINDS:
                    found = [row[kind] for row in here if group(row)]
                    means = [gaps["mean"] for gaps in found]
                    within = f"{sum(mean <= GOAL for mean in means)} of {len(means)}"
                    half = found[0]["high"] - found[0]["mean"]
                    cells.append(f"{np.mean(means):.3f} " + (f"({within})" if index else f"± {half:.3f}"))
            lines.append(f"| {setting} | {rounds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument(
        "--language", type=int, default=0, help="seeds of each language model; 0 leaves them as they are"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--docs", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    record = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    record |= {"command": "python benchmarks/onpo_noise.py", "pairs": PAIRS, "goal": GOAL, "machine": machine()}
    parts = {"theory": theory_rows, "matrix": matrix_rows} if options.seeds else {}
    if options.language:
        parts["language"] = language_rows
    for part, rows in parts.items():
        began, found = time.monotonic(), []
        for row in rows(options.language if part == "language" else options.seeds):
            print(json.dumps(row), flush=True)
            found.append(row)
        record[part] = {"minutes": round((time.monotonic() - began) / 60, 1), "rows": found}
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        fill(options.docs, "language noise", language_table(record["language"]["rows"]))
        fill(options.docs, "matrix noise", matrix_table(record["matrix"]["rows"]))


if __name__ == "__main__":
    main()
