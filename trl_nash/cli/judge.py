# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash judge`: what a judge says of pairs in a file, and how far it can be trusted, before training with it."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..usage import UsageError
from .errors import is_user_error, report
from .options.typed import StrictParser


if TYPE_CHECKING:
    from ..evaluation.rows import Row
    from ..judges.base import PairwiseJudge

_EXAMPLES = """\
examples:
  trl-nash judge pairs.jsonl --judge reward:Skywork/Skywork-Reward-V2-Qwen3-0.6B
  trl-nash judge pairs.jsonl --judge my_judges:longer_wins --output judged.parquet
  trl-nash judge answers.jsonl --judge openai:Qwen/Qwen3-8B@http://localhost:8000/v1 --output_dir judged
  trl-nash judge answers.jsonl --judge pairrm --compare_pairing swiss
  trl-nash judge pairs.jsonl --judge pairrm --second_judge reward:org/model --second_judge_kwargs '{"temperature": 2}'
"""
_FORMATS = """\
The file is .jsonl, .json, .csv, .tsv or .parquet (or one of these with .gz or .zst), with the columns prompt, first,
second; or prompt, chosen, rejected; or prompt and completions, a list, of which all pairs are judged. What stands for
a prompt in training does here. A column `label` is P(first wins), or first, second or tie; chosen always wins. The
judge gets the other columns. Prompts and completions are text or messages; a completion of several messages is a
dialogue.
"""


def run(argv: list[str]) -> int:
    """
    Judges the pairs of a file, prints what that says of the judge, and writes it to files.

    Args:
        argv (`list[str]`): the options after `trl-nash judge`.

    Returns:
        `int`: The exit code: 0, 1 if a judge cannot be loaded, 130 when interrupted.

    Raises:
        UsageError: If an option or the file cannot be used.
        ValueError: If a row cannot.
        JudgeError: If a judge cannot go on.
    """
    options = _parse(argv)
    kwargs = check(options)
    from ..evaluation.rows import read_rows

    rows = read_rows(options.file)
    try:
        judges = _load_judges(options, kwargs)
    except Exception as error:
        if not is_user_error(error, starting=True):
            raise
        return report(error)
    return _judge(options, rows, judges, kwargs)


def _judge(options: argparse.Namespace, rows: "list[Row]", judges: "dict[str, PairwiseJudge]", kwargs: dict) -> int:
    from rich.console import Console

    from ..evaluation.asking import batches, judge_rows, judge_settings
    from ..evaluation.judgements import Output
    from ..evaluation.pairings import choose, play, print_summary, summary
    from ..evaluation.report import evaluate, print_results, write_files
    from ..judges.base import JudgeError

    specs = {name: getattr(options, name) for name in judges}
    selections = {name: getattr(options, name) for name in ("pair_selection", "compare_pairing")}
    pairings = choose(selections, options.pairs_per_prompt, rows, judges.values())
    output = Output(
        options.output and Path(options.output),
        {name: judge_settings(specs[name], judge, kwargs[name]) for name, judge in judges.items()},
    )
    total = sum(pairing.calls(len(row.completions)) for pairing in pairings for row in rows)

    def to_judge(some: "list[Row]", name: str) -> int:
        """Pairs on which a judge's verdict is missing."""
        return sum(len(output.missing(row, name).pairs) for row in some)

    def how_to_go_on() -> str:
        again = "the same command goes on where it stopped."
        if output.path is None:
            return f"With --output FILE.jsonl {again}"
        if len(pairings) > 1 or options.pair_selection != "all":
            return f"What was judged is in {output.lines}: {again}"
        done = total - max(to_judge(rows, name) for name in judges)
        return f"{done:,} of {total:,} pairs are in {output.lines}: {again}"

    for name in judges:  # says what is wrong with the file that goes on, before a bar is there
        to_judge(rows, name)
    played = []
    try:
        with progress_bar() as progress:
            task = progress.add_task("pairs" if len(judges) == 1 else "verdicts", total=total * len(judges))

            def ask(some: "list[Row]") -> None:
                for batch in batches(some, options.batch_size):
                    for name, judge in judges.items():
                        # One question gives all verdicts on a group: later waves find theirs.
                        asked = [replace(row, asked=None) for row in batch] if judge.sees_groups else batch
                        judge_rows(name, judge, asked, output, options.batch_size)
                        progress.advance(task, sum(len(row.pairs) for row in batch))

            for pairing in pairings:
                played.append(play(pairing, rows, output, ask))
    except KeyboardInterrupt:
        print(f"trl-nash: interrupted. {how_to_go_on()}", file=sys.stderr)
        return 130
    except JudgeError as error:
        raise JudgeError(f"{error} {how_to_go_on()}") from error
    output.finish([row for one in played for row in one.rows])
    records = [output.records[row.index, i, j] for row in played[0].rows for i, j in row.pairs]
    console = Console(highlight=False)
    results = evaluate(records, output.counts, specs, options.price)
    print_results(console, results)
    if len(played) > 1:
        price, whole = results["judge"]["cost"].get("price"), judges["judge"].sees_groups
        found = summary(*played, output.counts["judge"], price, whole)
        results["judge"]["pairings"] = found
        print_summary(console, found)
    if options.price and "price" not in results["judge"]["cost"]:
        console.print("\nNo price: the judge was not asked, or states no tokens.")
    if output.path is not None:
        count = len(output.records)
        console.print(f"\nSaved {output.path}: a row for each of {count:,} pairs.", soft_wrap=True, markup=False)
    if options.output_dir:
        write_files(console, results, records, options.file, Path(options.output_dir))
    return 0


