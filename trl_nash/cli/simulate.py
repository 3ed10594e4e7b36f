# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash simulate`: what a setting does to convergence, on a game whose equilibrium is known, before training."""

import argparse
import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from ..rounds.pairings import PAIR_SELECTIONS
from ..usage import UsageError, did_you_mean
from .options.typed import StrictParser


if TYPE_CHECKING:
    from ..games.dialogues.game import Game
    from ..games.simulation import Simulation

DEFAULT_ALGORITHMS = ("comal", "onpo", "inpo", "iterative-ipo")
# For algorithms that have no default of their own.
DEFAULTS = {"step_size": 1.0, "beta": 0.1, "reference_rounds": 20}
SETTINGS = ("step_size", "beta", "reference", "reference_rounds", "fits", "anchor_history", "history_weights")
SCHEDULED = {"comal"}  # algorithms that take several values of `step_size` and `beta`
SAMPLING = ("preference_label", "pair_selection", "pairs_per_prompt", "num_generations", "temperature")

_EXAMPLES = """\
examples:
  trl-nash simulate
  trl-nash simulate --algorithm onpo --step_size 3
  trl-nash simulate --game random:8 --algorithm comal onpo nash-md --rounds 1000 --output_dir simulation
  trl-nash simulate --matrix preferences.csv --algorithm comal --step_size 2 --beta 0.17 --reference_rounds 6
  trl-nash simulate --pairs 512 --preference_label argmax --seeds 3
  trl-nash simulate --game two-turns --step_size 2 --beta 0.16 --reference_rounds 6
  trl-nash simulate --pairs 512 --pair_selection best_worst --num_generations 8
"""


def run(argv: list[str]) -> int:
    """
    Runs algorithms on a game, prints how far each gets and writes the runs to files.

    Args:
        argv (`list[str]`): the options after `trl-nash simulate`.

    Returns:
        `int`: The exit code, 0.

    Raises:
        UsageError: If an option cannot be used.
        ValueError: If the game or a setting of an algorithm is refused.
    """
    options = parse(argv)
    from rich.console import Console

    from ..games.simulation.report import print_facts, print_results, write_files

    simulation = simulation_of(options)
    console = Console(highlight=False)
    print_facts(console, simulation)
    with console.status("") as status:
        for outcome in simulation.outcomes:
            for seed in range(simulation.seeds):
                status.update(f"{outcome.name}, seed {seed + 1} of {simulation.seeds}")
                simulation.run(outcome, seed)
    print_results(console, simulation)
    if options.output_dir:
        write_files(console, simulation, Path(options.output_dir))
    return 0


