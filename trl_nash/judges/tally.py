# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is known of a judge's answers beside the answers: why there is none, and how far they can be trusted."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields


class Abstained(float):
    """
    No verdict, and why: `nan` with a reason.

    Args:
        reason (`str`, *optional*, defaults to `"no opinion"`):
            A few words, such as `"refused"`, `"unparsable"`, `"too long"` or `"server"`. Abstentions are counted by
            it, and it is part of the name of a metric.
    """

    reason: str

    def __new__(cls, reason: str = "no opinion"):
        self = super().__new__(cls, math.nan)
        self.reason = reason
        return self

    def __getnewargs__(self):
        return (self.reason,)

    def __repr__(self) -> str:
        return f"Abstained({self.reason!r})"


@dataclass
class Tally:
    """
    Counts what a judge was asked and how it answered. A *question* is one order of a pair.

    Attributes:
        asked (`int`): questions that the judge answered.
        cached (`int`): questions that were answered from its cache instead.
        both_orders (`int`): pairs that have a verdict in both orders.
        disagreement (`float`): sum of |P(a ≻ b) + P(b ≻ a) - 1| over them; 0 without position bias.
        flips (`int`): those of them in which the same *position* won both times.
        labelled (`int`): answers that were read off the probabilities of the labels.
        mass (`float`): sum of the labels' probability in them, which is 1 where nothing else could be said.
        modes (`Counter`): answers of a server by the way in which they were read.
        ties (`int`): pairs of different completions with a preference of exactly .5, among all rows.
        abstained (`Counter`): rows without a verdict, by reason.
    """

    asked: int = 0
    cached: int = 0
    both_orders: int = 0
    disagreement: float = 0.0
    flips: int = 0
    labelled: int = 0
    mass: float = 0.0
    ties: int = 0
    modes: Counter = field(default_factory=Counter)
    abstained: Counter = field(default_factory=Counter)

    @property
    def position_bias(self) -> float:
        """Mean disagreement of the two orders, `nan` if no pair was asked in both."""
        return self.disagreement / self.both_orders if self.both_orders else math.nan

    @property
    def label_mass(self) -> float:
        """Mean probability of the labels together, `nan` if no answer was read off probabilities."""
        return self.mass / self.labelled if self.labelled else math.nan

    def add_label_mass(self, mass: float) -> None:
        """Counts an answer whose labels have this probability together."""
        self.labelled += 1
        self.mass += mass

    def add_orders(self, there: float, back: float) -> None:
        """Counts P(a ≻ b) and P(b ≻ a) as the judge gave them."""
        if math.isnan(there) or math.isnan(back):
            return
        self.both_orders += 1
        self.disagreement += float(abs(there + back - 1.0))  # of NumPy's numbers too: counts are written as JSON
        self.flips += int((there - 0.5) * (back - 0.5) > 0)

    def add_verdicts(self, verdicts: Iterable[float]) -> None:
        """Counts the final preferences of pairs of different completions."""
        for verdict in verdicts:
            if math.isnan(verdict):
                self.abstained[getattr(verdict, "reason", "no opinion")] += 1
            self.ties += int(verdict == 0.5)

    def ratios(self, abstained: int, pairs: int) -> Iterator[tuple[str, float, float]]:
        """
        What is logged, as name, total and count. A metric below another one (`judge/abstained/server`) shares its
        count.

        Args:
            abstained (`int`): verdicts that there are none of.
            pairs (`int`): of so many.
        """
        yield "judge/abstained", abstained, pairs
        for reason, count in (+self.abstained).items():
            yield f"judge/abstained/{reason.replace(' ', '_').replace('/', '_')}", count, 0
        yield "judge/position_bias", self.disagreement, self.both_orders
        yield "judge/label_mass", self.mass, self.labelled
        if self.asked + self.cached:
            yield "judge/cached", self.cached, self.asked + self.cached

    def add(self, other: "Tally") -> None:
        """Adds what another judge counted, of which this one is made."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def take(self) -> "Tally":
        """What was counted since the last call, and start anew."""
        taken = Tally(**{f.name: getattr(self, f.name) for f in fields(self)})
        vars(self).update(vars(Tally()))
        return taken