def check(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """
    Refuses options that cannot be used, makes the output directory, and names the output in it.

    Returns:
        `dict[str, dict]`: The arguments of each judge.

    Raises:
        UsageError: In one sentence.
    """
    from ..evaluation.judgements import SUFFIXES

    kwargs = {name: read_kwargs(f"{name}_kwargs", getattr(options, f"{name}_kwargs")) for name in _names(options)}
    if options.second_judge is None and options.second_judge_kwargs is not None:
        raise UsageError("--second_judge_kwargs are the arguments of --second_judge: add it.")
    if options.price and min(options.price) < 0:
        raise UsageError(f"--price is what a million tokens cost, 0 or more, got {min(options.price):g}.")
    if options.batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, got {options.batch_size}.")
    if options.output_dir:
        try:
            Path(options.output_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--output_dir {options.output_dir}: {error.strerror}. Name another directory.") from None
        options.output = options.output or str(Path(options.output_dir) / "judgements.jsonl")
    if options.output and Path(options.output).suffix not in SUFFIXES:
        raise UsageError(f"--output {options.output}: judgements are written as {' or '.join(SUFFIXES)}.")
    if options.output and Path(options.output).resolve() == Path(options.file).resolve():
        raise UsageError(f"--output {options.output} is the file of pairs: name another one.")
    return kwargs


def _names(options: argparse.Namespace) -> list[str]:
    return ["judge"] if options.second_judge is None else ["judge", "second_judge"]


def read_kwargs(name: str, text: str | None) -> dict[str, Any]:
    try:
        kwargs = {} if text is None else json.loads(text)
    except ValueError as error:
        raise UsageError(f"--{name} must be JSON: {error}.") from None
    if not isinstance(kwargs, dict):
        kind = type(kwargs).__name__
        raise UsageError(f"--{name} must be a JSON object such as '{{\"temperature\": 0.5}}', got a {kind}.")
    return kwargs


def _load_judges(options: argparse.Namespace, kwargs: dict[str, dict]) -> "dict[str, PairwiseJudge]":
    return {name: load(getattr(options, name), kwargs[name]) for name in _names(options)}


def load(spec: str, arguments: dict[str, Any]) -> "PairwiseJudge":
    """The judge of a spec, on this machine's device if it is a model and its arguments do not say where."""
    from ..judges import load_judge

    if "device" not in arguments and is_model(spec):
        import torch

        device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        arguments = {"device": device} | arguments
    return load_judge(spec, **arguments)


def is_model(spec: str) -> bool:
    """Whether a judge may be a model on this machine."""
    from ..judges import JUDGES

    return spec.partition(":")[0] in JUDGES.keys() - {"random", "function"}


def progress_bar():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task):
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.3g} a second" if speed else "")

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("time left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = StrictParser(
        prog="trl-nash judge",
        description="Have a judge compare the answers in a file, and see what it prefers, how consistent it is,\nand "
        "whether it agrees with labels or with another judge.\n\n" + _FORMATS,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="the pairs: .jsonl, .json, .csv, .tsv or .parquet")
    parser.add_argument("--judge", metavar="SPEC", help="as in training: key:target or module:name")
    parser.add_argument("--judge_kwargs", metavar="JSON", help="its arguments, '{\"temperature\": 0.5}'")
    parser.add_argument("--second_judge", metavar="SPEC", help="another one, to compare with")
    parser.add_argument("--second_judge_kwargs", metavar="JSON", help="its arguments")
    parser.add_argument(
        "--pair_selection",
        default="all",
        metavar="NAME",
        help="which pairs of several completions are judged, as in training (default: %(default)s)",
    )
    parser.add_argument(
        "--compare_pairing",
        metavar="NAME",
        help="another choice, whose calls and win rates are compared with those of --pair_selection: pairs that both "
        "ask are judged once",
    )
    parser.add_argument("--pairs_per_prompt", type=int, metavar="M", help="of random and active")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="the judgements, .jsonl or .parquet. They are written as they come: the same command goes on where it "
        "stopped (default: judgements.jsonl in --output_dir)",
    )
    parser.add_argument("--output_dir", metavar="DIR", help="write judge.json, figures (PNG) and report.html")
    parser.add_argument(
        "--price",
        type=float,
        nargs=2,
        metavar=("PROMPT", "ANSWER"),
        help="of a million tokens of questions and of answers at --judge: what they cost is printed",
    )
    parser.add_argument("--batch_size", type=int, default=128, metavar="N", help="pairs a call (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.file is None:
        raise UsageError("a file of pairs is needed: trl-nash judge FILE --judge SPEC.")
    if options.judge is None:
        raise UsageError(f"a judge is needed: trl-nash judge {options.file} --judge SPEC.")
    return options
