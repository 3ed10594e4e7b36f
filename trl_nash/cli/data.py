# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From a dataset as people have it to the `prompt` column that the trainers read."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .options import did_you_mean


BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
# In the order in which they are looked for. `chosen` stands for what it shares with `rejected`.
LAST_ROLES = ("user", "tool", "assistant")  # of a message that a model can go on from
PROMPT_COLUMNS = ("prompt", "context_messages", "messages", "chosen", "instruction", "question")


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
            The column that the prompts were read from.
        first (`str` or `list[dict]`):
            The first training prompt.
    """

    name: str
    train: Any
    evaluation: Any
    column: str
    first: str | list[dict]


def load_prompts(script_args, mixture_args, tokenizer, *, evaluate: bool, seed: int) -> Prompts:
    """
    Loads what `--dataset_name` or the `datasets:` section names and finds the prompts in it.

    Args:
        script_args ([`~trl_nash.cli.parser.NashScriptArguments`]):
            Name, splits and prompt column.
        mixture_args ([`~trl.DatasetMixtureConfig`]):
            The mixture, if any, and `test_split_size`, which holds for a single dataset too.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its chat template decides whether a string becomes a user turn.
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
    name = script_args.dataset_name
    if mixture_args.datasets:
        from ..compat import get_dataset

        name = " + ".join(item.path for item in mixture_args.datasets)
        sources = [_as_builder(item) for item in mixture_args.datasets]
        splits = get_dataset(replace(mixture_args, datasets=sources, test_split_size=None))
        train_split, test_split = "train", "test"
    else:
        splits = _load_splits(name, script_args.dataset_config, script_args.dataset_streaming)
        train_split, test_split = script_args.dataset_train_split, script_args.dataset_test_split

    train = _split(splits, train_split, name, "--dataset_train_split")
    evaluation = None
    if mixture_args.test_split_size is not None:
        if not hasattr(train, "train_test_split"):
            raise ValueError(f"--test_split_size cannot divide {name} while it is streamed: name a split instead.")
        size = mixture_args.test_split_size  # a share or, from 1 on, a number of rows
        halves = train.train_test_split(test_size=int(size) if size >= 1 else size, seed=seed)
        train, evaluation = halves["train"], halves["test"]
    elif evaluate:
        evaluation = _split(splits, test_split, name, "--dataset_test_split NAME or --test_split_size 0.1")

    example = next(iter(train), None)
    if example is None:
        raise ValueError(f"{name} has no rows in its split {train_split!r}.")
    column = find_prompt_column(example, script_args.prompt_column, name)
    conversational = tokenizer.chat_template is not None and not script_args.raw_prompts
    settings = {"column": column, "as_turn": conversational, "dataset": name}
    train = _with_prompts(train, settings)
    first = next(iter(train))["prompt"]
    if not isinstance(first, str) and tokenizer.chat_template is None:
        raise ValueError(
            f"The prompts of {name} (column {column!r}) are conversations, and the model's tokenizer has no chat "
            "template to render them with: use an instruction-tuned model, or a column of strings."
        )
    evaluation = _with_prompts(evaluation, settings) if evaluate else None
    return Prompts(name, train, evaluation, column, first)


def find_prompt_column(example: dict[str, Any], wanted: str | None, dataset: str) -> str:
    """
    The column that holds the prompts: `wanted`, or the first that fits of [`PROMPT_COLUMNS`].

    Args:
        example (`dict[str, Any]`):
            A row.
        wanted (`str`, *optional*):
            What `--prompt_column` says.
        dataset (`str`):
            Its name, for the message.

    Returns:
        `str`

    Raises:
        ValueError: If there is none.
    """
    if wanted is not None and wanted not in example:
        hint = did_you_mean(wanted, example) or f": it has {_listed(example)}."
        raise ValueError(f"--prompt_column {wanted}: {dataset} has no such column{hint}")
    if wanted is not None:
        return wanted
    for column in PROMPT_COLUMNS:
        if column in example and (column != "chosen" or "rejected" in example):
            return column
    raise ValueError(
        f"{dataset} has no prompt column among {_listed(PROMPT_COLUMNS)}; it has {_listed(example)}. Name the one to "
        "use with --prompt_column."
    )


