# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash simulate` prints and writes."""

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...figures.style import figures_missing
from ..dialogues.game import DialogueGame
from ..plots import gap_figure, save_report, simplex_figure
from .simulation import Outcome, Simulation


if TYPE_CHECKING:
    from matplotlib.figure import Figure


def print_facts(console: Console, simulation: Simulation) -> None:
    """Prints what is known before a round is played: the game, and the limits of each algorithm's settings."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for term, fact in simulation.facts().items():
        grid.add_row(Text(term, style="dim"), Text(fact))
    console.print(grid, "")
    table = _table("algorithm", "settings", "converges from nearby")
    for outcome in simulation.outcomes:
        table.add_row(outcome.name, show_settings(outcome), show_limit(outcome))
    console.print(table, "")
    for outcome in simulation.outcomes:
        for warning in outcome.warnings:
            console.print(Text("Warning", style="yellow") + Text(f", {outcome.name}: {warning}"), soft_wrap=True)
    if simulation.game.duality_gap(simulation.start) < 1e-9:
        console.print("The start is an equilibrium, from which exact fits do not move: choose another --start.")


def print_results(console: Console, simulation: Simulation) -> None:
    """Prints a row for each algorithm."""
    table = _table("algorithm", "last gap", "tail gap", "average", "KL", "verdict")
    for column in table.columns[1:-1]:
        column.justify = "right"
    for row in simulation.rows():
        table.add_row(*(f"{value:.2g}" if isinstance(value, float) else value for value in row.values()))
    console.print("", table)
    console.print(
        "Gaps are duality gaps: of the last policy, the mean of the last 20 % of rounds, and of the average policy. "
        "KL is from the equilibrium to the last policy, in nats.",
        style="dim",
    )


def show_settings(outcome: Outcome) -> str:
    """`step_size 1, beta 0.1`."""
    settings = {name: value for name, value in outcome.settings.items() if name != "reference"}
    texts = [f"{name} {_numbers(value)}" for name, value in settings.items()]
    return ", ".join(texts if "step_size" in settings else ["decaying step_size", *texts])


def _numbers(value: object) -> str:
    """A number or a schedule of them as it is typed."""
    values = value if isinstance(value, list) else [value]
    return " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def show_limit(outcome: Outcome) -> str:
    """For which steps the algorithm converges once it is near its equilibrium."""
    if outcome.largest_step is None:
        return "always"
    if outcome.largest_step == 0:
        return "never"
    if outcome.warnings:
        return "not with these settings"
    return "always" if math.isinf(outcome.largest_step) else f"step_size < {outcome.largest_step:.3g}"


def write_files(console: Console, simulation: Simulation, directory: Path) -> None:
    """Writes `simulation.json`, `simulation.csv` and `report.html`, with matplotlib figures too."""
    text = json.dumps(record(simulation), indent=1, allow_nan=False, ensure_ascii=False)
    (directory / "simulation.json").write_text(text + "\n", encoding="utf-8")
    _write_csv(simulation, directory / "simulation.csv")
    page = _write_page(simulation, directory)
    console.print(
        f"\nSaved {page}, simulation.json and simulation.csv. {figures_missing() or 'The figures are beside them.'}",
        soft_wrap=True,
        markup=False,
    )


def record(simulation: Simulation) -> dict[str, object]:
    """All that was asked and found out, in JSON's types."""
    game = simulation.game
    return {
        "game": {
            "name": simulation.name,
            "actions": list(game.actions),
            **({"dialogues": list(game.dialogues)} if isinstance(game, DialogueGame) else {}),
            "preferences": game.preferences.tolist(),
            "equilibrium": simulation.equilibrium.tolist(),
            "kappa": simulation.kappa,
        },
        "start": simulation.start.tolist(),
        "rounds": simulation.rounds,
        "sampling": simulation.sampling,
        "algorithms": [
            {
                "algorithm": outcome.algorithm,
                "settings": outcome.settings,
                "largest_stable_step": _finite(outcome.largest_step),
                "warnings": outcome.warnings,
                "regularized_equilibrium": None if outcome.target is None else outcome.target.tolist(),
                **{name: _finite(value) for name, value in row.items() if name != "algorithm"},
                "policies": [history.last.tolist() for history in outcome.histories],
            }
            for outcome, row in zip(simulation.outcomes, simulation.rows(), strict=True)
        ],
    }


