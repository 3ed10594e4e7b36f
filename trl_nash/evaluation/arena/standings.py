# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The figures of an arena: a line for each policy, and what they say together."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...judges.transcript import own_words
from ..matrix import Cycle, Estimate, WinRateMatrix
from ..scores import ELO, bradley_terry, equilibrium
from .best_of import with_responders
from .result import ArenaResult


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


class Standing(NamedTuple):
    """
    A policy's figures, each with its 95 % interval over prompts. `nan` is what cannot be known.

    Attributes:
        name (`str`): of the policy.
        win_rate (`Estimate`): against the others, each counting the same.
        length_controlled (`float`): the same at equal lengths.
        weight (`Estimate`): how often it plays at the equilibrium of the pool.
        exploitability (`Estimate`): by how much it loses to the best of the pool, over ½.
        best_of (`Estimate`): the same with the best of n answers of each policy among the pool.
        elo (`Estimate`): points, with mean 0.
        answers (`int`): prompts that it has answered.
        characters (`float`): mean length of these answers.
        cut (`float`): the share of them that did not come to their end.
    """

    name: str
    win_rate: Estimate
    length_controlled: float
    weight: Estimate
    exploitability: Estimate
    best_of: Estimate
    elo: Estimate
    answers: int
    characters: float
    cut: float


