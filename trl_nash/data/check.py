# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Every prompt is rendered before the first is sampled, so that none of them ends a run in its middle."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from accelerate.logging import get_logger
from datasets import Dataset

from ..judges.calls import joined
from .columns import check_turns
from .messages import prompt_of


logger = get_logger("trl_nash")  # speaks on the main process only

AT_ONCE = 1000  # rows that are read at a time
_BEFORE_A_BAR = 3.0  # seconds of silence
_checked: set[tuple] = set()  # tables that this process has been through, and for which renderer


def check_rows(dataset, render: Callable, name: str) -> None:
    """
    Renders every prompt of a map-style dataset. A table that was checked for the same renderer is not read again.

    Args:
        dataset ([`~datasets.Dataset`] or a sequence of rows): with prompts.
        render ([`PromptRenderer`]): the policy's.
        name (`str`): what the user calls the dataset.

    Raises:
        `ValueError`: names the first row that cannot be used, shows its beginning and says why.
    """
    if _key(dataset, render) in _checked:
        return
    rendered, first, unseen = 0, None, False
    for index, row in enumerate(_shown(dataset, name)):
        prompt = row.get("prompt")
        check_row(row, render, f"row {index} of `{name}`")
        if isinstance(prompt, str) and render.is_rendered(prompt):
            rendered, first = rendered + 1, index if first is None else first
        unseen = unseen or (bool(row.get("tools")) and not render.takes_tools)
    if rendered:
        logger.warning(
            "%d of %d prompts of `%s`, the first in row %d, have the markup of the tokenizer's chat template already: "
            "they are left as they are, and not made turns of the user.",
            *(rendered, len(dataset), name, first),
        )
    if unseen:
        logger.warning(
            "`%s` has a column `tools`, and the tokenizer's chat template shows the model none: only the judge sees "
            "it.",
            name,
        )
    remember(dataset, render)


def remember(dataset, render: Callable) -> None:
    """Takes the rows of a table as checked: they are some that were."""
    if (key := _key(dataset, render)) is not None:
        _checked.add(key)


def _key(dataset, render: Callable) -> tuple | None:
    return (dataset._fingerprint, render.settings) if isinstance(dataset, Dataset) else None


def check_row(row: dict[str, Any], render: Callable, where: str) -> None:
    """Refuses a row whose prompt is neither text nor a conversation that the template renders."""
    prompt = row.get("prompt")
    try:
        check_prompt(prompt)
        render.text(prompt_of(row))
    except ValueError as error:
        raise ValueError(
            f"The prompt in {where} is {repr(prompt)[:80]}: {error}. Filter such rows out with `dataset.filter`."
        ) from error


def check_prompt(prompt: Any) -> None:
    """Refuses what is neither text nor a conversation that a model can answer."""
    if isinstance(prompt, str) and prompt.strip():
        return
    if not (isinstance(prompt, list) and prompt and all(isinstance(m, dict) and "role" in m for m in prompt)):
        raise ValueError("a prompt is a text or a list of messages, and not empty")
    check_turns(joined([{"content": None} | message for message in prompt]))


def _shown(dataset, name: str) -> Iterator[dict[str, Any]]:
    """The prompts of a dataset with their tools, and a bar if that takes long."""
    from tqdm import tqdm

    quiet = os.environ.get("RANK", "0") != "0"
    start = time.monotonic()
    with tqdm(
        total=len(dataset),
        desc=f"rendering {name}",
        unit="row",
        delay=_BEFORE_A_BAR,
        mininterval=1.0,
        leave=False,
        disable=quiet,
    ) as bar:
        for row in _rows(dataset):
            yield row
            bar.update()
    seconds = time.monotonic() - start
    if seconds > _BEFORE_A_BAR:
        logger.info("Rendered %d prompts of `%s` in %.0f s.", len(dataset), name, seconds)


def _rows(dataset) -> Iterator[dict[str, Any]]:
    if not isinstance(dataset, Dataset):
        yield from (dataset[index] for index in range(len(dataset)))
        return
    needed = [column for column in ("prompt", "tools") if column in dataset.column_names]
    for start in range(0, len(dataset), AT_ONCE):
        columns = dataset.select_columns(needed)[start : start + AT_ONCE]
        yield from (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