def simulation_of(options: argparse.Namespace) -> "Simulation":
    """
    What the options ask for, before a round of it is played.

    Raises:
        UsageError: If an option cannot be used.
        ValueError: If the game or a setting of an algorithm is refused.
    """
    from ..games.dialogues.named import default_policy, load_any_game
    from ..games.simulation import Simulation

    check(options)
    game = load_any_game(options.matrix or options.game)
    for option in ("start", "reference"):
        _check_policy(game, option, getattr(options, option))
    return Simulation(
        Path(options.matrix).name if options.matrix else options.game,
        game,
        start=game.policy(options.start or default_policy(game)),
        rounds=options.rounds,
        sampling=sampling(options),
        plans={algorithm: settings(algorithm, options) for algorithm in options.algorithm},
        seeds=options.seeds or 1,
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of `trl-nash simulate`."""
    parser = StrictParser(
        prog="trl-nash simulate",
        description="Run the algorithms on a game, with exact fits or with sampled pairs, and see whether they "
        "reach its equilibrium. Options are called as in the trainers' configurations.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    game = parser.add_argument_group("the game").add_mutually_exclusive_group()
    game.add_argument(
        "--game",
        metavar="NAME",
        default="comal-cycle",
        help="comal-cycle (the default), rock-paper-scissors, dice, raters, weak-edge, condorcet, bradley-terry or "
        "random:SIZE:SEED; of dialogues: two-turns, three-turns, moody-user",
    )
    game.add_argument(
        "--matrix", metavar="FILE", help="P(row preferred to column): .csv, .tsv (a first row may name), .json, .npy"
    )
    group = parser.add_argument_group("the algorithms")
    group.add_argument(
        "--algorithm",
        nargs="+",
        metavar="NAME",
        default=list(DEFAULT_ALGORITHMS),
        help=f"one or more (default: {' '.join(DEFAULT_ALGORITHMS)}); there are also iterative-dpo, sppo, nash-md, "
        "nash-ema, egpo, nash-mp, mpo, mnpo, grpo",
    )
    group.add_argument("--rounds", type=int, default=300, metavar="N", help="default: %(default)s")
    group.add_argument(
        "--start",
        nargs="+",
        type=float,
        metavar="P",
        help="the first policy. Default: 0.2 0.5 0.3 for three answers, away from the usual equilibria, else uniform",
    )
    group.add_argument(
        "--reference", nargs="+", type=float, metavar="P", help="of the regularised game; default: the start"
    )
    group.add_argument(
        "--step_size",
        nargs="+",
        type=float,
        metavar="X",
        help="η, which multiplies win rates (default: 1; nash-md: decaying). Several: COMAL's in turn, one for each "
        "reference",
    )
    group.add_argument(
        "--beta",
        nargs="+",
        type=float,
        metavar="X",
        help="τ, the KL coefficient of the regularised game (default: 0.1). Several: as --step_size",
    )
    group.add_argument(
        "--reference_rounds", type=int, metavar="K", help="rounds until the reference moves (default: 20)"
    )
    group.add_argument("--fits", choices=("one", "two"), help="ONPO's fits in a round (default: one)")
    group.add_argument(
        "--anchor_history", type=int, metavar="N", help="past policies in ONPO's anchor (default: all of them)"
    )
    group.add_argument(
        "--history_weights",
        nargs="+",
        type=float,
        metavar="X",
        help="of the latest policy, the one before ... in MNPO's anchor, in all 1 (default: 0.5 0.5)",
    )
    group = parser.add_argument_group("sampled pairs, in place of exact fits")
    group.add_argument("--pairs", type=int, metavar="N", help="pairs a round")
    group.add_argument("--preference_label", choices=("soft", "sampled", "argmax"), help="default: soft")
    group.add_argument("--pair_selection", choices=PAIR_SELECTIONS, help="default: all")
    group.add_argument("--pairs_per_prompt", type=int, metavar="M", help="of --pair_selection random and active")
    group.add_argument("--num_generations", type=int, metavar="K", help="answers per prompt (default: 2)")
    group.add_argument("--temperature", type=float, metavar="T", help="answers come from π^(1/T) (default: 1)")
    group.add_argument("--seeds", type=int, metavar="N", help="runs of each algorithm (default: 1)")
    parser.add_argument(
        "--output_dir", metavar="DIR", help="write simulation.json, simulation.csv, figures (PNG) and report.html"
    )
    return parser.parse_args(argv)


def check(options: argparse.Namespace) -> None:
    """
    Refuses names that nobody knows and options that would change nothing, and makes the output directory.

    Raises:
        UsageError: In one sentence.
    """
    from ..games.solvers import SOLVERS

    options.algorithm = list(dict.fromkeys(options.algorithm))
    for algorithm in options.algorithm:
        if algorithm not in SOLVERS:
            hint = did_you_mean(algorithm, SOLVERS) or f": there are {', '.join(SOLVERS)}."
            raise UsageError(f"unknown algorithm {algorithm}{hint}")
    for name in ("rounds", "seeds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(options, name)}.")
    chosen = " and ".join(options.algorithm)
    for name in SETTINGS:
        if getattr(options, name) is not None and not any(takes(algorithm, name) for algorithm in options.algorithm):
            users = ", ".join(algorithm for algorithm in SOLVERS if takes(algorithm, name))
            raise UsageError(f"--{name} means nothing to {chosen}: it is an option of {users}.")
    for name in ("step_size", "beta"):
        fixed = [algorithm for algorithm in options.algorithm if takes(algorithm, name) and algorithm not in SCHEDULED]
        if fixed and len(getattr(options, name) or ()) > 1:
            raise UsageError(f"several values of --{name} are a schedule for comal: {fixed[0]} takes one.")
    if options.fits == "two" and options.anchor_history is not None:
        raise UsageError("--anchor_history belongs to --fits one: two fits need no history. Leave out one of them.")
    _check_sampling(options)
    if options.output_dir:
        try:
            Path(options.output_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output_dir {options.output_dir}: {error.strerror}. Name another directory.") from None


def _check_sampling(options: argparse.Namespace) -> None:
    if options.pairs is None:
        for name in (*SAMPLING, "seeds"):
            if getattr(options, name) is not None:
                raise UsageError(f"--{name} is for sampled pairs, and without --pairs fits are exact: add --pairs N.")
        return
    for algorithm in options.algorithm:
        if not takes(algorithm, "pairs"):
            raise UsageError(f"--pairs: {algorithm} is no regression on pairs and only fitted exactly; leave it out.")
    if options.pair_selection not in (None, "all") and (options.num_generations or 2) == 2:
        raise UsageError(
            f"--pair_selection {options.pair_selection} changes nothing with two answers per prompt: add "
            "--num_generations K above 2."
        )


def _check_policy(game: "Game", option: str, probabilities: list[float] | None) -> None:
    if probabilities is None:
        return
    try:
        game.policy(probabilities)
    except ValueError as error:
        raise UsageError(f"--{option}: {error}") from None
    if 0 in probabilities:
        raise UsageError(f"--{option} must give every answer a probability above 0, as no step ever adds one.")


def takes(algorithm: str, name: str) -> bool:
    """Whether the solver of `algorithm` has an argument `name`."""
    from ..games.solvers import SOLVERS

    return name in inspect.signature(SOLVERS[algorithm]).parameters


def settings(algorithm: str, options: argparse.Namespace) -> dict[str, object]:
    """The arguments of the algorithm's solver: those that were typed, and [`DEFAULTS`] for those that it must have."""
    from ..games.solvers import SOLVERS

    parameters = inspect.signature(SOLVERS[algorithm]).parameters
    typed = {name: getattr(options, name) for name in SETTINGS if getattr(options, name) is not None}
    for name in ("step_size", "beta"):
        if len(typed.get(name, ())) == 1:
            typed[name] = typed[name][0]
    needed = {name: DEFAULTS[name] for name in DEFAULTS if name in parameters and _is_needed(parameters[name])}
    return needed | {name: value for name, value in typed.items() if name in parameters}


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def sampling(options: argparse.Namespace) -> dict[str, object] | None:
    """The arguments of [`SampledPairs`], or `None` for exact fits."""
    if options.pairs is None:
        return None
    typed = {name: getattr(options, name) for name in SAMPLING if getattr(options, name) is not None}
    return {"pairs": options.pairs, **typed}
