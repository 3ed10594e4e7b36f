# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Judges for trainers that take rewards."""

import json
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np


def as_reward_func(judge: Any, **kwargs) -> Callable[..., list[float | None]]:
    """
    Make a judge a reward function of TRL's trainers (OnlineDPOTrainer, GRPOTrainer, RLOOTrainer): the reward of a
    completion is its mean win rate against the other completions of its prompt in the batch.

    Args:
        judge ([`PairwiseJudge`], `Callable` or `str`):
            Anything that [`load_judge`] takes.
        kwargs:
            Arguments of a judge given by name.

    Returns:
        `Callable`: a function `(prompts, completions, **columns) -> list[float | None]` for `reward_funcs`. `None`
        where the judge had no verdict on any of a completion's pairs. It raises a `ValueError` for a completion that
        is alone with its prompt. A process sees its own batch only.

    Example:

    ```python
    >>> trainer = GRPOTrainer(model, reward_funcs=as_reward_func("openai:gpt-4.1-mini"), ...)
    ```
    """
    from . import load_judge

    judge = load_judge(judge, **kwargs)

    def win_rate(prompts, completions, completion_ids=None, trainer_state=None, **columns):
        columns = {name: values for name, values in columns.items() if _one_each(values, prompts)}
        texts = [text if isinstance(text, str) else text[-1]["content"] for text in completions]
        groups = defaultdict(list)  # prompt and columns -> its rows, wherever in the batch they are
        for row, context in enumerate(zip(prompts, *columns.values(), strict=True)):
            groups[json.dumps(context, default=id)].append(row)
        rewards: list[float | None] = [None] * len(prompts)
        for size in sorted(set(map(len, groups.values()))):
            if size == 1:
                raise ValueError(
                    "The reward of a completion is its win rate against others of its prompt in the batch of a "
                    "process, and there is none: raise `num_generations`, or the batch size to a multiple of it."
                )
            some = np.array([rows for rows in groups.values() if len(rows) == size])
            pairs = list(combinations(range(size), 2))
            preference = judge.compare(
                [prompts[rows[0]] for rows in some],
                [[texts[row] for row in rows] for rows in some],
                pairs,
                columns={name: [values[rows[0]] for rows in some] for name, values in columns.items()},
                completion_ids=completion_ids and [[completion_ids[row] for row in rows] for rows in some],
                trainer_state=trainer_state,
            )
            for k in range(size):
                # P(completion k ≻ other) in every pair that has it
                wins = np.stack(
                    [
                        preference[:, m] if i == k else 1 - preference[:, m]
                        for m, (i, j) in enumerate(pairs)
                        if k in (i, j)
                    ]
                )
                for row, won in zip(some[:, k], wins.T, strict=True):
                    rewards[row] = None if np.isnan(won).all() else float(np.nanmean(won))
        return rewards

    win_rate.__name__ = f"win_rate_{judge.name}"
    return win_rate


def _one_each(values: Any, prompts: list) -> bool:
    """Whether these are values of a dataset's column: trainers pass other things by keyword too."""
    return isinstance(values, list) and len(values) == len(prompts)