@dataclass(frozen=True)
class Standings:
    """
    The figures of an arena.

    Args:
        matrix ([`WinRateMatrix`]): of all policies, the best win rate first.
        rates ([`Estimate`] of shape `(N, N)`): its win rates.
        lines (`list[Standing]`): in this order.
        left_out (`list[str]`): policies that were not compared with all others, and are in no game.
        residual (`np.ndarray` of shape `(N, N)`): of win rates, over those that Elo points explain; `nan` out of it.
        unexplained (`np.ndarray` of shape `(N, N)`): its lower ends, of all pairs at once.
        cycles (`list[Cycle]`): of three policies.
        gap ([`Estimate`]): the smallest duality gap of a single policy.
        count (`int`): n of the best of n answers, 0 if there is none.
        failed (`dict[str, dict[str, int]]`): of policies whose dialogues have failed how many did in which way.
    """

    matrix: WinRateMatrix
    rates: Estimate
    lines: list[Standing]
    left_out: list[str]
    residual: np.ndarray
    unexplained: np.ndarray
    cycles: list[Cycle]
    gap: Estimate
    count: int
    failed: dict[str, dict[str, int]]

    @property
    def differ(self) -> bool:
        """Whether any policy's win rate against another has an interval without one half."""
        return bool(((self.rates.low > 0.5) | (self.rates.high < 0.5)).any())

    @classmethod
    def of(cls, result: ArenaResult, matrix: WinRateMatrix | None = None) -> "Standings":
        """
        Works the figures out.

        Args:
            result ([`ArenaResult`]): what was judged.
            matrix ([`WinRateMatrix`], *optional*): its matrix, if it is to be resampled otherwise than by default.
        """
        matrix, answers = matrix or result.matrix, result.answers
        value = _against_others(matrix.rates)
        order = sorted(range(len(matrix)), key=lambda i: (-np.nan_to_num(value[i], nan=-1.0), i))
        count = max((verdict.shape[1] for verdict in result.further.values()), default=0)
        further = {name: verdict[:, :, order] for name, verdict in result.further.items()}
        matrix, answers = matrix.select([matrix.names[i] for i in order]), [answers[i] for i in order]
        playing = _connected(matrix)
        game = matrix.select(playing) if len(playing) > 1 else None
        win_rates = _each(matrix, matrix.estimate(_against_others))
        unknown = dict.fromkeys(matrix.names, UNKNOWN)
        weights, losses, points, responses = (dict(unknown) for _ in range(4))
        if game is not None:
            weights |= _each(game, game.estimate(_weights))
            losses |= _each(game, game.estimate_exploitability())
            points |= _each(game, game.estimate(lambda rates: ELO * bradley_terry(rates)))
        if count:
            responders = with_responders(matrix, further, count)
            found = _each(responders, responders.estimate_exploitability())
            responses |= {name: found[name] for name in playing}
        there = [[record for record in own.values() if record["completion"] is not None] for own in answers]
        lengths = _against_others(matrix.length_controlled())
        lines = [
            Standing(
                name, win_rates[name], float(lengths[i]), weights[name], losses[name], responses[name], points[name],
                len(there[i]),
                _mean(len(own_words(record["completion"])) for record in there[i]),
                _mean(not record["ended"] for record in answers[i].values() if record.get("ended") is not None),
            )
            for i, name in enumerate(matrix.names)
        ]  # fmt: skip
        residual, unexplained = (np.full(matrix.rates.shape, np.nan) for _ in range(2))
        if game is not None:
            places = [matrix.names.index(name) for name in game.names]
            residual[np.ix_(places, places)] = game.bradley_terry().residual
            unexplained[np.ix_(places, places)] = game.unexplained()
        return cls(
            matrix=matrix,
            rates=matrix.estimate(),
            lines=lines,
            left_out=[name for name in matrix.names if name not in playing or game is None],
            residual=residual,
            unexplained=unexplained,
            cycles=matrix.cycles(),
            gap=game.estimate_duality_gap() if game is not None else UNKNOWN,
            count=count,
            failed={name: found for name, own in zip(matrix.names, answers, strict=True) if (found := _failures(own))},
        )

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it; what cannot be known is `None`."""

        def plain(value: Any) -> Any:
            if isinstance(value, Estimate):
                return {key: plain(part) for key, part in value._asdict().items()}
            if isinstance(value, np.ndarray):
                return plain(value.tolist())
            if isinstance(value, list):
                return [plain(part) for part in value]
            if isinstance(value, float | np.floating):
                return float(value) if math.isfinite(value) else None
            return value

        return {
            "policies": [{key: plain(value) for key, value in line._asdict().items()} for line in self.lines],
            "win_rates": plain(self.rates),
            "pairs_judged": self.matrix.counts.tolist(),
            "length_controlled": plain(self.matrix.length_controlled()),
            "elo_residual": plain(self.residual),
            "elo_residual_at_least": plain(self.unexplained),
            "cycles": [{"policies": list(cycle.policies), "strength": cycle.strength} for cycle in self.cycles],
            "duality_gap": plain(self.gap),
            "not_in_the_game": self.left_out,
            "best_of": self.count,
            "dialogues_that_failed": self.failed,
        }


def _against_others(rates: np.ndarray) -> np.ndarray:
    """Mean win rates against the other policies that there are, of shape `(N,)`."""
    others = np.where(np.eye(len(rates), dtype=bool), np.nan, rates)
    known = ~np.isnan(others)
    with np.errstate(invalid="ignore"):
        return np.where(known, others, 0.0).sum(1) / known.sum(1)


def _weights(rates: np.ndarray) -> np.ndarray:
    """The equilibrium, `nan` of a resample whose ties hide it."""
    try:
        return equilibrium(rates)
    except ValueError:
        return np.full(len(rates), np.nan)


def _connected(matrix: WinRateMatrix) -> list[str]:
    """The policies that are left when those with most holes are taken out, until there is none."""
    there = np.ones(len(matrix), dtype=bool)
    while (holes := ((matrix.counts == 0)[:, there].sum(1) * there)).any():
        there[len(there) - 1 - int(np.argmax(holes[::-1]))] = False
    return [name for name, is_there in zip(matrix.names, there, strict=True) if is_there]


def _each(matrix: WinRateMatrix, found: Estimate) -> dict[str, Estimate]:
    """An estimate of shape `(N,)`, by the names of the policies."""
    return {name: Estimate(*(float(part[i]) for part in found)) for i, name in enumerate(matrix.names)}


def _failures(answers: Mapping[int, dict[str, Any]]) -> dict[str, int]:
    """Of the dialogues that were not judged how many failed in which way."""
    return dict(Counter(record["ending"] for record in answers.values() if record["completion"] is None))


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else math.nan
