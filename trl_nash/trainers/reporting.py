# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a run says of itself: metrics of a round and a fit, and evaluation."""

import logging
import math
from itertools import combinations
from pathlib import Path

import torch
from accelerate.logging import get_logger

from ..judges.base import Tally
from ..objectives import cycle_rate
from ..policies import INITIAL
from ..rounds.batch import Samples
from ..rounds.log import random_state
from ..rounds.rows import count_of
from .card import append_settings
from .completions import log_verdicts


logger = get_logger("trl_nash")  # speaks on the main process only


class ReportingMixin:
    """Metrics and evaluation. Part of [`NashTrainer`]."""

    @property
    def _mode(self) -> str:
        return "train" if self.model.training else "eval"

    def _record_tally(self, tally: Tally, preference: torch.Tensor) -> None:
        """What the judge knows of its verdicts beside the `preference` that they make."""
        metrics, abstained = self._metrics[self._mode], int(preference.isnan().sum())
        metrics.add("judge/abstained", abstained, preference.numel())
        reasons = tally.abstained
        reasons["no opinion"] += max(0, abstained - reasons.total())  # of judges that keep no tally
        for reason, count in (+reasons).items():
            metrics.add(f"judge/abstained/{reason.replace(' ', '_').replace('/', '_')}", count, 0)
        metrics.add("judge/position_bias", tally.disagreement, tally.both_orders)
        if tally.asked + tally.cached:
            metrics.add("judge/cached", tally.cached, tally.asked + tally.cached)

    def _record_round(self, samples: Samples, preference: torch.Tensor) -> None:
        metrics, judged = self._metrics[self._mode], ~preference.isnan()
        metrics.add("judge/preference", preference.nansum(), judged.sum())
        lengths = torch.tensor([[len(ids) for ids in completions] for completions in samples.completion_ids])
        first, second = (lengths[:, index] for index in torch.tensor(samples.pairs).T)
        decided = judged & (first != second)
        longer_wins = torch.where(first > second, preference, 1 - preference)
        metrics.add("judge/longer_wins", longer_wins[decided].sum(), decided.sum())
        count = self.args.num_generations
        if count > 2 and len(samples.pairs) == math.comb(count, 2):
            rate = cycle_rate(preference, torch.tensor(samples.pairs), count)
            column = {pair: m for m, pair in enumerate(samples.pairs)}
            triples = [[column[pair] for pair in combinations(triple, 2)] for triple in combinations(range(count), 3)]
            complete = judged[:, torch.tensor(triples)].all(-1).sum()
            metrics.add("judge/cycle_rate", rate.nan_to_num() * complete, complete)
        own = [ids for completions in samples.completion_ids for ids in completions[:count]]
        clipped = [not ids or ids[-1] not in self.eos_token_ids for ids in own]
        metrics.add("completions/mean_length", sum(map(len, own)), len(own))
        metrics.add("completions/clipped_ratio", sum(clipped), len(own))

    def _record_fit(self, margin: torch.Tensor, target: torch.Tensor) -> None:
        metrics, judged = self._metrics[self._mode], ~target.isnan()
        margin, target = margin[judged], target[judged]
        metrics.add("fit/margin", (target.sign() * margin).sum(), judged.sum())
        metrics.add("fit/target", target.abs().sum(), judged.sum())
        # The targets' mean is 0 by antisymmetry, so R² is taken about 0.
        explained = target.square().sum() - (margin - target).square().sum()
        metrics.add("fit/r2", explained, target.square().sum())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:  # a training log: evaluation's and the final summary have other keys
            logs |= self._metrics["train"].flush(steps=self.state.global_step - self._last_logged_step)
            logs["round"] = self.round + 1
            self._last_logged_step = self.state.global_step
        super().log(logs, start_time)
        if self._verdicts and self.accelerator.is_main_process:
            verdicts = self._verdicts[-self.args.num_completions_to_print :]
            # "completions" in training, "eval_completions" (or with the dataset's name) in evaluation.
            name = next((key[: -len("loss")] for key in logs if key.endswith("loss")), "") + "completions"
            log_verdicts(verdicts, self.state.global_step, self.args.output_dir, self.args.report_to, name)
        self._verdicts.clear()

    def _say_once(self, message: str, level: int = logging.WARNING) -> None:
        if message not in self._said:
            self._said.add(message)
            logger.log(level, message)

    def prediction_step(self, model, inputs: list[dict], prediction_loss_only, ignore_keys=None):
        self.policies.ensure_initial()
        self.fit = 0  # the loss is that of a fit that would begin now
        self._random_state = random_state()
        samples, preference = self._sample_and_judge(inputs)
        count = count_of(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            batches = self._score_anchor(self._micro_batches(samples, preference), count)
            batches = [batch.to(self.accelerator.device) for batch in batches]
            outputs = [self.compute_loss(model, batch, return_outputs=True)[1] for batch in batches]
        self._record_win_rate(inputs, samples)
        total = torch.cat([output["losses"] for output in outputs])[:count].sum()
        self._metrics["eval"].add("loss", total, count)
        return total / max(count, 1), None, None

    def _record_win_rate(self, rows: list[dict], samples: Samples) -> None:
        """P(policy ≻ reference), completion k against completion k: it costs a generation, so only evaluation asks."""
        count = self.args.num_generations
        with self._metrics["eval"].phase("generate"):
            _, opponents = self.generate([row["prompt"] for row in rows], count, policy=INITIAL)
        completions = [own[:count] + other for own, other in zip(samples.completion_ids, opponents, strict=True)]
        wins = self._judge(rows, completions, [(k, count + k) for k in range(count)])
        self._stop_if_judge_failed()
        self._metrics["eval"].add("policy/win_rate_reference", wins.nansum(), (~wins.isnan()).sum())
        lengths = [len(ids) for completions in opponents[: count_of(rows)] for ids in completions]
        self._metrics["eval"].add("completions/mean_length_reference", sum(lengths), len(lengths))

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        output.metrics.update({f"{metric_key_prefix}_{k}": v for k, v in self._metrics["eval"].flush().items()})
        return output

    def create_model_card(self, *args, **kwargs) -> None:
        super().create_model_card(*args, **kwargs)
        if self.is_world_process_zero():
            append_settings(Path(self.args.output_dir) / "README.md", self.args, self.judge)
