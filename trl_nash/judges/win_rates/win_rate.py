# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Win rates of completions in their groups, or against an anchor's, wherever in a run's processes they are."""

import asyncio
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from itertools import combinations, product
from typing import Any, NamedTuple

import numpy as np

from ...rounds.pairings import All, BestWorst, Compared, Groups, Pairing, are_pairs, asked_once, win_rates, win_table
from ..base import PairwiseJudge
from ..groups.judge import check_waves
from ..tally import Tally
from .anchors import Anchor, text_of
from .processes import Exchange


class Batch(NamedTuple):
    """The N completions that a trainer scores at a time."""

    prompts: list
    texts: list[str]
    columns: dict[str, list]
    completion_ids: list[list[int]] | None

    def groups(self, needed: Set[str]) -> list[list[int]]:
        """
        The rows of each prompt, wherever in the batch they are. Prompts with other values in the `needed` columns are
        others; what else there is may be a completion's own, such as what a `rollout_func` returns with it.
        """
        told_apart = [values for name, values in self.columns.items() if name in needed]
        groups = defaultdict(list)
        for row, context in enumerate(zip(self.prompts, *told_apart, strict=True)):
            groups[json.dumps(context, default=_by_value)].append(row)
        return list(groups.values())


def together(own: Batch, exchange: Exchange) -> tuple[Batch, slice]:
    """The completions of all processes, and where this one's are among them."""
    parts = exchange.gathered(own)
    start = sum(len(part.prompts) for part in parts[: exchange.place[0]])
    ids = [part.completion_ids for part in parts]
    whole = Batch(
        [prompt for part in parts for prompt in part.prompts],
        [text for part in parts for text in part.texts],
        {name: [value for part in parts for value in part.columns[name]] for name in own.columns},
        None if None in ids else [row for part in ids for row in part],
    )
    return whole, slice(start, start + len(own.prompts))


class Contest(NamedTuple):
    """
    Groups of one shape: K completions of each of B prompts, and A more that they are compared with, which come last.
    """

    rows: np.ndarray  # (B, K) of the batch
    texts: list[list[str]]  # B x (K + A)


class Scored(NamedTuple):
    """What there is to say of the completions of this process."""

    rewards: list[float | None]
    verdicts: list[int]  # on each
    metrics: list[tuple[str, float]]  # the same on all processes