def read_prompt(example: dict[str, Any], column: str, *, as_turn: bool) -> str | list[dict]:
    """
    The prompt of a row.

    Args:
        example (`dict[str, Any]`):
            The row.
        column (`str`):
            Where it is. Of messages, trailing assistant turns are answers and are dropped (but in a column named
            `prompt`, where they are a beginning to be continued); of `chosen`, what it shares with `rejected` is
            taken; `instruction` is followed by a non-empty `input`.
        as_turn (`bool`):
            Whether a string becomes the turn of a user.

    Returns:
        `str` or `list[dict]`

    Raises:
        ValueError: If the prompt is empty or of another kind.
    """
    value = example.get(column)
    if column == "chosen" and "rejected" in example:
        value = _shared_start(value, example["rejected"])
    elif column == "instruction" and _is_text(value) and _is_text(example.get("input")):
        value = f"{value}\n\n{example['input']}"
    if isinstance(value, str):
        if not _is_text(value):
            raise ValueError("it is empty")
        check_characters(value)
        return [{"role": "user", "content": value}] if as_turn else value
    if not isinstance(value, list):
        raise ValueError(f"it is neither text nor a list of messages but {value!r:.80}")
    turns = [dict(turn) if isinstance(turn, dict) else {} for turn in value]
    if any("role" not in turn or "content" not in turn for turn in turns):
        raise ValueError('its messages need a "role" and a "content" each')
    if not all(isinstance(turn["role"], str) and isinstance(turn["content"], str | list | None) for turn in turns):
        raise ValueError('the "role" and the "content" of its messages must be text')
    check_characters(turns)
    while turns and column != "prompt" and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns or not turns[-1]["content"] or not str(turns[-1]["content"]).strip():
        raise ValueError("it is empty")
    if turns[-1]["role"] not in LAST_ROLES:
        raise ValueError(f"its last message is of the role {turns[-1]['role']!r:.80}, which nobody answers")
    return turns


def check_characters(texts: Any) -> None:
    """Refuses what JSON can escape but nobody can write, and no tokenizer reads."""
    try:
        json.dumps(texts, ensure_ascii=False, default=repr).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"it has half of a surrogate pair, {error.object[error.start]!r}, which is no character"
        ) from None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _with_prompts(dataset, settings: dict[str, Any]):
    return dataset.map(_add_prompt, with_indices=True, fn_kwargs=settings)


def _add_prompt(example: dict[str, Any], index: int, column: str, as_turn: bool, dataset: str) -> dict[str, Any]:
    try:
        return {"prompt": read_prompt(example, column, as_turn=as_turn)}
    except ValueError as error:
        raise ValueError(
            f"{dataset}: the prompt of row {index} (column {column!r}) cannot be used: {error}. Repair or remove it."
        ) from None


def _load_splits(name: str, config: str | None, streaming: bool):
    import datasets

    path = Path(name)
    if path.suffix in BUILDERS and (path.is_file() or not path.is_dir()):
        if not path.is_file():
            raise FileNotFoundError(f"--dataset_name {name}: there is no such file.")
        if path.stat().st_size == 0:
            raise ValueError(f"--dataset_name {name}: the file is empty.")
        try:
            return datasets.load_dataset(BUILDERS[path.suffix], data_files=name, streaming=streaming)
        except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
            raise ValueError(f"{name} cannot be read as {path.suffix[1:]}: {error.__cause__ or error}") from error
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return datasets.load_from_disk(name)
    return datasets.load_dataset(name, name=config, streaming=streaming)


def _as_builder(item):
    """Lets a `datasets:` entry name a file as its `path`, as `--dataset_name` does."""
    suffix = Path(item.path).suffix
    return replace(item, path=BUILDERS[suffix], data_files=item.path) if suffix in BUILDERS else item


def _split(splits, wanted: str, name: str, option: str):
    if not isinstance(splits, dict):  # saved to disk without splits
        splits = {"train": splits}
    if wanted not in splits:
        raise ValueError(f"{name} has no split {wanted!r}, it has {_listed(splits)}: choose with {option}.")
    return splits[wanted]


def _shared_start(chosen: Any, rejected: Any) -> Any:
    """What two answers share: the messages before them, or the text up to the word in which they part."""
    if type(chosen) is not type(rejected):
        raise ValueError("`chosen` and `rejected` must both be text, or both messages")
    if isinstance(chosen, list):
        pairs = zip(chosen, rejected, strict=False)
        different = next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
        return chosen[:different]
    if not isinstance(chosen, str):
        raise ValueError(f"`chosen` is neither text nor a list of messages but {chosen!r:.80}")
    shared = os.path.commonprefix([chosen, rejected])
    marker = "\n\nAssistant:"  # of Anthropic's HH and the sets that follow it
    end = shared.rfind(marker) + len(marker) if marker in shared else shared.rfind(" ") + 1
    return shared[:end].rstrip()


def _listed(names: Sequence[str] | dict) -> str:
    return ", ".join(map(repr, names))
