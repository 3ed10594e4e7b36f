# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash arena`: policies against each other on the same prompts, before a user, or a judge."""

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError, is_user_error, report
from .judge import is_model, load, progress_bar, read_kwargs
from .options.typed import StrictParser


if TYPE_CHECKING:
    from ..evaluation.arena import Arena
    from ..judges.base import PairwiseJudge
    from ..planning.run.judge import Judge

_EXAMPLES = """\
examples:
  trl-nash arena start=Qwen/Qwen2.5-0.5B-Instruct Qwen2.5-0.5B-COMAL Qwen2.5-0.5B-ONPO --prompts prompts.jsonl \\
      --judge reward:Skywork/Skywork-Reward-V2-Qwen3-0.6B
  trl-nash arena comal-model openai:Qwen/Qwen3-8B@http://localhost:8000/v1 --prompts prompts.jsonl --judge pairrm
  trl-nash arena ours.jsonl theirs.json --prompts prompts.jsonl --judge my_judges:longer_wins --output_dir compared
"""
_POLICIES = """\
A policy is a path or hub id of a model, or of an adapter; a file of completions with the columns prompt and
completion, or AlpacaEval's model_outputs; or openai:MODEL@URL, a server, whose key is in OPENAI_API_KEY. OUTPUT/pool
is all policies of a run's opponent pool, and CHECKPOINT/nash those that a checkpoint has frozen. NAME=POLICY calls it
NAME. All that is sampled and judged is kept in --output_dir as it comes: the same command goes on where it stopped,
and with further policies, prompts or another judge it asks for the rest only.
"""


def run(argv: list[str]) -> int:
    """
    Has policies answer prompts and a judge compare the answers, prints who wins, and writes it to files.

    Args:
        argv (`list[str]`): the options after `trl-nash arena`.

    Returns:
        `int`: The exit code: 0, 1 if a model or judge cannot be loaded or asked, 130 when interrupted.

    Raises:
        UsageError: If an option, a policy or a file cannot be used.
        ValueError: If a row cannot.
        JudgeError: If the judge cannot go on.
    """
    options = _parse(argv)
    kwargs = check(options)
    from ..evaluation.arena import Arena, Sampling

    names = ("temperature", "top_p", "max_new_tokens", "seed", "batch_size", "dtype")
    names += ("trust_remote_code", "chat_template_kwargs", "strip_thinking", "user", "max_turns")
    sampling = Sampling(**{name: getattr(options, name) for name in names})
    arena = Arena(
        options.policies, options.prompts, options.output_dir, sampling, options.prompt_column, options.best_of
    )
    try:
        _check_models(arena)
        if options.dry_run:
            _print_plan(arena, options, kwargs)
            return 0
        # A judge that is a model waits until the policies are out of the memory.
        judge = None if is_model(options.judge) else load(options.judge, kwargs)
        with _going_on(arena):
            _sample(arena)
        judge = judge or load(options.judge, kwargs)
    except KeyboardInterrupt:
        return _interrupted(arena)
    except Exception as error:
        if not is_user_error(error, starting=True):
            raise
        return report(error)
    return _judge(arena, judge, options, kwargs)


def _check_models(arena: "Arena") -> None:
    """Refuses a model that is not there before another one is sampled for an hour."""
    models = [one for one in arena.contestants if one.kind == "model" and arena.missing(one)]
    if models:
        from ..evaluation.arena.loaded import check_there

        for contestant in models:
            check_there(contestant, arena.sampling)


def _sample(arena: "Arena") -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()  # one of weights beside ours
    with progress_bar() as progress:
        tasks = {}
        for contestant in arena.contestants:
            known = arena.known(contestant)
            tasks[contestant.name] = progress.add_task(
                contestant.name, total=known + arena.missing(contestant), completed=known
            )
        arena.sample(lambda name, count: progress.advance(tasks[name], count))