class WinRate:
    """
    The reward function of [`as_reward_func`], called by all processes together. Every process knows all groups and
    asks the judge about some of them, wave after wave, so that each pair is asked once.

    Args:
        judge ([`PairwiseJudge`]): who judges.
        pairing ([`Pairing`], *optional*): which pairs of a group; by default all.
        anchor ([`Anchor`], *optional*): whom completions are compared with, if not with one another.
    """

    def __init__(self, judge: PairwiseJudge, pairing: Pairing | None = None, anchor: Anchor | None = None):
        self.judge, self.pairing, self.anchor = judge, pairing, anchor
        self._exchange = Exchange()
        how = "" if pairing is None else f"_{pairing.name}"
        how += "" if anchor is None else f"_against_{anchor.name}"
        self.__name__ = f"win_rate_{judge.name}{how}"  # what trainers log it by, so that no two are alike

    def __call__(
        self,
        prompts: list,
        completions: list,
        completion_ids: list[list[int]] | None = None,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list], None] | None = None,
        environments: Any = None,
        **columns,
    ) -> list[float | None]:
        self._exchange.open()
        scored = self.score(prompts, completions, completion_ids, trainer_state, columns)
        return self._logged(scored, log_metric, log_extra)

    def score(self, prompts: list, completions: list, completion_ids, trainer_state, columns: dict) -> Scored:
        """The rewards, by all processes together, which have opened their exchange."""
        columns = {name: values for name, values in columns.items() if _one_each(values, prompts)}
        batch = Batch(prompts, list(map(text_of, completions)), columns, completion_ids)
        batch, own = together(batch, self._exchange)
        self.judge.tally.take()
        rewards: list[float | None] = [None] * len(batch.prompts)
        verdicts = [0] * len(rewards)
        heard = []
        for contest in self._contests(batch, getattr(trainer_state, "global_step", 0)):
            compared, asked = self._compare(batch, contest, trainer_state)
            rates, counts = self._rates(compared, contest)
            for row, rate, count in zip(contest.rows.ravel(), rates.ravel(), counts.ravel(), strict=True):
                rewards[row], verdicts[row] = None if np.isnan(rate) else float(rate), int(count)
            heard.append((compared, contest, asked))
        return Scored(rewards[own], verdicts[own], list(self._metrics(heard)))

    def _logged(self, scored: Scored, log_metric, log_extra) -> list[float | None]:
        if log_metric is not None:
            for name, value in scored.metrics:
                log_metric(name, value)
        if log_extra is not None:
            log_extra(f"{self.__name__}/verdicts", scored.verdicts)
        return scored.rewards

    def _contests(self, batch: Batch, step: int) -> Iterator[Contest]:
        groups = batch.groups(self.judge.needs | (self.anchor.needs if self.anchor else set()))
        others: list[list[str]] = [[] for _ in groups]
        if self.anchor is not None:
            first = [rows[0] for rows in groups]
            columns = {name: [values[row] for row in first] for name, values in batch.columns.items()}
            others = self.anchor.answers(self._exchange, [batch.prompts[row] for row in first], columns, step)
        shapes = defaultdict(list)
        for rows, texts in zip(groups, others, strict=True):
            shapes[len(rows), len(texts)].append((rows, [*(batch.texts[row] for row in rows), *texts]))
        for (size, more), some in sorted(shapes.items()):
            if size == 1 and self.anchor is None:
                processes = self._exchange.place[1]
                raise ValueError(
                    "The reward of a completion is its win rate against others of its prompt in the batch of "
                    f"{'a process' if processes == 1 else f'all {processes} processes'}, and there is none: raise "
                    "`num_generations`, or the batch size to a multiple of it."
                )
            if self.pairing is not None:
                with pairing_named():
                    self.pairing.check(size)
                    check_waves(self.judge, self.pairing, size)
            if self.anchor is None or more:  # else there is nobody to compare them with
                rows, texts = zip(*some, strict=True)
                yield Contest(np.array(rows), list(texts))

    def _compare(self, batch: Batch, contest: Contest, trainer_state: Any) -> tuple[Compared, np.ndarray]:
        """What a pairing has found, and the verdicts that the judge was asked for, on a pair of texts once."""
        (count, size), asked = contest.rows.shape, []

        def ask(pairs: np.ndarray) -> np.ndarray:
            """P(first ≻ second) of shape (B, M), of which each process asks the judge some rows."""
            verdicts = self._exchange.shared_out(
                lambda some: self._ask(batch, contest, pairs, some, trainer_state), count
            )
            preference = np.array(verdicts, dtype=np.float64).reshape(pairs.shape[:2])
            asked.append(preference[are_pairs(pairs)])
            return preference

        if self.anchor is not None:
            pairs = np.array(list(product(range(size), range(size, len(contest.texts[0])))))
            pairs = np.broadcast_to(pairs, (count, *pairs.shape))
            return Compared.plain(pairs, ask(pairs)), asked[0]
        known = json.dumps([contest.texts, getattr(trainer_state, "global_step", 0)])
        seed = int.from_bytes(hashlib.sha256(known.encode()).digest()[:8])
        keys = np.array([[texts.index(text) for text in texts] for texts in contest.texts])
        groups = Groups(count, size, seed=seed, keys=keys)
        return (self.pairing or All()).compare(asked_once(ask, keys), groups), np.concatenate(asked)

    def _ask(self, batch: Batch, contest: Contest, pairs: np.ndarray, some: list[int], trainer_state) -> np.ndarray:
        rows, own = contest.rows[some], pairs[some]
        ids = batch.completion_ids if self.anchor is None else None  # an anchor's are not known
        return self.judge.compare(
            [batch.prompts[row] for row in rows[:, 0]],
            [contest.texts[index] for index in some],
            # A judge with a `compare` of its own may know nothing of pairs that differ by prompt.
            [tuple(pair) for pair in own[0].tolist()] if (own == own[0]).all() else own,
            columns={name: [values[row] for row in rows[:, 0]] for name, values in batch.columns.items()},
            completion_ids=ids and [[ids[row] for row in group] for group in rows],
            trainer_state=trainer_state,
        )

    def _rates(self, compared: Compared, contest: Contest) -> tuple[np.ndarray, np.ndarray]:
        """Win rates, `nan` without a verdict, and the verdicts that each is made of, both of shape (B, K)."""
        size, players = contest.rows.shape[1], len(contest.texts[0])
        table = win_table(compared, players)
        table[:, range(players), range(players)] = np.nan
        counts = (~np.isnan(table)).sum(axis=2)
        if self.pairing is not None:
            return win_rates(compared, players), counts
        means = np.nansum(table, axis=2) / np.where(counts > 0, counts, np.nan)
        return means[:, :size], counts[:, :size]

    def _metrics(self, heard: list[tuple[Compared, Contest, np.ndarray]]) -> Iterator[tuple[str, float]]:
        """`judge/*` of this batch, the same on all processes."""
        tally = Tally()
        for part in self._exchange.gathered(self.judge.tally.take()):
            tally.add(part)
        preference = np.concatenate([asked for _, _, asked in heard] or [np.zeros(0)])
        abstained = int(np.isnan(preference).sum())
        tally.abstained["no opinion"] += max(0, abstained - tally.abstained.total())  # of judges that keep no tally
        ratios = {"judge/preference": (np.nansum(preference), len(preference) - abstained)}
        ratios |= {name: (total, count) for name, total, count in tally.ratios(abstained, len(preference))}
        if self.anchor is None and isinstance(self.pairing or All(), All | BestWorst):
            ratios["judge/cycle_rate"] = np.sum([cycles(*entry[:2]) for entry in heard] or [(0, 0)], axis=0)
        for name, (total, count) in ratios.items():
            _, count = ratios.get(name.rpartition("/")[0], (0, count))
            if count:
                yield name, float(total / count)


