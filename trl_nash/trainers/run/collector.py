# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The first half of a round: completions and verdicts, chunk by chunk, and micro-batches of them."""

import hashlib
import json
import math
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ...generation.sampler import Sampler
from ...objectives import hard_label
from ...rounds.batch import PairBatch, Samples, chunks, collate
from ...rounds.log import RoundLog
from ...rounds.pairs import trained_pairs
from ...rounds.rows import Filler, count_of
from ..checks.arguments import check_prompt
from .judging import Judged, Judging
from .reporter import Reporter
from .stops import Stops


CHUNKS_AT_ONCE = 8  # generation chunks whose samples are kept as lists before they become micro-batches
ROUND_FOLDER = "round"  # in the output folder, while a round is sampled
# What a sample depends on beside prompts, policy and random numbers.
_SAMPLING_OPTIONS = (
    "num_generations temperature top_p top_k min_p repetition_penalty generation_kwargs max_new_tokens max_length "
    "chat_template_kwargs use_vllm use_transformers_continuous_batching transformers_continuous_batching_config "
    "per_device_generation_batch_size per_device_train_batch_size"
).split()


class Collector:
    """
    Samples rounds and has them judged, a few generation chunks at a time, so that lists of tokens are never kept for
    more than these. While a judge that waits has a chunk, the next one is sampled.

    Args:
        args ([`NashConfig`]): sizes and options.
        accelerator ([`~accelerate.Accelerator`]): of the ranks that sample together.
        sample (`Callable[[list], Samples]`): samples completions of some prompts.
        sampler ([`Sampler`]): which it samples with.
        judging ([`Judging`]): who judges them.
        reporter ([`Reporter`]): for metrics and progress.
        stops ([`Stops`]): which may end the run between two chunks.
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
            log = RoundLog(
                Path(self._args.output_dir) / ROUND_FOLDER / f"{self._accelerator.process_index:05d}.jsonl",
                hashlib.sha256(json.dumps([number, rows, settings, state, *key], default=str).encode()).hexdigest(),
                lambda count: min(gather_object([count])),
            )
        labels = None
        if self._args.preference_label == "sampled":
            # Of its own, so that it does not matter when a part of the round has its verdicts.
            labels = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        batches, preferences = [], []
        with self._sampler.round():
            for judged in self.collect(rows, log, self._stops.if_requested):
                batches += self.micro_batches(judged.samples, judged.preference, labels)
                preferences.append(judged.preference)
        self._stops.if_abstained(torch.cat(preferences), self._args.max_nan_rate, number)
        return batches

    def collect(
        self, rows: list[dict], log: RoundLog | None = None, pause: Callable[[], None] = lambda: None
    ) -> Iterator[Judged]:
        """
        Samples and has judged all rows, some at a time, in their order.

        Args:
            rows (`list[dict]`): any number.
            log ([`RoundLog`], *optional*): which knows some of the samples, and is told the others.
            pause (`Callable`, *optional*): called before each generation.
        """
        self._judging.begin()
        micro = self._args.per_device_train_batch_size
        size = math.ceil(CHUNKS_AT_ONCE * self._args.generation_chunk / micro) * micro
        waiting: deque[tuple] = deque()  # parts without verdicts: one, if the judge is asked while others are sampled
        try:
            with self._reporter.bar("sampling and judging", len(rows), "prompt") as bar:
                for part in chunks(rows, size):
                    waiting.append((part, self._ask(part, log, pause, bar)))
                    while len(waiting) > self._judging.judge.waits:
                        yield self._answers(*waiting.popleft(), bar)
                for part, asked in waiting:
                    yield self._answers(part, asked, bar)
        except KeyboardInterrupt:
            self._judging.farewell()  # its answers are paid for
            raise
        failure, self._judging.failure = self._judging.failure, None
        self._stops.if_judge_failed(failure)

    def _ask(self, rows, log, pause, bar) -> list[tuple[list[int], Callable[[], Judged]]]:
        """Samples rows chunk by chunk: the places of each chunk's rows, and a function that waits for its verdicts."""
        order = list(range(len(rows)))
        if len(rows) > self._args.generation_chunk:
            # Prompts of one length are sampled together, the longest first: less padding, and what fails fails early.
            order.sort(key=lambda k: (isinstance(rows[k], Filler), -len(str(rows[k].get("prompt")))))
        asked = []
        for places in chunks(order, self._args.generation_chunk):
            chunk = [rows[place] for place in places]
            pause()
            for row in chunk:
                check_prompt(row.get("prompt"), f"the row {row}")
            bar.set_postfix_str("sampling")
            prompts = [row["prompt"] for row in chunk]
            with self._reporter.phase("generate"):
                sample = partial(self._sample, prompts)
                samples = sample() if log is None else log.draw(sample)
            bar.set_postfix_str("judging")
            with self._reporter.phase("judge"):
                asked.append((places, self._judging.ask(chunk, samples)))
            bar.update(len(chunk) / 2)
        return asked

    def _answers(self, rows, asked, bar) -> Judged:
        """The verdicts of all chunks of a part, with its rows in their own order."""
        found: dict[int, tuple] = {}
        verdicts = []
        for places, wait in asked:
            with self._reporter.phase("judge"):
                judged = wait()
            bar.update(len(places) / 2)
            samples = judged.samples
            parts = zip(samples.prompt_ids, samples.completion_ids, judged.texts, judged.preference, strict=True)
            found |= dict(zip(places, parts, strict=True))
            verdicts += judged.asked
        prompt_ids, completion_ids, texts, preference = map(
            list, zip(*(found[k] for k in range(len(rows))), strict=True)
        )
        samples = Samples(prompt_ids, completion_ids, samples.pairs)
        judged = Judged(rows, samples, texts, torch.stack(preference), verdicts)
        self._reporter.record_judged(judged)
        own = rows[: count_of(rows)]
        self._reporter.metrics.add(
            "prompts/cut_ratio", sum(self._sampler.render(r["prompt"])[1] for r in own), len(own)
        )
        return judged

    def micro_batches(
        self, samples: Samples, preference: torch.Tensor, labels: torch.Generator | None = None
    ) -> list[PairBatch]:
        """Samples in micro-batches of fixed rows and width, with the pairs and (drawn from `labels`) labels to fit."""
        args, count = self._args, self._args.num_generations
        pairs, preference = trained_pairs(preference, samples.pairs, count, args.pair_selection)
        preference = hard_label(preference, args.preference_label, labels)
        own = [completions[:count] for completions in samples.completion_ids]
        pad, size = self._sampler.config.pad_token_id, args.per_device_train_batch_size
        return [
            collate(samples.prompt_ids[b], own[b], pairs[b], preference[b], pad_token_id=pad)
            for b in (slice(s, s + size) for s in range(0, len(own), size))
        ]