def _judge(arena: "Arena", judge: "PairwiseJudge", options: argparse.Namespace, kwargs: dict[str, Any]) -> int:
    from rich.console import Console

    from ..evaluation.arena import Standings
    from ..evaluation.arena.report import print_standings, write_files

    try:
        rows = arena.questions()
        output = arena.output(options.judge, judge, kwargs)
        pairs = sum(len(row.pairs) for row in rows)
        done = pairs - sum(len(row.pairs) for row in rows if output.missing(row, "judge").pairs)
        with progress_bar() as progress, _going_on(arena):
            task = progress.add_task("pairs judged", total=pairs, completed=done)
            result = arena.judge(
                judge,
                options.judge,
                kwargs,
                batch_size=options.judge_batch_size,
                advance=lambda judged: progress.advance(task, judged),
            )
    except KeyboardInterrupt:
        return _interrupted(arena)
    standings = Standings.of(result)
    console = Console(highlight=False)
    print_standings(console, standings)
    page = write_files(result, standings, arena.contestants, arena.directory)
    console.print(f"\nSaved {page}, arena.json, arena.parquet and the answers.", soft_wrap=True, markup=False)
    return 0


@contextmanager
def _going_on(arena: "Arena"):
    """Says of what ends a run that nothing is lost."""
    from ..evaluation.arena import SamplingError
    from ..judges.base import JudgeError

    try:
        yield
    except (JudgeError, SamplingError) as error:
        raise type(error)(f"{error} {_how_to_go_on(arena)}") from error


def _how_to_go_on(arena: "Arena") -> str:
    records = [record for answers in arena.answers.values() for record in answers.records.values()]
    answers = sum(record["completion"] is not None for record in records)
    return f"{answers:,} answers are in {arena.directory}, and what was judged: the same command goes on from there."


def _interrupted(arena: "Arena") -> int:
    print(f"trl-nash: interrupted. {_how_to_go_on(arena)}", file=sys.stderr)
    return 130


def _print_plan(arena: "Arena", options: argparse.Namespace, kwargs: dict[str, Any]) -> None:
    """What the command will cost: models, answers, judgements, and time where an earlier run has measured it."""
    from rich.console import Console
    from rich.markup import escape

    from ..evaluation.report import text_table
    from ..planning.run.judge import judge_of

    console, seconds, unknown = Console(highlight=False), 0.0, []
    table = text_table("policy", "from", "answers to get", "seconds")
    for contestant in arena.contestants:
        missing, each = arena.missing(contestant), arena.answers[contestant.name].seconds
        sampled = missing and not contestant.is_file
        time = "" if not sampled else "not measured yet" if each is None else f"{missing * each:,.0f}"
        seconds += missing * each if sampled and each is not None else 0.0
        unknown += [contestant.name] if sampled and each is None else []
        table.add_row(*map(escape, (contestant.name, f"{contestant.kind} {contestant.spec}", f"{missing:,}", time)))
    console.print(table)
    if options.user is not None:
        console.print(_dialogues_text(arena), soft_wrap=True, markup=False)
    left, each = arena.to_judge(options.judge, kwargs)
    pairs, todo = arena.pairs(), sum(map(len, left.values()))
    judge = judge_of([options.judge], kwargs)
    console.print(
        f"\n{len(arena.rows):,} prompts, {pairs:,} pairs of answers, of which {options.judge} has judged "
        f"{pairs - todo:,}. To judge: {todo:,} pairs, which are {questions(left, judge)}; what its cache has is not "
        "asked.",
        soft_wrap=True,
        markup=False,
    )
    unknown = [f"answers of {name}" for name in unknown] + ["judgements"] * (todo > 0 and each is None)
    if unknown:
        console.print(f"Time not measured yet: {', '.join(unknown)}.", soft_wrap=True, markup=False)
    else:
        console.print(f"About {seconds + todo * (each or 0):,.0f} seconds in all.", soft_wrap=True, markup=False)


def questions(left: dict[int, list[tuple[int, int]]], judge: "Judge") -> str:
    """What a judge is asked about pairs, by prompt: pairs, or all answers to a prompt, or each by itself."""
    from ..planning.known import GROUP_JUDGES, SCORERS

    orders = ("one order", "both orders")[judge.orders - 1]
    if judge.kind in SCORERS:
        return f"{sum(len({place for pair in own for place in pair}) for own in left.values()):,} answers to score"
    if judge.kind in GROUP_JUDGES:
        return f"{judge.orders * sum(map(bool, left.values())):,} requests, all answers to a prompt in {orders}"
    return f"{judge.orders * sum(map(len, left.values())):,} questions in {orders}"


