# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""From samples to verdicts: texts for the judge, its failures, and its waiting, beside which the next are sampled."""

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainerState

from ...generation.prompts import AnswerReader
from ...judges.base import JudgeError, PairwiseJudge, Tally
from ...judges.transcript import Transcript
from ...rounds.batch import Samples
from ...rounds.pairings import Compared, Given, Groups, Pairing, are_pairs, asked_once
from ...rounds.rows import count_of


LONGEST_FAREWELL = 10.0  # seconds that a judge that is asked is waited for after Ctrl-C: its answers are paid for


class Asked(NamedTuple):
    """One call of the judge: what it counted, and how many of its verdicts on how many pairs are none."""

    tally: Tally
    abstained: int
    pairs: int


class Judged(NamedTuple):
    """Samples with the judge's verdicts on those of their pairs that it was asked."""

    rows: list[dict]
    samples: Samples
    texts: list[list[str]]  # B x N
    pairing: Pairing
    compared: Compared
    asked: list[Asked]

    @property
    def pairs(self) -> torch.Tensor:
        """The pairs that were asked, of shape (B, M, 2)."""
        return torch.as_tensor(self.compared.pairs.copy())

    @property
    def preference(self) -> torch.Tensor:
        """P(first beats second) of shape (B, M); nan abstains."""
        return torch.as_tensor(self.compared.preference, dtype=torch.float32)

    @property
    def unjudged(self) -> Counter:
        """Pairs without a verdict, by the way in which one of their dialogues has failed; `None` if none has."""
        places = np.argwhere(self.compared.asked & np.isnan(self.compared.preference))
        return Counter(_failure(self.samples, row, self.compared.pairs[row, m]) for row, m in places)


class Judging:
    """
    Has samples judged.

    Args:
        judge ([`PairwiseJudge`]): who judges.
        args ([`NashConfig`]): `strip_thinking`, `pairing`, `num_generations`, `seed`.
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
            judged = self.verdicts(rows, samples)
            return lambda: judged
        before, self._asked = self._asked, Future()
        threading.Thread(target=self._run, args=(self._asked, before, rows, samples), daemon=True).start()
        return self._asked.result

    def _run(self, answer: Future, before: Future | None, rows: list[dict], samples: Samples) -> None:
        try:
            if before is not None:
                before.result()  # what fails there fails here as well, and nothing more is asked
            with torch.no_grad():  # which is each thread's own
                verdicts = self.verdicts(rows, samples)
            answer.set_result(verdicts)
        except BaseException as error:
            answer.set_exception(error)

    def verdicts(self, rows: list[dict], samples: Samples) -> Judged:
        """The verdicts on the pairs of samples, or on those that the run's pairing finds among the first K of each."""
        texts = self.texts(samples)
        asked: list[Asked] = []

        def ask(pairs: np.ndarray) -> np.ndarray:
            return self._compare(rows, samples, texts, pairs, asked)

        pairing = self._args.pairing if samples.pairs is None else Given(tuple(samples.pairs))
        # Two dialogues of one text are not the same where one of them failed.
        known = [list(zip(*own, strict=True)) for own in zip(texts, samples.failed, strict=True)]
        once = asked_once(ask, np.array([[own.index(text) for text in own] for own in known]))
        return Judged(rows, samples, texts, pairing, pairing.compare(once, self._groups(texts, samples)), asked)

    def texts(self, samples: Samples) -> list[list[str]]:
        """What the judge sees of each completion; of a dialogue all that was said in it."""
        if samples.turns is not None:
            return [[Transcript(turns) for turns in own] for own in samples.turns]
        prompts = zip(samples.prompt_ids, samples.completion_ids, strict=True)
        return [[self.decode(ids, prompt) for ids in completions] for prompt, completions in prompts]

    def _groups(self, texts: list[list[str]], samples: Samples) -> Groups:
        """The completions that are trained on, for a pairing. It draws the same of them in a run that is resumed."""
        own = [group[: self._args.num_generations] for group in texts]
        known = json.dumps([self._args.seed, self._state().global_step, own])
        seed = int.from_bytes(hashlib.sha256(known.encode()).digest()[:8])
        keys = np.array([[group.index(text) for text in group] for group in own])
        out = np.array([failed[: self._args.num_generations] for failed in samples.failed])
        return Groups(len(own), self._args.num_generations, seed=seed, keys=keys, out=out)

    def _compare(self, rows, samples: Samples, texts, pairs: np.ndarray, asked: list[Asked]) -> np.ndarray:
        """
        P(first ≻ second) of pairs of shape (B, M, 2). Rows that do not count have none, nor have pairs of which a
        dialogue failed, nor what is no pair.
        """
        preference = np.full(pairs.shape[:2], math.nan)
        if not (count := count_of(rows)) or self.failure is not None:
            return preference
        failed = np.array(samples.failed[:count])[np.arange(count)[:, None, None], pairs[:count]]
        left = ~failed.any(-1)
        lost = np.argwhere(~left & are_pairs(pairs[:count]))
        if len(lost):
            reasons = Counter(_failure(samples, row, pairs[row, m]) for row, m in lost)
            asked.append(Asked(Tally(abstained=reasons), len(lost), len(lost)))
        # Rows in which the same pairs can be judged are asked together: all of them, unless dialogues have failed.
        for some in np.unique(left, axis=0):
            places = np.flatnonzero((left == some).all(1))
            if not some.any():
                continue
            verdicts = self._ask_judge(
                [rows[row] for row in places],
                [texts[row] for row in places],
                [samples.completion_ids[row] for row in places],
                pairs[places][:, some],
                asked,
            )
            if verdicts is None:
                return preference
            preference[np.ix_(places, some)] = verdicts
        return preference

    def _ask_judge(self, rows, texts, completion_ids, pairs: np.ndarray, asked: list[Asked]) -> np.ndarray | None:
        """The judge's verdicts, of shape (B, M); `None` if it cannot go on."""
        try:
            verdicts = self.judge.compare(
                [row["prompt"] for row in rows],
                texts,
                # A judge with a `compare` of its own may know nothing of pairs that differ by prompt.
                [tuple(pair) for pair in pairs[0].tolist()] if (pairs == pairs[0]).all() else pairs,
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
        counted = verdicts[are_pairs(pairs)]
        tally, abstained = self.judge.tally.take(), int(np.isnan(counted).sum())
        tally.abstained["no opinion"] += max(0, abstained - tally.abstained.total())  # of judges that keep no tally
        asked.append(Asked(tally, abstained, counted.size))
        return verdicts


def _failure(samples: Samples, row: int, pair: np.ndarray) -> str | None:
    """In which way a dialogue of a pair has failed, the first one's if both have; `None` if none has."""
    return next((samples.endings[row][k] for k in pair if samples.failed[row][k]), None)