class AsyncWinRate(WinRate):
    """
    The same as a coroutine function, for trainers that run several at a time: while the judge waits for its server,
    in a thread, others go on.
    """

    async def __call__(  # type: ignore[override]
        self,
        prompts,
        completions,
        completion_ids=None,
        trainer_state=None,
        log_metric=None,
        log_extra=None,
        environments=None,
        **columns,
    ):
        self._exchange.open()  # before anything is waited for: in the order of the functions, on all processes
        scored = await asyncio.to_thread(self.score, prompts, completions, completion_ids, trainer_state, columns)
        return self._logged(scored, log_metric, log_extra)


def cycles(compared: Compared, contest: Contest) -> tuple[float, int]:
    """How many of the triples of completions that were judged in full are cycles, and how many there are."""
    from torch import as_tensor

    from ...objectives import cycle_rate

    count = contest.rows.shape[1]
    if count < 3:
        return 0.0, 0
    table = win_table(compared, count)
    i, j, k = np.array(list(combinations(range(count), 3))).T
    complete = int((~np.isnan(table[:, i, j] + table[:, j, k] + table[:, k, i])).sum())
    rate = cycle_rate(as_tensor(compared.preference), as_tensor(compared.pairs[0].copy()), count)
    return float(rate) * complete if complete else 0.0, complete


@contextmanager
def pairing_named() -> Iterator[None]:
    """What is wrong with a pairing is said of the argument of [`as_reward_func`], not of a config's option."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("pair_selection", "pairing")) from None


def _by_value(thing: Any) -> Any:
    """
    Of what JSON does not know: equal rows of a dataset are equal objects, not the same ones. An object without a
    `repr` of its own only equals itself.
    """
    return thing.tolist() if hasattr(thing, "tolist") else repr(thing)


def _one_each(values: Any, prompts: list) -> bool:
    """Whether these are values of a dataset's column: trainers pass other things by keyword too."""
    return isinstance(values, list) and len(values) == len(prompts)
