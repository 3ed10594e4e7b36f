# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The first half of a round: prompts, completions from the policy, verdicts from the judge, micro-batches to fit."""

import hashlib
import json
import math
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..generation.prompts import strip_thinking
from ..judges.base import JudgeError
from ..objectives import best_and_worst, hard_label
from ..rounds.batch import PairBatch, Samples, chunks, collate
from ..rounds.log import RoundLog, random_state
from ..rounds.rows import EvaluationLoader, Filler, Share, StreamedRounds, count_of, round_loader
from ..rounds.tournament import best_and_worst_by_tournament
from .checks import check_prompt
from .completions import Verdict


CHUNKS_AT_ONCE = 8  # generation chunks whose samples are kept as lists before they become micro-batches
ROUND_FOLDER = "round"  # in the output folder, while a round is sampled
# What a sample depends on beside prompts, policy and random numbers.
_SAMPLING_OPTIONS = (
    "num_generations temperature top_p top_k min_p repetition_penalty generation_kwargs max_new_tokens max_length "
    "chat_template_kwargs use_vllm use_transformers_continuous_batching transformers_continuous_batching_config "
    "per_device_generation_batch_size per_device_train_batch_size"
).split()


class EpochCounter(TrainerCallback):
    """
    The epoch that runs. `state.epoch` is of the last step: when an iterable dataset starts anew, it is still a
    fraction of the epoch before.
    """

    epoch = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.epoch = int(state.epoch or 0) - 1

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch += 1


