# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Win rates of policies against each other, and what they say of the game that the policies are the answers of.

Every figure is a function of the mean win rates, and its interval comes from resampling prompts: the verdicts of a
prompt go together, since all policies answered the same question.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ..judges.transcript import own_words
from .measures import preferences
from .resampling import expanded_tail, lower_band, resampled_means, weighted_means
from .scores import at_equal_lengths, bradley_terry, equilibrium, exploitability, known_exploitability, unexplained


class Estimate(NamedTuple):
    """A figure of the mean win rates, and its interval: three floats, or arrays of one shape."""

    value: Any
    low: Any
    high: Any


class Cycle(NamedTuple):
    """Three policies of which each beats the next, and the last one the first: at least by `strength` over ½."""

    policies: tuple[str, str, str]
    strength: float


class BradleyTerry(NamedTuple):
    """
    The scores that explain win rates best, by likelihood, and what they leave unexplained.

    Attributes:
        scores (`np.ndarray` of shape `(N,)`): in logits, with mean 0; times `ELO` they are Elo points.
        residual (`np.ndarray` of shape `(N, N)`): win rate - σ(s_i - s_j), which no single score can fit.
    """

    scores: np.ndarray
    residual: np.ndarray


class WinRateMatrix:
    r"""
    Who beats whom among N policies, on B prompts.

    Args:
        names (`Sequence[str]`):
            Of the policies, each once.
        preferences (`ArrayLike` of shape `(B, N, N)`):
            P(the answer of policy i beats that of policy j) for each prompt, in [0, 1]; `P + Pᵀ = 1`. `nan` is a pair
            that was not judged. The diagonal is not read.
        lengths (`ArrayLike` of shape `(B, N)`, *optional*):
            Of the answers, in characters; for `length_controlled`.
        resamples (`int`, *optional*, defaults to `1000`):
            Of the prompts, for intervals.
        seed (`int`, *optional*, defaults to `0`):
            Of these resamples.

    Raises:
        `ValueError`: If there are fewer than two policies or prompts, two policies of one name, another shape, or
        anything but probabilities.

    Example:

    ```python
    >>> matrix = WinRateMatrix(["start", "aligned"], [[[0.5, 0.2], [0.8, 0.5]], [[0.5, 0.4], [0.6, 0.5]]])
    >>> round(float(matrix.rates[1, 0]), 3)
    0.7
    ```
    """

    def __init__(
        self,
        names: Sequence[str],
        preferences: ArrayLike,
        lengths: ArrayLike | None = None,
        *,
        resamples: int = 1000,
        seed: int = 0,
    ):
        self.names = tuple(names)
        count = len(self.names)
        if count < 2:
            raise ValueError(f"A matrix of win rates needs at least two policies, got {count}.")
        if twice := sorted({name for name in self.names if self.names.count(name) > 1}):
            raise ValueError(f"Policies must have different names; there is more than one {twice[0]!r}.")
        p = np.array(preferences, dtype=np.float64)
        if p.ndim != 3 or p.shape[1:] != (count, count):
            raise ValueError(
                f"`preferences` of {count} policies has shape (prompts, {count}, {count}), got {p.shape}."
            )
        if len(p) < 2:
            raise ValueError(f"Intervals are over prompts: at least two are needed, got {len(p)}.")
        p[:, range(count), range(count)] = 0.5
        if np.nanmin(p) < 0 or np.nanmax(p) > 1:
            raise ValueError("`preferences` must be probabilities from 0 to 1.")
        gap = np.abs(p + p.transpose(0, 2, 1) - 1)
        if (np.isnan(p) != np.isnan(p.transpose(0, 2, 1))).any() or np.nanmax(gap) > 1e-6:
            raise ValueError("`preferences[:, i, j] + preferences[:, j, i]` must be 1, or both `nan`.")
        self.preferences = p
        self.lengths = None if lengths is None else np.array(lengths, dtype=np.float64)
        if self.lengths is not None and self.lengths.shape != p.shape[:2]:
            raise ValueError(f"`lengths` has shape (prompts, policies) = {p.shape[:2]}, got {self.lengths.shape}.")
        self._resamples, self._seed = resamples, seed

    @classmethod
    def from_judgements(cls, names: Sequence[str], records: Sequence[Mapping[str, Any]], **kwargs) -> "WinRateMatrix":
        """
        The matrix of judged completions, of which the k-th of every prompt is the k-th policy's.

        Args:
            names (`Sequence[str]`): of the policies.
            records (`Sequence[dict]`): judgements, as [`~trl_nash.evaluation.judgements.Output`] has them.
            kwargs: `resamples` and `seed`.
        """
        rows = {row: index for index, row in enumerate(sorted({record["row"] for record in records}))}
        p = np.full((len(rows), len(names), len(names)), np.nan)
        lengths = np.full(p.shape[:2], np.nan)
        for record, preference in zip(records, preferences(records), strict=True):
            row, first, second = rows[record["row"]], record["first_index"], record["second_index"]
            p[row, first, second], p[row, second, first] = preference, 1 - preference
            lengths[row, first], lengths[row, second] = (len(own_words(record[side])) for side in ("first", "second"))
        return cls(names, p, lengths, **kwargs)

    def __len__(self) -> int:
        return len(self.names)

    def select(self, names: Sequence[str]) -> "WinRateMatrix":
        """The matrix of some of the policies, in this order, of the same prompts."""
        places = [self.names.index(name) for name in names]
        lengths = None if self.lengths is None else self.lengths[:, places]
        p = self.preferences[:, places][:, :, places]
        return WinRateMatrix(names, p, lengths, **self.resampling)

    @property
    def resampling(self) -> dict[str, int]:
        """How prompts are resampled, as arguments of another matrix."""
        return {"resamples": self._resamples, "seed": self._seed}

    @cached_property
    def counts(self) -> np.ndarray:
        """Prompts on which a pair was judged, of shape `(N, N)`."""
        return (~np.isnan(self.preferences)).sum(0)

    @cached_property
    def rates(self) -> np.ndarray:
        """Mean win rates of shape `(N, N)`, rows against columns; `nan` where a pair was never judged."""
        return weighted_means(self.preferences, np.ones((1, len(self.preferences))))[0]

    @cached_property
    def holes(self) -> list[tuple[str, str]]:
        """The pairs of policies that were never judged."""
        return [(self.names[i], self.names[j]) for i, j in combinations(range(len(self)), 2) if not self.counts[i, j]]

    def estimate(self, figure: Callable[[np.ndarray], ArrayLike] = np.asarray, level: float = 0.95) -> Estimate:
        """
        A figure of the mean win rates, and its bootstrap interval over prompts.

        It makes up for the narrowness of resamples of few prompts: see [`~resampling.expanded_tail`].

        Args:
            figure (`Callable`, *optional*): of win rates of shape `(N, N)`; by default these themselves.
            level (`float`, *optional*, defaults to `0.95`): of the interval.

        Returns:
            [`Estimate`]: of the shape that `figure` returns.
        """
        value = np.asarray(figure(self.rates), dtype=np.float64)
        found = np.array([figure(rates) for rates in self._resampled], dtype=np.float64)
        tail = expanded_tail(len(self.preferences), level)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of a pair that was never judged, which has no interval
            low, high = np.nanquantile(found, [tail, 1 - tail], axis=0)
        return Estimate(value, np.minimum(low, value), np.maximum(high, value))

    def length_controlled(self) -> np.ndarray:
        r"""
        Win rates at equal lengths, of shape `(N, N)`, by the model of [AlpacaEval](https://huggingface.co/papers/2404.04475)
        without its term for the difficulty of an instruction, which must be known beforehand:
        `P(i ≻ j) = σ(θ_ij + φ_ij tanh(Δlength / sd(Δlength)))`, of which σ(θ_ij) is reported.

        Raises:
            `ValueError`: If lengths are not known.
        """
        if self.lengths is None:
            raise ValueError("Length-controlled win rates need `lengths`.")
        rates = np.full((len(self), len(self)), 0.5)
        for i, j in combinations(range(len(self)), 2):
            rates[i, j] = at_equal_lengths(self.preferences[:, i, j], self.lengths[:, i] - self.lengths[:, j])
            rates[j, i] = 1 - rates[i, j]
        return rates

    def equilibrium(self) -> np.ndarray:
        """
        How often each policy plays at the equilibrium of the empirical game, of shape `(N,)`: the one of highest
        entropy, so that copies of a policy share its weight ([Nash averaging](https://huggingface.co/papers/1806.02643)).

        Raises:
            `ValueError`: If a pair of policies was never judged.
        """
        return equilibrium(self._whole())

    def exploitability(self) -> np.ndarray:
        """
        By how much each policy loses to the best answer to it within the pool, `max_j P(j ≻ i) - ½`, of shape `(N,)`:
        half its duality gap in the empirical game, and a lower bound of that outside of it.
        """
        return exploitability(self._whole())

    def estimate_exploitability(self, level: float = 0.95) -> Estimate:
        """
        The exploitability of each policy by those that it was compared with, and its interval.

        The largest of several win rates is a lucky one, and in resamples still more so: among policies that are alike
        all its percentiles are above the truth. The lower end is therefore that of a band in which all win rates
        against the policy lie at once.

        Args:
            level (`float`, *optional*, defaults to `0.95`): of the interval.

        Returns:
            [`Estimate`]: of shape `(N,)`.
        """
        found = self.estimate(known_exploitability, level)
        band = lower_band(self.rates, self._resampled, expanded_tail(len(self.preferences), level), axis=1)
        return found._replace(low=np.minimum(known_exploitability(band), found.low))

    def estimate_duality_gap(self, level: float = 0.95) -> Estimate:
        """
        The smallest duality gap of a single policy in the empirical game, `2 min_i max_j (P(j ≻ i) - ½)`, and its
        interval, of the ends of [`estimate_exploitability`]: the smallest of several figures is a lucky one, too, and
        resamples have it still smaller.
        """
        return Estimate(*(2 * end.min() for end in self.estimate_exploitability(level)))

    def bradley_terry(self) -> BradleyTerry:
        """
        Scores by which a reward could explain the win rates, and what it cannot explain.

        Raises:
            `ValueError`: If a pair of policies was never judged.
        """
        rates = self._whole()
        scores = bradley_terry(rates)
        return BradleyTerry(scores, unexplained(rates, scores))

    def unexplained(self, level: float = 0.95) -> np.ndarray:
        """
        By how much a policy at least beats another one more often than Bradley-Terry's scores explain, of shape
        `(N, N)`: the lower ends of a band in which the residuals of all pairs lie at once.

        Args:
            level (`float`, *optional*, defaults to `0.95`): of the band.

        Raises:
            `ValueError`: If a pair of policies was never judged.
        """
        found = np.array([unexplained(rates, bradley_terry(rates)) for rates in self._resampled])
        return lower_band(
            self.bradley_terry().residual, found, 2 * expanded_tail(len(self.preferences), level), axis=(1, 2)
        )

    def cycles(self) -> list[Cycle]:
        """Three policies that beat each other in a circle by their mean win rates, the strongest circle first."""
        rates, found = np.where(np.isnan(self.rates), 0.5, self.rates), []
        for triple in combinations(range(len(self)), 3):
            for i, j, k in (triple, triple[::-1]):
                if (strength := min(rates[i, j], rates[j, k], rates[k, i]) - 0.5) > 0:
                    found.append(Cycle((self.names[i], self.names[j], self.names[k]), float(strength)))
        return sorted(found, key=lambda cycle: -cycle.strength)

    @cached_property
    def _resampled(self) -> np.ndarray:
        return resampled_means(self.preferences, self._resamples, self._seed)

    def _whole(self) -> np.ndarray:
        if self.holes:
            first, second = self.holes[0]
            raise ValueError(
                f"{first!r} and {second!r} were never compared, and without that there is no game of all."
            )
        return self.rates
