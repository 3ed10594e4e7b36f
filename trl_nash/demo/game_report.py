# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash demo --game` leaves behind: the final table, `game.json`, figures and a page."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..figures.style import figures_missing, styles


if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from .game import Contest


def rows(contest: "Contest", equilibrium: np.ndarray) -> list[dict[str, object]]:
    """The final table: medians over seeds; the policy is that of the first seed."""
    from ..games.matrix import kl_divergence

    found = []
    for algorithm, seeds in contest.gaps.items():
        tails = [contest.tail(gaps) for gaps in seeds]
        last = [policies[-1] for policies in contest.policies[algorithm]]
        found.append(
            {
                "algorithm": name_of(algorithm),
                "tail gap": float(np.median(tails)),
                "by seed": " ".join(f"{tail:.3f}" for tail in tails),
                "KL from Nash": float(np.median([kl_divergence(equilibrium, policy) for policy in last])),
                "last policy": show_policy(last[0]),
                "seconds": contest.seconds[algorithm] / len(seeds),
            }
        )
    return found


def write_files(console: "Console", contest: "Contest", equilibrium: np.ndarray, directory: Path) -> None:
    """Writes `game.json` with all that was read, and a page, with matplotlib figures too."""
    game = contest.game
    record = {
        "game": {"name": contest.name, "actions": list(game.actions), "preferences": game.preferences.tolist()},
        "equilibrium": equilibrium.tolist(),
        "rounds": contest.rounds,
        "algorithms": {
            algorithm: [
                {"seed": seed, "gaps": gaps, "policies": np.stack(policies).tolist()}
                for seed, (gaps, policies) in enumerate(zip(seeds, contest.policies[algorithm], strict=True))
            ]
            for algorithm, seeds in contest.gaps.items()
        },
    }
    (directory / "game.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = _write_page(contest, equilibrium, directory)
    figures = figures_missing() or "The figures are beside them."
    console.print(f"  Saved {page} (open it in a browser) and game.json. {figures}", soft_wrap=True, markup=False)


def draw(contest: "Contest", equilibrium: np.ndarray) -> "dict[str, Figure]":
    """The duality gap against rounds, and of three answers the paths of the policies."""
    from ..games.plots import gap_figure, simplex_figure

    seeds = max(len(runs) for runs in contest.gaps.values())
    setting = f"language models, {contest.rounds} rounds, {seeds} seed{'s' * (seeds > 1)}"
    figures = {
        "gap": gap_figure(
            contest.gaps,
            targets={algorithm: contest.game.duality_gap(policy) for algorithm, policy in contest.targets.items()},
            title=f"Duality gap on {contest.name}\n{setting}",
            smooth=contest.smoothing,
        )
    }
    if len(contest.game) == 3:
        figures["simplex"] = simplex_figure(
            {name: [np.stack(path) for path in seeds] for name, seeds in contest.policies.items()},
            equilibrium=equilibrium,
            actions=contest.game.actions,
            start=contest.start,
            targets=contest.targets,
            title=f"Policies on {contest.name}\n{setting}",
        )
    return figures


def _write_page(contest: "Contest", equilibrium: np.ndarray, directory: Path) -> Path:
    from ..figures.page import save_report

    seeds = max(len(runs) for runs in contest.gaps.values())
    captions = {
        "gap": "The exact duality gap of the language model after each round of 512 prompts: twice what the best "
        "response wins beyond one half."
        + (f" Each point is the geometric mean of {contest.smoothing} rounds." if contest.smoothing > 1 else "")
        + (" The line is the median of the seeds, in a band from the smallest to the largest." if seeds > 1 else "")
        + (" Dotted: the equilibrium of a method that stays near its reference." if contest.targets else ""),
        "simplex": "The model's policy on its way. A corner is a policy that always gives this answer.",
    }
    return save_report(
        directory,
        lambda: draw(contest, equilibrium),
        rows(contest, equilibrium),
        f"Language models on the game {contest.name}",
        facts={
            "Nash policy": show_policy(equilibrium),
            "start": show_policy(contest.start),
            "rounds": str(contest.rounds),
        },
        captions=captions,
    )


def show_policy(policy: np.ndarray) -> str:
    """Its first answers, up to six: `(.36 .27 .36)`."""
    shown = " ".join(f"{probability:.2f}".lstrip("0") or "0" for probability in policy[:6])
    return f"({shown}{' ...' if len(policy) > 6 else ''})"


def name_of(algorithm: str) -> str:
    """What an algorithm is called where it is shown."""
    return styles([algorithm])[algorithm].name
