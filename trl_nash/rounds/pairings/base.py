# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
What a pairing is: which pairs of a prompt's K completions a judge is asked, in how many waves, at what price.

A judge says how often one completion beats another; which pairs it is asked is decided here, without a model.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, NamedTuple

import numpy as np


# (B, m, 2) completions as indices below K -> (B, m) P(first beats second), nan where there is no verdict. A pair of a
# completion with itself or with one of the same text costs no judge call.
Ask = Callable[[np.ndarray], np.ndarray]


class Compared(NamedTuple):
    """The pairs that a judge was asked, of all prompts together."""

    pairs: np.ndarray  # (B, M, 2) indices below K
    preference: np.ndarray  # (B, M) P(first beats second); nan abstains
    weights: np.ndarray  # (B, M) of the pair in the mean over the M: 1, or what makes up for how it was chosen

    @classmethod
    def plain(cls, pairs: np.ndarray, preference: np.ndarray) -> "Compared":
        """Pairs that all count alike."""
        return cls(pairs, preference, np.ones(preference.shape))

    @property
    def asked(self) -> np.ndarray:
        """Which of the pairs are some, of shape (B, M): see [`are_pairs`]."""
        return are_pairs(self.pairs)


def are_pairs(pairs: np.ndarray) -> np.ndarray:
    """Which of the pairs are some, of shape (B, M): (0, 0) fills up rows with fewer pairs, and has no verdict."""
    return pairs[..., 0] != pairs[..., 1]


@dataclass
class Groups:
    """
    The completions of B prompts, K each, as a pairing sees them.

    Args:
        num_prompts (`int`): B.
        count (`int`): K.
        seed (`int` or sequence of them, *optional*, defaults to `0`): of what a pairing draws.
        keys (`np.ndarray` of shape `(B, K)`, *optional*):
            Integers that are equal where completions of a prompt are equal: such a pair is a tie that needs no judge.
        out (`np.ndarray` of shape `(B, K)`, *optional*):
            Completions of which no pair will have a verdict: where later pairs depend on verdicts, they count as ones
            on which the judge has abstained already.
    """

    num_prompts: int
    count: int
    seed: int | list[int] = 0
    keys: np.ndarray | None = None
    out: np.ndarray | None = None
    generator: np.random.Generator = field(init=False, repr=False)

    def __post_init__(self):
        if self.out is None:
            self.out = np.zeros((self.num_prompts, self.count), dtype=bool)
        self.generator = np.random.default_rng(self.seed)

    def each(self, pairs: list[tuple[int, int]] | np.ndarray) -> np.ndarray:
        """The same pairs for each prompt, of shape (B, M, 2)."""
        pairs = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        return np.broadcast_to(pairs, (self.num_prompts, *pairs.shape))


