# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From samples to verdicts: texts for the judge, its failures, and its waiting, beside which the next are sampled."""

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainerState

from ...generation.prompts import AnswerReader
from ...judges.base import JudgeError, PairwiseJudge, Tally
from ...judges.transcript import Transcript
from ...rounds.batch import Samples
from ...rounds.rows import count_of
from ...rounds.tournament import best_and_worst_by_tournament


LONGEST_FAREWELL = 10.0  # seconds that a judge that is asked is waited for after Ctrl-C: its answers are paid for


class Asked(NamedTuple):
    """One call of the judge: what it counted, and how many of its verdicts on how many pairs are none."""

    tally: Tally
    abstained: int
    pairs: int


class Judged(NamedTuple):
    """Samples with the judge's verdicts on their pairs."""

    rows: list[dict]
    samples: Samples
    texts: list[list[str]]  # B x N
    preference: torch.Tensor  # (B, M) P(first beats second), nan abstains
    asked: list[Asked]


class Judging:
    """
    Has samples judged.

    Args:
        judge ([`PairwiseJudge`]): who judges.
        args ([`NashConfig`]): `strip_thinking`, `pair_selection`, `num_generations`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): the policy's.
        state (`Callable[[], TrainerState]`): for reward functions that change during training.

    Attributes:
        failure (`str`, *optional*): why the judge cannot go on. It is not asked any more then, and abstains.
    """

    def __init__(
        self, judge: PairwiseJudge, args, tokenizer: PreTrainedTokenizerBase, state: Callable[[], TrainerState]
    ):
        self.judge = judge
        self.failure: str | None = None
        self._args = args
        self._read = AnswerReader(tokenizer, args.strip_thinking)
        self._state = state
        self._asked: Future | None = None  # the last question to a judge that waits

    def decode(self, completion_ids: list[int], prompt_ids: Sequence[int] = ()) -> str:
        """The text that a judge sees of a completion of a prompt."""
        return self._read(completion_ids, prompt_ids)

    def begin(self) -> None:
        """A round begins: what a round that was stopped has asked for is over, however it ended."""
        if self._asked is not None:
            self._asked.exception()
        self._asked = self.failure = None

    def farewell(self) -> None:
        """After Ctrl-C: waits for what a judge is asked, but not for long."""
        if self._asked is not None:
            wait([self._asked], timeout=LONGEST_FAREWELL)

    def ask(self, rows: list[dict], samples: Samples) -> Callable[[], Judged]:
        """
        Asks for verdicts on the pairs of samples; they are there when the function that it returns returns.

        A judge that waits (for a server, say) is asked in a thread of its own, one question after the other, so that
        the caller can sample meanwhile.
        """
        if not self.judge.waits:
            judged = self.verdicts(rows, samples, self._args.pair_selection)
            return lambda: judged
        before, self._asked = self._asked, Future()
        threading.Thread(target=self._run, args=(self._asked, before, rows, samples), daemon=True).start()
        return self._asked.result

    def _run(self, answer: Future, before: Future | None, rows: list[dict], samples: Samples) -> None:
        try:
            if before is not None:
                before.result()  # what fails there fails here as well, and nothing more is asked
            with torch.no_grad():  # which is each thread's own
                verdicts = self.verdicts(rows, samples, self._args.pair_selection)
            answer.set_result(verdicts)
        except BaseException as error:
            answer.set_exception(error)

    def verdicts(self, rows: list[dict], samples: Samples, selection: str = "all") -> Judged:
        """The verdicts on the pairs of samples; in a `"tournament"`, on the pair of best and worst that it finds."""
        texts = self._texts(samples)
        asked: list[Asked] = []

        def compare(players: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
            return self._compare(rows, samples, texts, players, pairs, asked)

        everybody = np.tile(np.arange(len(texts[0])), (len(rows), 1))
        if selection != "tournament":
            preference = compare(everybody, samples.pairs)
        else:
            count = self._args.num_generations
            chosen, preference = best_and_worst_by_tournament(compare, len(rows), count)
            # The best comes first and the worst second: they are the pair that is trained on.
            order = np.array([[*row, *(k for k in range(count) if k not in row)] for row in chosen.tolist()])
            samples = replace(samples.chosen(order.tolist()), pairs=[(0, 1)])
            texts = _take(texts, order)
        return Judged(rows, samples, texts, torch.as_tensor(preference, dtype=torch.float32), asked)

    def _texts(self, samples: Samples) -> list[list[str]]:
        """What the judge sees of each completion; of a dialogue all that was said in it."""
        if samples.turns is not None:
            return [[Transcript(turns) for turns in own] for own in samples.turns]
        prompts = zip(samples.prompt_ids, samples.completion_ids, strict=True)
        return [[self.decode(ids, prompt) for ids in completions] for prompt, completions in prompts]

    def _compare(self, rows, samples: Samples, texts, players, pairs, asked: list[Asked]) -> np.ndarray:
        """P(first ≻ second) of pairs of those completions that play, of shape (B, M)."""
        preference = np.full((len(rows), len(pairs)), math.nan)
        if not (count := count_of(rows)) or self.failure is not None:
            return preference
        failed, endings = _take(samples.failed[:count], players[:count]), samples.endings
        # Rows in which the same pairs can be judged are asked together: all of them, unless dialogues have failed.
        groups: dict[tuple, list[int]] = {}
        for row in range(count):
            left = tuple(m for m, (i, j) in enumerate(pairs) if not (failed[row][i] or failed[row][j]))
            groups.setdefault(left, []).append(row)
        for left, places in groups.items():
            if endings is not None and len(left) < len(pairs):
                reasons = Counter(
                    next(endings[row][players[row][k]] for k in pairs[m] if failed[row][k])
                    for row in places
                    for m in range(len(pairs))
                    if m not in left
                )
                asked.append(Asked(Tally(abstained=reasons), reasons.total(), reasons.total()))
            if not left:
                continue
            verdicts = self._ask_judge(
                [rows[row] for row in places],
                _take([texts[row] for row in places], players[places]),
                _take([samples.completion_ids[row] for row in places], players[places]),
                [pairs[m] for m in left],
                asked,
            )
            if verdicts is None:
                return preference
            preference[np.ix_(places, left)] = verdicts
        return preference

    def _ask_judge(self, rows, texts, completion_ids, pairs, asked: list[Asked]) -> np.ndarray | None:
        """The judge's verdicts, of shape (B, M); `None` if it cannot go on."""
        try:
            verdicts = self.judge.compare(
                [row["prompt"] for row in rows],
                texts,
                pairs,
                columns={name: [row[name] for row in rows] for name in rows[0] if name != "prompt"},
                completion_ids=completion_ids,
                trainer_state=self._state(),
            )
        except JudgeError as error:
            # The other ranks may be waiting in a generation: the rest of the round is sampled unjudged.
            self.failure = str(error)
            self.judge.tally.take()
            return None
        verdicts = np.asarray(verdicts, dtype=np.float64)
        tally, abstained = self.judge.tally.take(), int(np.isnan(verdicts).sum())
        tally.abstained["no opinion"] += max(0, abstained - tally.abstained.total())  # of judges that keep no tally
        asked.append(Asked(tally, abstained, len(rows) * len(pairs)))
        return verdicts


def _take(values: list[list], players: np.ndarray) -> list[list]:
    return [[row[k] for k in chosen] for row, chosen in zip(values, players, strict=True)]
