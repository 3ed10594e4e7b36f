# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The first half of a round: completions and verdicts, chunk by chunk, and micro-batches of them."""

import hashlib
import json
import math
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ...data.check import check_row
from ...generation.sampler import Sampler
from ...objectives import hard_label
from ...rounds.batch import PairBatch, Samples, chunks, collate
from ...rounds.log import RoundLog
from ...rounds.pairings import Compared, Pairing
from ...rounds.rows import Filler, count_of
from .judging import Judged, Judging
from .reports.reporter import Reporter
from .stops import Stops


CHUNKS_AT_ONCE = 8  # generation chunks that wait for verdicts, or become micro-batches, at a time
ROUND_FOLDER = "round"  # in the output folder, while a round is sampled
_ORDER = "longest first"  # in which the prompts of a round are sampled
# What a sample depends on beside prompts, policy and random numbers.
_SAMPLING_OPTIONS = (
    "num_generations temperature top_p top_k min_p repetition_penalty generation_kwargs max_new_tokens max_length "
    "use_vllm use_transformers_continuous_batching transformers_continuous_batching_config "
    "per_device_generation_batch_size per_device_train_batch_size strip_thinking"
).split()


class Collector:
    """
    Samples rounds and has them judged, one generation chunk after the other. While a judge that waits has a chunk, the
    next one is sampled.

    Prompts of about one length are sampled together, the longest of the round first: there is little padding, and what
    needs too much memory fails at once. Samples wait as arrays until the round is complete and are put back in order.

    Args:
        args ([`NashConfig`]): sizes and options.
        accelerator ([`~accelerate.Accelerator`]): of the ranks that sample together.
        sample (`Callable[[list], Samples]`): samples completions of some prompts.
        sampler ([`Sampler`]): which it samples with.
        judging ([`Judging`]): who judges them.
        reporter ([`Reporter`]): for metrics and progress.
        stops ([`Stops`]): which may end the run between two chunks, or where nothing can be sampled.
    """

    def __init__(
        self,
        args,
        accelerator: Accelerator,
        sample: Callable[[list], Samples],
        sampler: Sampler,
        judging: Judging,
        reporter: Reporter,
        stops: Stops,
    ):
        self._args = args
        self._accelerator = accelerator
        self._sample = sample
        self._sampler = sampler
        self._judging = judging
        self._reporter = reporter
        self._stops = stops

    def round(self, rows: list[dict], number: int, *key) -> list[PairBatch]:
        """
        A round of this rank in micro-batches. What was sampled of it before a kill is not sampled again.

        Args:
            rows (`list[dict]`): the round's rows of this rank.
            number (`int`): of the round, from 0.
            key: what samples depend on beside rows, options and random numbers: the policy and its fit.
        """
        per_step, steps = self._args.per_device_train_batch_size, self._args.steps_per_generation
        if math.ceil(len(rows) / per_step) != steps:
            raise ValueError(
                f"`get_train_dataloader` yields {len(rows)} rows where a round is sampled, and a list of "
                f"{per_step * steps} is needed: the process's rows of a round."
            )
        state = self._stops.begin_round()
        log = None
        if len(rows) > self._args.generation_chunk:
            settings = [getattr(self._args, name) for name in _SAMPLING_OPTIONS]
            texts = self._sampler.render.settings
            source = self._sampler.source and [self._sampler.source.identity, self._args.max_turns]
            known = json.dumps([number, rows, _ORDER, texts, settings, state, source, *key], default=str)
            log = RoundLog(
                Path(self._args.output_dir) / ROUND_FOLDER / f"{self._accelerator.process_index:05d}.jsonl",
                hashlib.sha256(known.encode()).hexdigest(),
                lambda count: min(gather_object([count])),
            )
        labels = None
        if self._args.preference_label == "sampled":
            # Of its own, so that it does not matter when a part of the round has its verdicts.
            labels = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        batches, unjudged, asked = [], Counter(), 0
        with self._sampler.round():
            for judged in self.collect(rows, log, self._stops.if_requested):
                batches += self.micro_batches(judged, labels)
                unjudged += judged.unjudged
                asked += int(judged.compared.asked.sum())
        self._stops.if_abstained(unjudged, asked, self._args.max_nan_rate, number)
        return batches

    def collect(
        self, rows: list[dict], log: RoundLog | None = None, pause: Callable[[], None] = lambda: None
    ) -> Iterator[Judged]:
        """
        Samples and has judged all rows, and yields them in their order, some at a time.

        Args:
            rows (`list[dict]`): any number.
            log ([`RoundLog`], *optional*): which knows some of the samples, and is told the others.
            pause (`Callable`, *optional*): called before each generation.
        """
        self._judging.begin()
        found: dict[int, tuple] = {}  # by place
        waiting: deque[tuple] = deque()  # chunks without verdicts: few, and none unless the judge waits
        try:
            bar = self._reporter.bar("sampling and judging", len(rows), "prompt")
            with bar, self._sampler.awake():
                for places in chunks(self._longest_first(rows), self._args.generation_chunk):
                    waiting.append((places, self._ask([rows[place] for place in places], log, pause, bar)))
                    while len(waiting) > (CHUNKS_AT_ONCE if self._judging.judge.waits else 0):
                        pairing = self._answers(*waiting.popleft(), found, bar)
                while waiting:
                    pairing = self._answers(*waiting.popleft(), found, bar)
        except KeyboardInterrupt:
            self._judging.farewell()  # its answers are paid for
            raise
        micro = self._args.per_device_train_batch_size
        size = math.ceil(CHUNKS_AT_ONCE * self._args.generation_chunk / micro) * micro
        for places in chunks(list(range(len(rows))), size):
            judged = _judged([rows[place] for place in places], [found.pop(place) for place in places], pairing)
            self._reporter.record_judged(judged)
            yield judged
        failure, self._judging.failure = self._judging.failure, None
        self._stops.if_judge_failed(failure)

    def _longest_first(self, rows: list[dict]) -> list[int]:
        """The places of the rows as they are sampled, fillers behind all others. One chunk is sampled as it is."""
        for row in rows:
            check_row(row, self._sampler.render, f"the row {row}")
        ids, cut = zip(*(self._sampler.render.ids(self._sampler.shown(row)) for row in rows), strict=True)
        own = count_of(rows)
        self._reporter.metrics.add("prompts/cut_ratio", sum(cut[:own]), own)
        order = list(range(len(rows)))
        if len(rows) > self._args.generation_chunk:
            order.sort(key=lambda place: (isinstance(rows[place], Filler), -len(ids[place])))
        return order

    def _ask(self, rows: list[dict], log, pause, bar) -> Callable[[], Judged]:
        """Samples a chunk: a function that waits for its verdicts."""
        pause()
        bar.set_postfix_str("sampling")
        with self._reporter.phase("generate"):
            sample = partial(self._sample, [self._sampler.prompt_of(row) for row in rows])
            with self._stops.if_diverged():
                samples = sample() if log is None else log.draw(sample)
        bar.set_postfix_str("judging")
        with self._reporter.phase("judge"):
            wait = self._judging.ask(rows, samples)
        bar.update(len(rows) // 2)
        return wait

    def _answers(self, places: list[int], wait: Callable[[], Judged], found: dict, bar) -> Pairing:
        """Puts a chunk with its verdicts where its rows belong. Returns what chose its pairs."""
        with self._reporter.phase("judge"):
            judged = wait()
        bar.update(len(places) - len(places) // 2)
        self._reporter.record_tallies(judged.asked)
        compared = zip(*judged.compared, strict=True)
        for place, samples, *rest in zip(places, judged.samples.split(), judged.texts, compared, strict=True):
            found[place] = _packed(samples), *rest
        return judged.pairing

    def micro_batches(self, judged: Judged, labels: torch.Generator | None = None) -> list[PairBatch]:
        """Samples in micro-batches of fixed rows and width, with the pairs and (drawn from `labels`) labels to fit."""
        args, count, samples = self._args, self._args.num_generations, judged.samples
        trained = judged.pairing.select(judged.compared, count)
        pairs = torch.as_tensor(trained.pairs.copy())
        preference = torch.as_tensor(trained.preference, dtype=torch.float32)
        preference = hard_label(preference, args.preference_label, labels)
        weights = None
        if (trained.weights != 1).any():
            weights = torch.as_tensor(trained.weights, dtype=torch.float32)
        own = [completions[:count] for completions in samples.completion_ids]
        masks = samples.masks and [own[:count] for own in samples.masks]
        logps = samples.logps
        pad, size = self._sampler.config.pad_token_id, args.per_device_train_batch_size
        return [
            collate(
                samples.prompt_ids[b],
                own[b],
                pairs[b],
                preference[b],
                pad,
                logps and logps[b],
                weights=None if weights is None else weights[b],
                masks=masks and masks[b],
            )
            for b in (slice(s, s + size) for s in range(0, len(own), size))
        ]


def _packed(samples: Samples) -> Samples:
    """The same in little memory."""

    def pack(code: str, rows: list[list] | None) -> list[list] | None:
        return rows and [[array(code, row) for row in own] for own in rows]

    return replace(
        samples,
        prompt_ids=[array("i", ids) for ids in samples.prompt_ids],
        completion_ids=pack("i", samples.completion_ids),
        logps=pack("f", samples.logps),
        masks=pack("b", samples.masks),
    )


def _unpacked(samples: Samples) -> Samples:
    def unpack(rows: list[list] | None) -> list[list] | None:
        return rows and [[row.tolist() for row in own] for own in rows]

    return replace(
        samples,
        prompt_ids=[ids.tolist() for ids in samples.prompt_ids],
        completion_ids=unpack(samples.completion_ids),
        logps=unpack(samples.logps),
        masks=unpack(samples.masks),
    )


def _judged(rows: list[dict], found: list[tuple], pairing: Pairing) -> Judged:
    """Rows with what was found of each."""
    samples, texts, compared = map(list, zip(*found, strict=True))
    samples = _unpacked(Samples.together(samples))
    return Judged(rows, samples, texts, pairing, Compared(*map(np.stack, zip(*compared, strict=True))), [])