class Pairing(ABC):
    """
    Which pairs of K completions are compared.

    Attributes:
        name (`str`): its `pair_selection`.
        exact (`bool`):
            Whether a fit to what is trained on is, in expectation over the completions (and over what the pairing
            draws), the fit to all pairs: one mirror-descent step against the policy that they were sampled from.
        bias (`str`): why it is exact or what it changes, in a sentence.
        least (`int`): the smallest K.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]
    bias: ClassVar[str]
    least: ClassVar[int] = 2

    @abstractmethod
    def calls(self, count: int) -> int:
        """Pairs of a prompt that the judge is asked, for K = `count`."""

    def waves(self, count: int) -> int:
        """How often the judge is asked, one after the other: each wave holds pairs of all prompts."""
        return 1

    def trained(self, count: int) -> int:
        """Pairs of a prompt that are trained on."""
        return self.calls(count)

    @abstractmethod
    def play(self, groups: Groups) -> Generator[np.ndarray, np.ndarray, Compared]:
        """
        Yields waves of pairs, of shape (B, m, 2), each of which is answered with preferences of shape (B, m), and
        returns all that was asked.
        """

    def select(self, compared: Compared, count: int) -> Compared:
        """Those of the asked pairs that are trained on; all, unless the pairing looks for some."""
        return compared

    def check(self, count: int) -> None:
        """Raises `ValueError` if K is too small, or the pairing asks more pairs than there are."""
        if count < self.least:
            raise ValueError(
                f"`pair_selection='{self.name}'` needs `num_generations` of at least {self.least}, got {count}."
            )

    def compare(self, ask: Ask, groups: Groups) -> Compared:
        """
        Asks for the pairs of all prompts, wave after wave.

        Args:
            ask (`Callable`): the judge: pairs of shape (B, m, 2) to `P(first ≻ second)` of shape (B, m).
            groups ([`Groups`]): what is compared.

        Returns:
            [`Compared`]: all M pairs that were asked.
        """
        self.check(groups.count)
        game = self.play(groups)
        wave = next(game)
        while True:
            try:
                wave = game.send(np.asarray(ask(wave), dtype=np.float64))
            except StopIteration as end:
                return end.value


class InWaves(Pairing):
    """
    A pairing whose later pairs depend on earlier verdicts.

    A judge may have nothing to say of a completion, whoever it meets. It is known by its *silence*: how many pairs it
    has been in without ever a verdict, 0 once it has had one. Who is out begins with one, and is seated last.
    """

    @abstractmethod
    def stages(self, silence: np.ndarray) -> Generator[np.ndarray, np.ndarray, None]:
        """
        Yields waves of pairs of seats, of shape (B, m, 2), as [`Pairing.play`] does; what was asked is kept here.

        Args:
            silence (`np.ndarray` of shape `(B, K)`): of each seat. It is brought up to date behind each wave.
        """

    def play(self, groups: Groups) -> Generator[np.ndarray, np.ndarray, Compared]:
        seated = np.argsort(groups.out, axis=1, kind="stable")
        silence = take(groups.out, seated).astype(int)
        unheard, rows = silence.copy(), np.arange(groups.num_prompts)[:, None]
        heard = np.zeros(silence.shape, dtype=bool)
        stages = self.stages(silence)
        asked, answers = [], []
        wave = next(stages)
        while True:
            asked.append(seated[rows[..., None], wave])
            preference = yield asked[-1]
            answers.append(preference)
            for side in np.moveaxis(wave, -1, 0):
                np.add.at(unheard, (rows, side), np.isnan(preference))
                np.logical_or.at(heard, (rows, side), ~np.isnan(preference))
            silence[:] = np.where(heard, 0, unheard)
            try:
                wave = stages.send(preference)
            except StopIteration:
                return Compared.plain(np.concatenate(asked, axis=1), np.concatenate(answers, axis=1))


def asked_once(ask: Ask, keys: np.ndarray) -> Ask:
    """
    The same judge for a pairing of several waves: what an earlier wave has asked is answered from memory, abstentions
    too, and stands in later ones as a completion with itself.

    Args:
        ask (`Callable`): the judge.
        keys (`np.ndarray` of shape `(B, N)`): integers that are equal where completions of a prompt are equal.
    """
    rows, count = np.arange(len(keys))[:, None], keys.shape[1]
    same = (keys[:, :, None] == keys[:, None]).argmax(axis=2)  # the first that is equal
    known, table = np.zeros((len(keys), count, count), dtype=bool), np.full((len(keys), count, count), np.nan)

    def once(pairs: np.ndarray) -> np.ndarray:
        first, second = (take(same, pairs[..., side]) for side in (0, 1))
        old = known[rows, first, second] & (first != second)
        preference = table[rows, first, second]
        if not old.all():
            preference = np.where(old, preference, np.asarray(ask(np.where(old[..., None], 0, pairs)), np.float64))
        for i, j, p in ((first, second, preference), (second, first, 1 - preference)):
            known[rows, i, j], table[rows, i, j] = True, p
        return preference

    return once


def or_silent(preference: np.ndarray, first: np.ndarray, second: np.ndarray, silence: np.ndarray) -> np.ndarray:
    """Verdicts, of shape (B, m); where there is none, who has been silent longer has lost, and else it is a tie."""
    longer = np.sign(take(silence, second) - take(silence, first))
    return np.where(np.isnan(preference), (1 + longer) / 2, preference)


def all_pairs(count: int) -> np.ndarray:
    """The N = K(K-1)/2 pairs of K completions, of shape (N, 2)."""
    return np.array(list(combinations(range(count), 2)), dtype=np.int64).reshape(-1, 2)


def best_first(values: np.ndarray) -> np.ndarray:
    """The places of each row's values from the largest to the smallest, ties as they come, of shape (B, N)."""
    return np.argsort(-values, axis=1, kind="stable")


def take(players: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`players[b, places[b]]` of each row b."""
    return np.take_along_axis(players, places, axis=1)