class SamplingMixin:
    """Samples completions and has them judged. Part of [`NashTrainer`]."""

    def train(self, *args, **kwargs):
        output = super().train(*args, **kwargs)
        if self.accelerator.is_main_process:
            shutil.rmtree(Path(self.args.output_dir) / ROUND_FOLDER, ignore_errors=True)
        if self.state.global_step == 0 and isinstance(self.train_dataset, IterableDataset):
            raise ValueError(
                f"`train_dataset` ended before the first round of {self.args.prompts_per_round} prompts "
                "(per_device_train_batch_size * steps_per_generation * processes) was full. Lower one of them or add "
                "prompts."
            )
        return output

    def get_train_dataloader(self) -> DataLoader:
        share = Share(
            prompts=self._train_batch_size * self.args.steps_per_generation,
            micro_steps=self.args.micro_steps_per_round,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            seed=self.args.seed if self.args.data_seed is None else self.args.data_seed,
            epoch=lambda: self._epochs.epoch,
            unfinished=self._unfinished_micro_steps,
        )
        return round_loader(self.train_dataset, share, **self._reading)

    def _unfinished_micro_steps(self) -> int:
        """Of a round that an epoch begins in the middle of: resumed, it has its batches, and no rows are skipped."""
        return -self._micro_step % self.args.micro_steps_per_round if self.args.ignore_data_skip else 0

    def _get_dataloader(self, dataset, description, batch_size, **kwargs) -> EvaluationLoader:
        """Of evaluation and prediction."""
        return EvaluationLoader(
            dataset,
            batch_size=batch_size,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            **self._reading,
        )

    @property
    def _reading(self) -> dict:
        """Options of the [`~torch.utils.data.DataLoader`] that reads rows; these have no use for pinned memory."""
        names = ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context", "in_order")
        return {name: getattr(self.args, f"dataloader_{name}") for name in names}

    def num_examples(self, dataloader) -> int:
        dataset = getattr(dataloader, "dataset", None)
        return len(dataset.stream) if isinstance(dataset, StreamedRounds) else super().num_examples(dataloader)

    def _sample_round(self, rows: list[dict]) -> list[PairBatch]:
        """
        A round of this rank in micro-batches, sampled and judged a few generation chunks at a time, so that lists of
        tokens are never kept for more than these.
        """
        if math.ceil(len(rows) / self._train_batch_size) != self.args.steps_per_generation:
            raise ValueError(
                f"`get_train_dataloader` yields {len(rows)} rows at a round's first micro-step, where a list of "
                f"{self._train_batch_size * self.args.steps_per_generation} is needed: the process's rows of a round."
            )
        # Resumed from a stop in this round, a run samples the same completions: the judge's cache knows them.
        self._random_state = random_state()
        size, micro = self._generation_size, self._train_batch_size
        self._round_log = self._open_round_log(rows) if len(rows) > size else None
        batches, preferences = [], []
        bar = self._bar("sampling and judging", len(rows), "prompt", prompts=len(rows))
        with bar as self._progress, ExitStack() as self._gathering:
            if not self.use_vllm:
                self._gathering.enter_context(self._gathered(self.model_wrapped))
            for part in chunks(rows, math.ceil(CHUNKS_AT_ONCE * size / micro) * micro):
                samples, preference = self._sample_and_judge(part)
                batches += self._micro_batches(samples, preference)
                preferences.append(preference)
        self._round_log = None
        self._stop_if_abstained(torch.cat(preferences))
        return batches

    def _bar(self, what: str, total: int, unit: str, prompts: int) -> tqdm:
        """A progress bar of a part of a round of so many prompts; one generation chunk is over too soon to show it."""
        shown = self._mode == "train" and prompts > self._generation_size and self.accelerator.is_main_process
        return tqdm(
            total=total,
            desc=f"Round {self.round + 1}: {what}",
            unit=unit,
            leave=False,
            disable=self.args.disable_tqdm or not shown,
        )

    @property
    def _generation_size(self) -> int:
        return self.args.per_device_generation_batch_size or self.args.per_device_train_batch_size

    def _open_round_log(self, rows: list[dict]) -> RoundLog:
        settings = [getattr(self.args, name) for name in _SAMPLING_OPTIONS]
        parts = [self._name, self.round, rows, settings, self.policies.fingerprint(), self._random_state]
        return RoundLog(
            Path(self.args.output_dir) / ROUND_FOLDER / f"{self.accelerator.process_index:05d}.jsonl",
            hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest(),
            lambda count: min(gather_object([count])),
        )

    def _sample_and_judge(self, rows: list[dict]) -> tuple[Samples, torch.Tensor]:
        """Completions of the rows' prompts and P(first ≻ second) of their pairs, of shape (len(rows), M)."""
        # Prompts of one length are sampled together, the longest first: less padding, and what fails fails early.
        order = list(range(len(rows)))
        if len(rows) > self._generation_size:
            order.sort(key=lambda index: -len(str(rows[index].get("prompt"))))
        prompt_ids, completion_ids, preference = [], [], []
        for chunk in chunks([rows[index] for index in order], self._generation_size):
            if self._mode == "train":
                self._stop_if_requested()
            for row in chunk:
                check_prompt(row.get("prompt"), f"the row {row}")
            self._progress.set_postfix_str("sampling")
            with self._metrics[self._mode].phase("generate"):
                samples = self._draw([row["prompt"] for row in chunk])
            self._progress.set_postfix_str("judging")
            if self.args.pair_selection == "tournament":
                samples, verdicts = self._tournament(chunk, samples)
            else:
                verdicts = self._judge(chunk, samples.completion_ids, samples.pairs, of_round=True)
            prompt_ids += samples.prompt_ids
            completion_ids += samples.completion_ids
            preference.append(verdicts)
            self._progress.update(len(chunk))
        self._stop_if_judge_failed()
        place = sorted(range(len(rows)), key=order.__getitem__)  # where each row has gone
        samples = Samples([prompt_ids[k] for k in place], [completion_ids[k] for k in place], samples.pairs)
        preference = torch.cat(preference)[place]
        if count := count_of(rows):
            own = Samples(samples.prompt_ids[:count], samples.completion_ids[:count], samples.pairs)
            self._record_round(own, preference[:count])
            cut = [self.render(row["prompt"])[1] for row in rows[:count]]
            self._metrics[self._mode].add("prompts/cut_ratio", sum(cut), count)
        return samples, preference

    def _draw(self, prompts: list) -> Samples:
        if self._round_log is None or self._mode != "train":
            return self._sample(prompts)
        return self._round_log.draw(lambda: self._sample(prompts))

    def _sample(self, prompts: list) -> Samples:
        try:
            return self.sample_pairs(prompts)
        except RuntimeError as error:
            # What torch says of probabilities that are nan or infinite, on the CPU and on a GPU.
            if "probability tensor" not in str(error) and "device-side assert" not in str(error):
                raise
            raise RuntimeError(
                f"The policy has diverged: nothing can be sampled from it at step {self.state.global_step} (round "
                f"{self.round + 1}). Lower `learning_rate` or `step_size`, and resume from an earlier checkpoint."
            ) from error

    def decode(self, completion_ids: list[int]) -> str:
        """The text that a judge sees."""
        text = self._tokenizer.decode(completion_ids, skip_special_tokens=True)
        return strip_thinking(text) if self.args.strip_thinking else text

    def _judge(self, rows: list[dict], completion_ids: list, pairs: list, of_round: bool = False) -> torch.Tensor:
        """P(first ≻ second) of each row's pairs, of shape (len(rows), len(pairs)); nobody is asked of fillers."""
        preference = torch.full((len(rows), len(pairs)), math.nan)
        asked = [index for index, row in enumerate(rows) if not isinstance(row, Filler)]
        if asked:
            rows, completion_ids = ([items[index] for index in asked] for items in (rows, completion_ids))
            preference[asked] = self._ask(rows, completion_ids, pairs, of_round)
        return preference

    def _ask(self, rows: list[dict], completion_ids: list, pairs: list, of_round: bool) -> torch.Tensor:
        with self._metrics[self._mode].phase("judge"):
            prompts = [row["prompt"] for row in rows]
            texts = [[self.decode(ids) for ids in completions] for completions in completion_ids]
            columns = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
            preference = np.full((len(rows), len(pairs)), math.nan)
            if self._judge_failure is None:
                try:
                    preference = self.judge.compare(
                        prompts,
                        texts,
                        pairs,
                        columns=columns,
                        completion_ids=completion_ids,
                        trainer_state=self.state,
                    )
                except JudgeError as error:
                    # The other ranks may be waiting in a generation: the rest of the round is sampled unjudged.
                    self._judge_failure = str(error)
        preference = torch.as_tensor(np.asarray(preference), dtype=torch.float32)
        tally = self.judge.tally.take()
        if of_round and self._judge_failure is None:
            self._record_tally(tally, preference)
        if of_round and self.args.log_completions:
            i, j = pairs[0]
            for prompt, completions, row in zip(prompts, texts, preference, strict=True):
                prompt = prompt if isinstance(prompt, str) else prompt[-1]["content"]
                self._verdicts.append(Verdict(prompt, completions[i], completions[j], float(row[0])))
        return preference

    def _tournament(self, rows: list[dict], samples: Samples) -> tuple[Samples, torch.Tensor]:
        """The samples with the best completion first and the worst second, and the preference between them."""

        def take(players: np.ndarray) -> list:
            return [[ids[k] for k in row] for ids, row in zip(samples.completion_ids, players, strict=True)]

        count = self.args.num_generations
        chosen, preference = best_and_worst_by_tournament(
            lambda players, pairs: self._judge(rows, take(players), pairs, of_round=True).numpy(), len(rows), count
        )
        order = [[*row, *(k for k in range(count) if k not in row)] for row in chosen.tolist()]
        return replace(samples, completion_ids=take(order), pairs=[(0, 1)]), torch.from_numpy(preference)

    def _micro_batches(self, samples: Samples, preference: torch.Tensor) -> list[PairBatch]:
        """The round in micro-batches of fixed rows and width, with the pairs and labels to train on."""
        pairs = torch.tensor(samples.pairs)
        if self.args.pair_selection == "best_worst":
            pairs, preference = best_and_worst(preference, pairs, self.args.num_generations)
        else:
            pairs = pairs.expand(len(preference), -1, -1)
        preference = hard_label(preference, self.args.preference_label)
        own = [completions[: self.args.num_generations] for completions in samples.completion_ids]
        return [
            collate(samples.prompt_ids[b], own[b], pairs[b], preference[b], pad_token_id=self._tokenizer.pad_token_id)
            for b in (slice(s, s + self._train_batch_size) for s in range(0, len(own), self._train_batch_size))
        ]
