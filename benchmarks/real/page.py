# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tables and figures of docs/background/real_model.md, from the record of runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measuring import fill
from trl_nash.figures.svg import save_schemes
from trl_nash.games import nash_equilibrium
from trl_nash.games.plots import gap_figure, simplex_figure

from .figures import win_rate_figure
from .judges import CLASSES, CYCLE
from .measure import gaps, matrix, win_rates
from .methods import PROMPTS
from .play import ANSWERS, PASSES, ROUNDS


WORDS = {
    "passes": "passes = {}",
    "num_generations": "K = {}",
    "rounds": "{} rounds",
    "step_size": "step {:g}",
    "lr_scheduler_type": "{} decay",
}
TAIL = 5  # rounds whose mean stands for the end


def fill_page(record: dict, page: Path) -> None:
    """Replaces what stands between the page's markers, and its figures."""
    images = page.parents[1] / "images"
    for judge, write in (("cycle", cycle), ("majority", contest), ("one-rater", contest)):
        runs = [row for row in record["results"] if row["judge"] == judge]
        text = f"{write(runs, images, judge)}\n\n{tries(record['tries'], judge)}" if runs else "Not run yet."
        fill(page, judge, text)


def by_method(runs: list[dict]) -> dict[str, list[dict]]:
    """
    Runs of each method, a seed each, in the order in which they were asked for; with other passes, another number of
    answers and so on it is another method.
    """
    found: dict[str, list[dict]] = {}
    for run in runs:
        found.setdefault(", ".join([run["method"], *unusual(run)]), []).append(run)
    return found


def unusual(run: dict) -> list[str]:
    """Settings of a run that are not those of its judge, in words."""
    usual = dict.fromkeys(WORDS) | {"lr_scheduler_type": "constant_with_warmup"}
    usual |= {"passes": PASSES[run["judge"]], "num_generations": ANSWERS[run["judge"]], "rounds": ROUNDS[run["judge"]]}
    return [words.format(run[name]) for name, words in WORDS.items() if run[name] != usual[name]]


