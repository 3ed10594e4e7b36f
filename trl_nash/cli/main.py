# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The entry point `trl-nash`. A command's modules are imported when it is called."""

import importlib
import sys
from collections.abc import Callable

from trl_nash import __version__

from ..usage import UsageError, did_you_mean
from .errors import hide_noise, is_user_error, report
from .options.typed import ALGORITHMS


_OTHER_COMMANDS = {
    "demo": "watch COMAL train a small model here, or the algorithms on a game: no GPU, hub or key",
    "simulate": "see what a setting does to convergence, on a game whose equilibrium is known",
    "judge": "see what a judge prefers and how far it can be trusted, on a file of pairs",
    "arena": "see who wins among models, adapters, servers and files of completions",
    "plan": "see what a run will need: memory, tokens, judge calls, time, on any hardware",
    "env": "print versions and available extras, for bug reports",
}

_HELP = """\
usage: trl-nash COMMAND [options]

Train a language model towards the equilibrium of a preference game.

commands:
{commands}

`trl-nash COMMAND --help` lists a command's options. A first run:

  trl-nash demo
  trl-nash comal --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --dataset_name prompts.jsonl \\
      --judge reward:Skywork/Skywork-Reward-V2-Qwen3-0.6B --output_dir comal-model
"""


def main(argv: list[str] | None = None) -> int:
    """
    Runs the command line.

    Args:
        argv (`list[str]`, *optional*):
            Arguments after the program's name. If `None`, those of the process.

    Returns:
        `int`: The exit code: 0, 1 for an error that a sentence explains, 2 for options that cannot be run, 130 when
        interrupted.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    command, rest = (argv[0], argv[1:]) if argv else ("--help", [])
    if command in ("-h", "--help"):
        summaries = {**{name: algorithm.summary for name, algorithm in ALGORITHMS.items()}, **_OTHER_COMMANDS}
        print(
            _HELP.format(commands="\n".join(f"  {name:<10} {summary}" for name, summary in summaries.items())), end=""
        )
        return 0
    if command == "--version":
        print(__version__)
        return 0
    hide_noise()
    try:
        return _runner(command)(rest)
    except KeyboardInterrupt:
        print("trl-nash: interrupted.", file=sys.stderr)
        return 130
    except Exception as error:
        if not is_user_error(error, starting=False):
            raise
        return report(error)


def _runner(command: str) -> Callable[[list[str]], int]:
    if command in ALGORITHMS:
        launch = importlib.import_module("trl_nash.cli.training.launching.launch")
        return lambda rest: launch.run(command, rest)
    if command in _OTHER_COMMANDS:
        return importlib.import_module(f"trl_nash.cli.{command}").run
    known = [*ALGORITHMS, *_OTHER_COMMANDS]
    hint = did_you_mean(command, known) or f": there are {', '.join(known)}."
    raise UsageError(f"unknown command {command}{hint}")


if __name__ == "__main__":
    sys.exit(main())
