# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Datasets with a `prompt` column, from one of any shape or from several."""

from typing import Any, NamedTuple

from .. import __version__
from .columns import as_turn, beside, find_prompt_column, read_prompt


class Reading(NamedTuple):
    """How a dataset's prompts are read."""

    name: str  # of the dataset, for messages
    column: str  # that they are read from
    chat: bool  # whether there are messages to make of a text that is several turns
    turns: bool  # whether a text becomes a turn of the user
    beside: tuple[str, ...] = ()  # other columns that are read, where they hold something

    @property
    def columns(self) -> str:
        """`'instruction' with 'input'`."""
        others = " and ".join(map(repr, self.beside))
        return repr(self.column) + (f" with {others}" if others else "")


def how_to_read(dataset, name: str, column: str | None = None, render=None) -> Reading:
    """
    How the prompts of a dataset are read, by its first row.

    Args:
        dataset ([`~datasets.Dataset`] or [`~datasets.IterableDataset`]): of any shape.
        name (`str`): its name, for messages.
        column (`str`, *optional*): the column that holds them, if the user says so.
        render ([`PromptRenderer`], *optional*): the policy's: what it reads as a chat, and what as text.

    Returns:
        [`Reading`]

    Raises:
        `ValueError`: if there is no row, or no column of prompts.
    """
    row = next(iter(dataset), None)
    if row is None:
        raise ValueError(f"{name} has no rows.")
    column = find_prompt_column(row, column, name)
    chat = render is None or render.chats
    try:
        first = read_prompt(row, column, chat=chat)
    except ValueError:
        first = ""  # said with its number when it is read again
    # A text with the template's markup stays a text, or it would be wrapped twice.
    turns = chat and not (isinstance(first, str) and render is not None and render.is_rendered(first))
    return Reading(name, column, chat, turns, tuple(beside(row, column)))


def with_prompts(dataset, reading: Reading):
    """
    The dataset with a `prompt` column, beside all columns that it came with.

    Raises:
        `ValueError`: if a row has no prompt; of a stream when the row comes.
    """
    settings = reading._asdict() | {"version": __version__}  # a cache of another version is another one
    del settings["beside"]
    return dataset.map(_add_prompt, with_indices=True, fn_kwargs=settings)


def _add_prompt(row: dict[str, Any], index: int, name: str, column: str, chat: bool, turns: bool, version: str):
    try:
        prompt = read_prompt(row, column, chat=chat)
    except ValueError as error:
        raise ValueError(
            f"{name}: the prompt of row {index} (column {column!r}) cannot be used: {error}. It is "
            f"{row.get(column)!r:.80}. Repair or remove it."
        ) from None
    return {"prompt": as_turn(prompt) if turns else prompt}


def concatenated(datasets_: list, names: list[str]) -> tuple[Any, list[str]]:
    """
    Datasets with prompts as one. A column that some of them lack is empty there; one that is of another kind in
    another of them is left out.

    Args:
        datasets_ (`list`): of [`with_prompts`].
        names (`list[str]`): their names, for the message.

    Returns:
        The dataset, and the columns that were left out.

    Raises:
        `ValueError`: if the prompts of some are text and those of others are messages.
    """
    import datasets
    import pyarrow as pa

    if any(dataset.features is None for dataset in datasets_):  # streams whose types nobody knows yet
        return datasets.concatenate_datasets(datasets_), []
    kept, left_out = {}, []
    for column in dict.fromkeys(name for dataset in datasets_ for name in dataset.features):
        features = [dataset.features[column] for dataset in datasets_ if column in dataset.features]
        schemas = [datasets.Features({column: feature}).arrow_schema.remove_metadata() for feature in features]
        try:
            one = datasets.Features.from_arrow_schema(pa.unify_schemas(schemas, promote_options="permissive"))
        except pa.ArrowTypeError:
            left_out.append(column)
            continue
        kept[column] = features[0] if all(feature == features[0] for feature in features) else one[column]
    if "prompt" in left_out:
        raise ValueError(
            f"Of {' + '.join(names)} some have prompts of text, and others of messages: make them one kind."
        )
    aligned = []
    for dataset in datasets_:
        columns = [column for column in kept if column in dataset.column_names]
        aligned.append(dataset.select_columns(columns).cast(datasets.Features({c: kept[c] for c in columns})))
    return datasets.concatenate_datasets(aligned), left_out