def drawn(methods: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Of each method the runs with most answers in all, by its name and, if that is unusual, their number."""
    longest: dict[str, list[dict]] = {}
    for runs in methods.values():
        method = runs[0]["method"]
        longest[method] = max(longest.get(method, runs), runs, key=_answers)
    return {
        method + "".join(f", {words}" for words in unusual(runs[0]) if words.startswith("K")): runs
        for method, runs in longest.items()
    }


def _answers(runs: list[dict]) -> int:
    return runs[0]["rounds"] * runs[0]["num_generations"]


def cycle(runs: list[dict], images: Path, judge: str) -> str:
    """The table of gaps; draws gaps and shares."""
    methods = by_method(runs)
    curves = drawn(methods)
    setting = f"rounds of {PROMPTS} prompts x {ANSWERS[judge]} answers, or K; {_seeds(curves)}"
    start = runs[0]["shares"][0]
    save_schemes(
        images,
        "real-cycle-gap",
        gap_figure(
            {name: [run["gap"] for run in found] for name, found in curves.items()},
            title=f"SmolLM2-135M-Instruct on a cyclic preference\n{setting}",
            smooth=TAIL,
        ),
    )
    save_schemes(
        images,
        "real-cycle-simplex",
        simplex_figure(
            {name: [run["shares"] for run in found] for name, found in curves.items()},
            equilibrium=nash_equilibrium(CYCLE),
            actions=CLASSES,
            start=start,
            title=f"Shares of the classes, mean over prompts\n{setting}",
        ),
    )
    rows = [
        "| method | rate | gap | of a prompt | average: gap | of a prompt | shares at the end | KL | R² | min |",
        "|---|---|---|---|---|---|---|---|---|---|",
        f"| start | | {runs[0]['gap'][0]:.3f} | {runs[0]['gap_per_prompt'][0]:.3f} | | | {_shares(start)} | 0 | | |",
    ]
    for name, found in methods.items():
        ends = [np.mean(run["gap"][-TAIL:]) for run in found]
        own = [np.mean(run["gap_per_prompt"][-TAIL:]) for run in found]
        average = [gaps(np.mean(run["shares"], 0, keepdims=True))[0] for run in found]
        of_a_prompt = [run["average_gap_per_prompt"] for run in found if "average_gap_per_prompt" in run]
        rows.append(
            f"| {name} | {found[0]['learning_rate']:g} | {_median(ends, '.3f')} | {_median(own, '.3f')} | "
            f"{_median(average, '.3f')} | {_median(of_a_prompt, '.3f') if of_a_prompt else ''} | "
            f"{_shares(np.mean([run['shares'][-TAIL:] for run in found], (0, 1)))} | "
            f"{_median([run['kl'] for run in found], '.2f')} | {_fitted(found)} | "
            f"{_median([run['wall_seconds'] / 60 for run in found], '.0f')} |"
        )
    pictures = [
        picture("real-cycle-gap", "Duality gap of the mean shares, over rounds"),
        picture("real-cycle-simplex", "Shares of the three classes over rounds, on the simplex"),
    ]
    return "\n".join([*rows, "", *pictures])


def picture(name: str, alt: str) -> str:
    """A figure in both colour schemes."""
    return "\n".join(f"![{alt}](../images/{name}-{scheme}.svg#gh-{scheme}-mode-only)" for scheme in ("light", "dark"))


def contest(runs: list[dict], images: Path, judge: str) -> str:
    """The table of a contest on held-out prompts; draws the win rate over what it cost."""
    methods = by_method(runs)
    save_schemes(
        images,
        f"real-{judge}-win-rate",
        win_rate_figure(
            methods,
            title=f"Win rate against the start, judge: {judge}\n{_seeds(methods)}; on prompts of the round, mean of 3",
        ),
    )
    pool = {name: _joined(found) for name, found in methods.items()}
    who = matrix(judge, {"start": runs[0]["start"], **pool})
    rates, weights = who.estimate(), who.equilibrium()
    exploitable = who.estimate_exploitability()
    rivals = [name for name in ("online-dpo", "grpo") if name in pool]
    head = ["method", "learning rate", "against the start", "its seeds", *(f"against {name}" for name in rivals)]
    head += ["equilibrium weight", "gap in the pool", "KL", "characters", "R²", "pairs", "min"]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for index, name in enumerate(who.names):
        found = methods.get(name, [])
        against = [_rate(rates, index, who.names.index(rival)) for rival in ("start", *rivals)]
        cells = [name, f"{found[0]['learning_rate']:g}" if found else "", against[0], _each_seed(judge, found)]
        cells += [*against[1:], f"{weights[index]:.2f}"]
        value, low, high = (2 * getattr(exploitable, name)[index] for name in ("value", "low", "high"))
        cells.append(f"{value:.2f} ({low:.2f} to {high:.2f})")
        cells.append(_median([run["kl"] for run in found], ".2f") if found else "0")
        cells.append(f"{who.lengths[:, index].mean():.0f}")
        cells += (
            [_fitted(found), f"{found[0]['pairs'][-1]}", _median([r["wall_seconds"] / 60 for r in found], ".0f")]
            if found
            else [""] * 3
        )
        rows.append(f"| {' | '.join(cells)} |")
    cycles = [
        f"{' > '.join((*one.policies, one.policies[0]))} (by {100 * one.strength:.1f} points)"
        for one in who.cycles()[:3]
    ]
    said = f"Cycles among the methods' mean win rates: {'; '.join(cycles) or 'none'}."
    rate = _mean_of(runs, "judge/cycle_rate")
    raters = (
        f" Cycles among three answers to a prompt, as rounds sampled them: {100 * rate:.1f} %."
        if rate is not None
        else ""
    )
    curve = picture(f"real-{judge}-win-rate", "Win rate against the start over judged pairs, tokens and seconds")
    return "\n".join([*rows, "", said + raters, "", curve])


def tries(rows: list[dict], judge: str) -> str:
    """What learning rates were tried, a line each method."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row["judge"] == judge:
            found.setdefault(row["method"], []).append(f"{row['learning_rate']:g}: {row['quality']:.3f}")
    if not found:
        return "No learning rate was tried beside the one in the table."
    tried = "; ".join(f"{name} {', '.join(some)}" for name, some in found.items())
    measure = "minus the mean gap of a prompt" if judge == "cycle" else "win rate against the start"
    return f"Learning rates tried, on other prompts and in fewer rounds, and their {measure}: {tried}."


def _each_seed(judge: str, runs: list[dict]) -> str:
    """The win rate of each run against the start, in percent: how much runs differ is in no interval over prompts."""
    rates = [win_rates(judge, run["answers"], run["start"]).mean() for run in runs]
    return ", ".join(f"{100 * rate:.0f}" for rate in rates) if len(rates) > 1 else ""


def _joined(runs: list[dict]) -> dict[str, list[str]]:
    """The answers of all seeds to each prompt."""
    return {prompt: [answer for run in runs for answer in run["answers"][prompt]] for prompt in runs[0]["answers"]}


def _rate(rates, i: int, j: int) -> str:
    if i == j:
        return ""
    return f"{100 * rates.value[i, j]:.0f} % ({100 * rates.low[i, j]:.0f} to {100 * rates.high[i, j]:.0f})"


def _seeds(methods: dict[str, list[dict]]) -> str:
    counts = {len(found) for found in methods.values()}
    return f"{min(counts)} seed{'s' if min(counts) > 1 else ''}" + ("" if len(counts) == 1 else " or more")


def _shares(shares) -> str:
    return ", ".join(f"{share:.2f}" for share in shares)


def _median(values: list[float], form: str) -> str:
    text: Callable[[float], str] = lambda value: format(value, form)  # noqa: E731
    return text(np.median(values)) + (f" ({text(min(values))} to {text(max(values))})" if len(values) > 1 else "")


def _fitted(runs: list[dict]) -> str:
    value = _mean_of(runs, "fit/r2_end")
    return "" if value is None else f"{value:.2f}"


def _mean_of(runs: list[dict], name: str) -> float | None:
    values = [row[name] for run in runs for row in run["log"] if name in row]
    return float(np.mean(values)) if values else None
