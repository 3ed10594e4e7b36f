# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash demo`: a small model is made and trained here, without a GPU, a hub or a key; or tiny ones on a game."""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from ..demo import game, language
from ..demo.data import read_examples
from ..usage import UsageError
from .options.typed import StrictParser


_DEFAULTS = {"output_dir": "trl-nash-demo", "rounds": 18, "seed": 0}
_GAME_DEFAULTS = {
    "output_dir": "trl-nash-game",
    "rounds": 80,
    "seeds": 1,
    "algorithms": list(game.DEFAULT_ALGORITHMS),
}


def run(argv: list[str]) -> int:
    """
    Runs the demo.

    Args:
        argv (`list[str]`): the options after `trl-nash demo`.

    Returns:
        `int`: The exit code: 0, or 130 when interrupted.

    Raises:
        UsageError: If an option or the file of prompts cannot be used.
    """
    options = _parse(argv)
    if options.game:
        contest = game.check(options.game, options.algorithms, options.rounds, options.seeds)
    else:
        examples = read_examples(options.prompts)
    try:
        Path(options.output_dir).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output_dir {options.output_dir}: {error.strerror}. Name another directory.") from None
    _quieten()
    try:
        if options.game:
            game.run_demo(contest, options.algorithms, options.seeds, options.output_dir)
        else:
            language.run_demo(examples, rounds=options.rounds, seed=options.seed, output_dir=options.output_dir)
    except KeyboardInterrupt:
        print("\ntrl-nash demo: interrupted before anything was saved; run it again to start over.", file=sys.stderr)
        return 130
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(
        prog="trl-nash demo",
        description="Make a small language model, train it with COMAL under a judge of three raters who disagree in a "
        "circle, and compare it with the model that it started from. Runs on a CPU, offline, in about two minutes. "
        "With --game: train tiny models on a game whose equilibrium is known, and see how near each algorithm gets.",
    )
    parser.add_argument("--prompts", metavar="FILE", help='JSON Lines file with {"prompt": "..."} on each line.')
    parser.add_argument("--output_dir", metavar="DIR", help="default: trl-nash-demo, and trl-nash-game with --game")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds of training, default: 18, and 80 with --game")
    parser.add_argument("--seed", type=int, metavar="N", help="default: 0")
    group = parser.add_argument_group("a game in place of the model")
    group.add_argument(
        "--game",
        metavar="NAME",
        help="comal-cycle, rock-paper-scissors, ... (as `trl-nash simulate`), or a matrix file",
    )
    group.add_argument(
        "--algorithms",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(game.ALGORITHMS)}; default: {' '.join(game.DEFAULT_ALGORITHMS)}",
    )
    group.add_argument("--seeds", type=int, metavar="N", help="runs of each algorithm, default: 1")
    options = parser.parse_args(argv)
    for name in ("prompts", "seed") if options.game else ("algorithms", "seeds"):
        if getattr(options, name) is not None:
            raise UsageError(f"--{name} {'is not for' if options.game else 'needs'} --game; leave it out.")
    for name, value in (_GAME_DEFAULTS if options.game else _DEFAULTS).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.rounds < 1:
        raise UsageError(f"--rounds must be at least 1, got {options.rounds}.")
    return options


def _quieten() -> None:
    """Nothing here goes to a hub, and libraries' remarks about the set-up are not for a newcomer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.simplefilter("ignore", FutureWarning)
    logging.disable(logging.WARNING)
