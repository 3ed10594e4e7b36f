# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From the options of a training command to datasets with a `prompt` column."""

from dataclasses import dataclass
from typing import Any

from ...data.check import check_row, check_rows
from ...data.files import load_splits, take_split
from ...data.prompts import Reading, concatenated, how_to_read, with_prompts
from ..errors import is_first_process


@dataclass(frozen=True)
class Prompts:
    """
    Datasets with a `prompt` column, a string or a list of messages, beside all columns that they came with.

    Args:
        name (`str`):
            What the prompts were read from.
        train ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]):
            Prompts to train on.
        evaluation ([`~datasets.Dataset`] or [`~datasets.IterableDataset`], *optional*):
            Prompts to evaluate on, if evaluation was asked for.
        column (`str`):
            The column that the prompts were read from, with those that are joined to it; of several datasets, all.
        first (`dict`):
            The first training row.
    """

    name: str
    train: Any
    evaluation: Any
    column: str
    first: dict


def load_prompts(script_args, mixture_args, render, *, evaluate: bool, seed: int) -> Prompts:
    """
    Loads what `--dataset_name` or the `datasets:` section names and finds the prompts in it.

    Args:
        script_args ([`~trl_nash.cli.options.parser.NashScriptArguments`]):
            Name, splits and prompt column.
        mixture_args ([`~trl.DatasetMixtureConfig`]):
            The mixture, if any, and `test_split_size`, which holds for a single dataset too.
        render ([`~trl_nash.generation.prompts.PromptRenderer`]):
            What the policy reads as a chat, and what as text.
        evaluate (`bool`):
            Whether an evaluation split is needed.
        seed (`int`):
            Of the division by `test_split_size`.

    Returns:
        [`Prompts`]

    Raises:
        ValueError: If a split, the prompt column or a prompt is missing.
        FileNotFoundError: If a file is.
    """
    evaluation, wanted = None, script_args.prompt_column
    if mixture_args.datasets:
        train, name, column = _load_mixture(mixture_args, wanted, render)
        if evaluate and mixture_args.test_split_size is None:
            raise ValueError(f"{name} has no split to evaluate on: set some of it aside with --test_split_size 0.1.")
    else:
        name = script_args.dataset_name
        splits = load_splits(name, script_args.dataset_config, script_args.dataset_streaming)
        rows = take_split(splits, script_args.dataset_train_split, name, "--dataset_train_split")
        reading = how_to_read(rows, name, wanted, render)
        train, column = _with_prompts(rows, reading, render), reading.columns
        if evaluate and mixture_args.test_split_size is None:
            option = "--dataset_test_split NAME or --test_split_size 0.1"
            rows = take_split(splits, script_args.dataset_test_split, name, option)
            evaluation = _with_prompts(rows, reading, render)
    if mixture_args.test_split_size is not None:
        if not hasattr(train, "train_test_split"):
            raise ValueError(f"--test_split_size cannot divide {name} while it is streamed: name a split instead.")
        size = mixture_args.test_split_size  # a share or, from 1 on, a number of rows
        halves = train.train_test_split(test_size=int(size) if size >= 1 else size, seed=seed)
        train, evaluation = halves["train"], halves["test"]
    return Prompts(name, train, evaluation, column, next(iter(train)))


def _with_prompts(rows, reading: Reading, render):
    """The rows with their prompts, each of which can be rendered; of a stream the first."""
    prompts = with_prompts(rows, reading)
    if hasattr(prompts, "__len__"):
        check_rows(prompts, render, reading.name)
    else:
        check_row(next(iter(prompts)), render, f"row 0 of `{reading.name}`")
    return prompts


def _load_mixture(mixture_args, wanted: str | None, render) -> tuple[Any, str, str]:
    """The datasets of the `datasets:` section as one, each resolved by itself; their names and columns."""
    parts, columns, names = [], [], [item.path for item in mixture_args.datasets]
    for item in mixture_args.datasets:
        options = {"data_dir": item.data_dir, "data_files": item.data_files}
        options = {option: value for option, value in options.items() if value is not None}
        splits = load_splits(item.path, item.name, mixture_args.streaming, **options)
        rows = take_split(splits, item.split, item.path, "`split`")
        rows = rows if item.columns is None else rows.select_columns(item.columns)
        reading = how_to_read(rows, item.path, wanted, render)
        parts.append(_with_prompts(rows, reading, render))
        columns.append(reading.columns)
    parts = _in_proportion(parts, [item.fraction for item in mixture_args.datasets], mixture_args.streaming)
    train, left_out = concatenated(parts, names)
    if left_out and is_first_process():
        listed = ", ".join(map(repr, left_out))
        print(f"Note: {listed} of {' + '.join(names)} are of different kinds, and are left out.", flush=True)
    return train, " + ".join(names), " + ".join(columns)


def _in_proportion(parts: list, fractions: list[float | None], streaming: bool) -> list:
    """The first rows of each dataset, as many as its share of the largest mixture that repeats none, as TRL has it."""
    if all(fraction is None for fraction in fractions):
        return parts
    if None in fractions:
        raise ValueError("datasets: set `fraction` of all datasets in the mixture, or of none.")
    if streaming:
        raise ValueError("datasets: `fraction` cannot be taken of streamed datasets, whose sizes nobody knows.")
    shares = [fraction / sum(fractions) for fraction in fractions]
    total = min(len(part) / share for part, share in zip(parts, shares, strict=True) if share > 0)
    return [part.select(range(round(share * total))) for part, share in zip(parts, shares, strict=True)]