def _dialogues_text(arena: "Arena") -> str:
    sampling, count = arena.sampling, sum(arena.missing(one) for one in arena.contestants if not one.is_file)
    turns = count * sampling.turns
    return (
        f"\nAn answer is a dialogue with {sampling.user}, of {sampling.turns} turns of the policy at most. To play: "
        f"{count:,} dialogues, at most {turns:,} turns and {turns * sampling.max_new_tokens:,} tokens of theirs, and "
        f"{turns - count:,} calls of the user."
    )


def check(options: argparse.Namespace) -> dict[str, Any]:
    """
    Refuses options that cannot be used.

    Returns:
        `dict`: The arguments of the judge.

    Raises:
        UsageError: In one sentence.
    """
    from ..evaluation.arena import Sampling, read_contestants

    read_contestants(options.policies)
    if options.best_of < 0 or options.best_of == 1:
        raise UsageError(f"--best_of must be 2 or more, got {options.best_of}.")
    if options.judge_batch_size < 1:
        raise UsageError(f"--judge_batch_size must be at least 1, got {options.judge_batch_size}.")
    if options.chat_template_kwargs is not None:
        options.chat_template_kwargs = read_kwargs("chat_template_kwargs", options.chat_template_kwargs)
    names = ("temperature", "top_p", "max_new_tokens", "batch_size", "user", "max_turns")
    Sampling(**{name: getattr(options, name) for name in names})
    if Path(options.output_dir).is_file():
        raise UsageError(f"--output_dir {options.output_dir} is a file: name a folder.")
    return read_kwargs("judge_kwargs", options.judge_kwargs)


def _parse(argv: list[str]) -> argparse.Namespace:
    from ..evaluation.arena.sampling import Sampling

    parser = StrictParser(
        prog="trl-nash arena",
        description="Have policies answer the same prompts and a judge compare the answers, and see who wins.\n\n"
        + _POLICIES,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = parser.add_argument, Sampling()
    add("policies", metavar="POLICY", nargs="*", help="model, adapter, file of completions or openai:MODEL@URL")
    add("--prompts", metavar="FILE", help="the prompts: .jsonl, .json, .csv, .tsv, .txt or .parquet")
    add("--prompt_column", metavar="NAME", help="of the file (default: as in training)")
    add("--judge", metavar="SPEC", help="as in training: key:target or module:name")
    add("--judge_kwargs", metavar="JSON", help="its arguments, '{\"temperature\": 0.5}'")
    add("--judge_batch_size", type=int, default=128, metavar="N", help="pairs a call (default: %(default)s)")
    add(
        "--best_of",
        type=int,
        default=0,
        metavar="N",
        help="have the best of N further answers of each policy play too",
    )
    add("--output_dir", metavar="DIR", default="arena", help="where all is kept (default: %(default)s)")
    add("--dry_run", action="store_true", help="say what it will cost, and stop")
    for name, kind, text in (
        ("temperature", float, "of the answers; 0 takes the likeliest token"),
        ("top_p", float, "the share of the likeliest tokens that are drawn from"),
        ("max_new_tokens", int, "after which an answer is cut"),
        ("seed", int, "of the answers"),
        ("batch_size", int, "prompts in a call of a model, requests to a server at a time"),
        ("dtype", str, "of the weights of models: auto, bfloat16, float16 or float32"),
    ):
        add(f"--{name}", type=kind, default=getattr(default, name), metavar="X", help=f"{text} (default: %(default)s)")
    add("--user", metavar="SPEC", help="as in training: who answers the policies, so that an answer is a dialogue")
    add("--max_turns", type=int, metavar="N", help="as in training: of the policy in a dialogue (default: 4)")
    add("--trust_remote_code", action="store_true", help="run code that comes with a model")
    add("--chat_template_kwargs", metavar="JSON", help="as in training: '{\"enable_thinking\": false}'")
    add("--strip_thinking", action="store_true", help="judge what stands behind </think>")
    options = parser.parse_args(argv)
    for name, what in (("prompts", "a file of prompts"), ("judge", "a judge")):
        if getattr(options, name) is None:
            raise UsageError(f"{what} is needed: trl-nash arena POLICY POLICY --prompts FILE --judge SPEC.")
    return options
