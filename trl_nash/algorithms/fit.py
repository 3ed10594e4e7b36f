# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The words in which a method says what it does: policies named by when they were, and regressions around them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple


class Policy(NamedTuple):
    """
    The name of a policy: the one that stood when fit `fit` of round `round` began, both counted from 0. Weights are in
    `trl_nash.policies`.
    """

    round: int
    fit: int = 0

    def __str__(self) -> str:
        """Its name in files and messages."""
        return _NAMES.get(self) or f"round_{self.round}" + f"_fit_{self.fit}" * (self.fit > 0)


START = Policy(0)
"""The policy that training starts from."""
INITIAL = Policy(-1)
"""The reference of the run: `ref_model` where one is given, else [`START`]."""
AVERAGE = Policy(-2)
"""The exponential moving average of the policy, up to this round."""
_NAMES = {INITIAL: "initial", AVERAGE: "average"}


class Fit(NamedTuple):
    r"""
    One regression of a round, whose solution is `π ∝ Π_k p_k^{w_k} · exp(η P(· ≻ ν))`.

    (`docs/background/algorithms.md` derives it: least squares of log-ratios to preferences over pairs from ν.)
    """

    centre: Mapping[Policy, float]
    """`p_k: w_k`, which add up to 1."""
    step_size: float
    """η, which multiplies win rates."""
    pairs_from: Mapping[Policy, float] | None = None
    """ν as a geometric mixture. `None` is the policy at the start of the round: its pairs serve all such fits."""


Method = Callable[["Past"], list[Fit]]
"""What the rounds of a method fit, given what was before: a definition with its settings bound."""


@dataclass(frozen=True)
class Past:
    """
    The policies that a round can look back to.

    Args:
        round (`int`): t, counted from 0.
        reference_rounds (`int`, *optional*): rounds after which the reference moves; it stays if left out.
        epoch (`int`, *optional*, defaults to 0): in which the round was sampled, for settings that go by it.
    """

    round: int
    reference_rounds: int | None = None
    epoch: int = 0

    @property
    def initial(self) -> Policy:
        """The reference that never moves."""
        return INITIAL

    @property
    def reference(self) -> Policy:
        """The policy as it was when the reference last moved, every `reference_rounds` rounds; `INITIAL` before."""
        moved = 0 if self.reference_rounds is None else self.round - self.round % self.reference_rounds
        return Policy(moved) if moved else INITIAL

    @property
    def now(self) -> Policy:
        """The policy at the start of this round, π_t."""
        return Policy(self.round)

    @property
    def live(self) -> Policy:
        """The policy at the start of this round's second fit: what the first fit makes of π_t."""
        return Policy(self.round, 1)

    @property
    def between(self) -> Policy:
        """The policy between the two fits of the round before, or the start."""
        return Policy(self.round - 1, 1) if self.round else START

    @property
    def average(self) -> Policy:
        """The moving average of the policy, up to this round."""
        return AVERAGE

    def before(self, rounds: int) -> Policy:
        """The policy so many rounds ago, or the start."""
        return Policy(max(self.round - rounds, 0))

    @property
    def next(self) -> "Past":
        """What the round after this one looks back to."""
        return replace(self, round=self.round + 1)


def named(fits: list[Fit]) -> set[Policy]:
    """The policies that fits are centred at or draw their pairs from."""
    return {policy for fit in fits for policy in (*fit.centre, *(fit.pairs_from or {}))}


def needed(method: Method, past: Past, fit: int) -> set[Policy]:
    """
    What must be kept once fit number `fit` of a round has its pairs and its centre: the policies that later fits name,
    of this round and the next. (A policy that a round leaves out is never named again.)
    """
    later = named(method(past)[fit + 1 :]) | named(method(past.next))
    return {policy for policy in later if policy <= Policy(past.round, fit)}
