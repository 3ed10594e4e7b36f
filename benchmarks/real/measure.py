# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run's readings mean: duality gaps of a cycle, win rates against the start, and the file of all results."""

import json
from pathlib import Path

import numpy as np

from trl_nash.evaluation.matrix import WinRateMatrix

from .judges import CYCLE, JUDGES
from .methods import METHODS, PROMPTS


def gaps(shares: np.ndarray) -> tuple[float, float]:
    """
    The duality gap `2 (max_y P(y ≻ π) - ½)` of shares of shape (prompts, classes): of their mean, against an opponent
    who does not see the prompt, and the mean of each prompt's own, against one who does.
    """
    values = 2 * (shares @ CYCLE.preferences.T - 0.5)
    return float(values.mean(0).max()), float(values.max(1).mean())


def win_rates(judge: str, answers: dict[str, list[str]], others: dict[str, list[str]]) -> np.ndarray:
    """Win rate of each prompt's answers against the other ones to it, of shape (prompts,)."""
    asked = [(p, a, b) for p, found in answers.items() for a in found for b in others[p]]
    verdicts = JUDGES[judge](*(list(column) for column in zip(*asked, strict=True)))
    rows = {prompt: [] for prompt in answers}
    for (prompt, _, _), verdict in zip(asked, verdicts, strict=True):
        rows[prompt].append(verdict)
    return np.array([np.mean(found) for found in rows.values()])


def quality(found: dict, starts: dict[str, list[str]]) -> float:
    """By what tries are compared: the gap (of the prompts' own), or the win rate against the start."""
    if found["judge"] == "cycle":
        return -float(np.mean([gaps(np.array(reading["shares"]))[1] for reading in found["readings"][-2:]]))
    return float(win_rates(found["judge"], _held_out(found, starts), starts).mean())


def _held_out(found: dict, starts: dict[str, list[str]]) -> dict[str, list[str]]:
    prompts = list(starts)[-len(found["answers"]) :]  # they were asked last
    return dict(zip(prompts, found["answers"], strict=True))


def measured(found: dict, starts: dict[str, list[str]]) -> dict:
    """The figures of a run that the record keeps."""
    readings, judge = found["readings"], found["judge"]
    curve = {name: [reading[name] for reading in readings] for name in ("pairs", "seconds")}
    if lengths := [row["completions/mean_length"] for row in found["log"] if "completions/mean_length" in row]:
        answers = PROMPTS * found["num_generations"] * METHODS[found["method"]].samplings
        curve["tokens"] = [0, *np.cumsum(np.multiply(answers, lengths)).round().astype(int).tolist()]
    kept = {"dtype": found["dtype"], "kl": found["kl"], "log": found["log"], "wall_seconds": found["seconds"]}
    if judge == "cycle":
        shares = [np.array(reading["shares"]) for reading in readings]
        mean, own = zip(*map(gaps, shares), strict=True)
        curve |= {
            "gap": np.round(mean, 5).tolist(),
            "gap_per_prompt": np.round(own, 5).tolist(),
            "shares": [np.round(one.mean(0), 5).tolist() for one in shares],
            "average_gap_per_prompt": round(gaps(np.mean(shares, 0))[1], 5),
        }
        summary = f"gap {mean[0]:.3f} -> {np.mean(mean[-5:]):.3f}, per prompt {own[0]:.3f} -> {np.mean(own[-5:]):.3f}"
        return {**curve, **kept, "summary": summary}
    rates = [win_rates(judge, reading["answers"], starts) for reading in readings[1:]]
    curve["win_rate"] = [round(float(rate.mean()), 4) for rate in rates]
    curve["win_rate_se"] = [round(float(rate.std(ddof=1) / len(rate) ** 0.5), 4) for rate in rates]
    answers = _held_out(found, starts)
    final = win_rates(judge, answers, starts)
    error = 1.96 * final.std(ddof=1) / len(final) ** 0.5
    summary = f"{100 * final.mean():.1f} % +- {100 * error:.1f} against the start, KL {found['kl']:.2f}"
    return {**curve, **kept, "answers": answers, "start": {p: starts[p] for p in answers}, "summary": summary}


def matrix(judge: str, pool: dict[str, dict[str, list[str]]]) -> WinRateMatrix:
    """Who beats whom on held-out prompts, of each method's answers."""
    names = list(pool)
    prompts = list(pool[names[-1]])
    p = np.full((len(prompts), len(names), len(names)), 0.5)
    for i, one in enumerate(names):
        for j, other in enumerate(names[:i]):
            some = {prompt: pool[one][prompt] for prompt in prompts}
            p[:, i, j] = win_rates(judge, some, pool[other])
            p[:, j, i] = 1 - p[:, i, j]
    lengths = [[np.mean([len(answer) for answer in pool[name][prompt]]) for name in names] for prompt in prompts]
    return WinRateMatrix(names, p, lengths)


def read(file: Path) -> dict:
    """The record of all runs, or one without any."""
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    return {"command": "python -m benchmarks.real", "tries": [], "results": []}


def write(file: Path, record: dict, result: dict, tries: list[dict]) -> dict:
    """Puts a run and its tries in the record, in the place of the same ones before."""
    kept = ("judge", "method", "passes", "num_generations", "step_size", "lr_scheduler_type")
    for kind, rows, names in (
        ("tries", tries, (*kept, "learning_rate")),
        ("results", [result], (*kept, "rounds", "seed")),
    ):
        merged = {tuple(row[name] for name in names): row for row in [*record[kind], *rows]}
        record[kind] = list(merged.values())
    file.parent.mkdir(parents=True, exist_ok=True)
    head = json.dumps({"command": record["command"], "tries": record["tries"]}, indent=1)
    lines = ",\n".join(json.dumps(row) for row in record["results"])  # a run a line: its readings are many
    file.write_text(f'{head[:-2]},\n "results": [\n{lines}\n]}}\n', encoding="utf-8")
    return record