def _finite(value: object) -> object:
    """JSON has no infinity: it is written as a text."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(simulation: Simulation, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["algorithm", "seed", "round", "gap", "average_gap", "kl_to_equilibrium", *simulation.game.actions]
        )
        for outcome in simulation.outcomes:
            for seed, history in enumerate(outcome.histories):
                kl = history.kl_to(simulation.equilibrium)
                columns = zip(history.gaps, history.average_gaps, kl, history.policies, strict=True)
                for number, (*values, policy) in enumerate(columns):
                    rows.writerow([outcome.algorithm, seed, number, *map(float, values), *map(float, policy)])


def draw(simulation: Simulation) -> "dict[str, Figure]":
    """The duality gap against rounds, and of three answers the paths of the policies."""
    game, outcomes = simulation.game, simulation.outcomes
    own = {outcome.algorithm: outcome.target for outcome in outcomes if outcome.target is not None}
    figures = {
        "gap": gap_figure(
            {outcome.algorithm: [history.gaps for history in outcome.histories] for outcome in outcomes},
            targets={algorithm: game.duality_gap(target) for algorithm, target in own.items()},
            title=f"Duality gap on {simulation.name}\n{_setting(simulation)}",
            smooth=_smoothing(simulation),
        )
    }
    if len(game) == 3:
        figures["simplex"] = simplex_figure(
            {outcome.algorithm: [history.policies for history in outcome.histories] for outcome in outcomes},
            equilibrium=simulation.equilibrium,
            actions=game.actions,
            start=simulation.start,
            targets=own,
            title=f"Policies on {simulation.name}\n{_setting(simulation)}",
        )
    return figures


def _setting(simulation: Simulation) -> str:
    """How the fits are made and their step, if all have the same, in a line."""
    pairs = "exact fits" if simulation.sampling is None else f"{simulation.sampling['pairs']} sampled pairs a round"
    parts = [pairs, f"{simulation.rounds} rounds"] + [f"{simulation.seeds} seeds"] * (simulation.seeds > 1)
    steps = [outcome.settings.get("step_size") for outcome in simulation.outcomes]
    if steps.count(steps[0]) == len(steps) and steps[0] is not None:
        parts.append(f"step_size {_numbers(steps[0])}")
    return ", ".join(parts)


def _smoothing(simulation: Simulation) -> int:
    """Of how many rounds a point of a curve is the mean: samples are noisy, exact fits are not."""
    return 1 if simulation.sampling is None else max(simulation.rounds // 20, 1)


def _write_page(simulation: Simulation, directory: Path) -> Path:
    own = any(outcome.target is not None for outcome in simulation.outcomes)
    smooth = _smoothing(simulation)
    captions = {
        "gap": "The duality gap of the policy after each round: twice what the best response wins beyond one half."
        + (f" Each point is the geometric mean of {smooth} rounds." if smooth > 1 else "")
        + (
            " The line is the median of the seeds, in a band from the smallest to the largest."
            * (simulation.seeds > 1)
        )
        + (" Dotted: the gap of a regularised equilibrium." if own else ""),
        "simplex": "The policy on its way. A corner is a policy that always gives this answer, and grid lines are a "
        "quarter apart.",
    }
    facts = simulation.facts() | {
        outcome.name: f"{show_settings(outcome)}; converges from nearby: {show_limit(outcome)}"
        for outcome in simulation.outcomes
    }
    title = f"Algorithms on the game {simulation.name}"
    return save_report(directory, lambda: draw(simulation), simulation.rows(), title, facts=facts, captions=captions)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=column == "algorithm")
    return table
