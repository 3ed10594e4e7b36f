# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Which of a prompt's K completions are compared, and which of the compared pairs are trained on."""

from itertools import combinations

import torch

from ..objectives import best_and_worst


PAIR_SELECTIONS = ("all", "iid", "best_worst", "tournament")


def compared_pairs(count: int, selection: str) -> list[tuple[int, int]]:
    """The pairs of K completions that a judge is asked: all of them, or floor(K/2) that share no completion."""
    if selection == "iid":
        return list(zip(range(0, count, 2), range(1, count, 2), strict=False))
    return list(combinations(range(count), 2))


def trained_pairs(
    preference: torch.Tensor, pairs: list[tuple[int, int]], count: int, selection: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The pairs to train on: those that were compared, or each prompt's best against its worst.

    Args:
        preference (`torch.Tensor` of shape `(B, M)`): `P(first ≻ second)` of the compared pairs; `nan` abstains.
        pairs (`list[tuple[int, int]]`): the M compared pairs.
        count (`int`): K.
        selection (`str`): one of `PAIR_SELECTIONS`.

    Returns:
        Pairs of shape `(B, M', 2)` and their preferences of shape `(B, M')`.
    """
    table = torch.tensor(pairs)
    if selection == "best_worst":
        return best_and_worst(preference, table, count)
    return table.expand(len(preference), -1, -1), preference
