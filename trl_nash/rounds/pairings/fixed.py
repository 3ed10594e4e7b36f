# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Pairings that do not look at verdicts: all pairs, disjoint ones, some at random, a ring, or those that are given."""

from abc import abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from math import comb

import numpy as np

from .base import Compared, Groups, Pairing, all_pairs


class _Fixed(Pairing):
    """The same pairs of every prompt."""

    exact = True
    bias = "none: which pairs are asked does not depend on what the completions are"

    @abstractmethod
    def pairs(self, count: int) -> np.ndarray:
        """Of shape (M, 2)."""

    def calls(self, count: int) -> int:
        return len(self.pairs(count))

    def play(self, groups: Groups) -> Generator[np.ndarray, np.ndarray, Compared]:
        pairs = groups.each(self.pairs(groups.count))
        return Compared.plain(pairs, (yield pairs))


class All(_Fixed):
    """All K(K-1)/2 pairs."""

    name = "all"

    def pairs(self, count: int) -> np.ndarray:
        return all_pairs(count)


class Iid(_Fixed):
    """⌊K/2⌋ pairs that share no completion."""

    name = "iid"

    def pairs(self, count: int) -> np.ndarray:
        return np.arange(count // 2 * 2).reshape(-1, 2)


class Circular(_Fixed):
    """A ring: each completion against the next one, K pairs in which each is in two."""

    name = "circular"

    def pairs(self, count: int) -> np.ndarray:
        first = np.arange(count if count > 2 else 1)
        return np.stack([first, (first + 1) % count], axis=1)


@dataclass(frozen=True)
class Given(_Fixed):
    """
    The pairs that are given, as of a method that samples opponents of its own.

    Args:
        given (`tuple[tuple[int, int], ...]`): M pairs.
    """

    name = "given"
    given: tuple[tuple[int, int], ...]

    def pairs(self, count: int) -> np.ndarray:
        return np.array(self.given, dtype=np.int64)


@dataclass(frozen=True)
class Random(Pairing):
    """
    M of the pairs of each prompt, drawn without replacement.

    Args:
        pairs_per_prompt (`int`): M.
    """

    name = "random"
    exact = True
    bias = "none: every pair is as likely to be asked"
    pairs_per_prompt: int

    def calls(self, count: int) -> int:
        return self.pairs_per_prompt

    def check(self, count: int) -> None:
        super().check(count)
        check_pairs_per_prompt(self.pairs_per_prompt, count)

    def play(self, groups: Groups) -> Generator[np.ndarray, np.ndarray, Compared]:
        everything = all_pairs(groups.count)
        order = groups.generator.random((groups.num_prompts, len(everything))).argsort(axis=1)
        pairs = everything[np.sort(order[:, : self.pairs_per_prompt], axis=1)]
        return Compared.plain(pairs, (yield pairs))


def check_pairs_per_prompt(pairs: int, count: int) -> None:
    """Raises `ValueError` unless a prompt with K completions has so many pairs."""
    if not 1 <= pairs <= comb(count, 2):
        raise ValueError(
            f"`pairs_per_prompt` is how many of the {comb(count, 2)} pairs of {count} completions are compared, from "
            f"1 to {comb(count, 2)}, got {pairs}."
        )
