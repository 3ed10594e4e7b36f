# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Evaluation of a policy: the loss of the fit that would begin now, and how often it beats the start of the run."""

from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from ...algorithms import INITIAL
from ...evaluation.pool import WIN_RATE_WORST
from ...rounds.batch import Samples
from ...rounds.rows import count_of
from ...rounds.schedule import Place
from ..config import WIN_RATE
from .checkpoints.keeper import FOLDER
from .hooks import TrainerHooks
from .pool import OpponentPoolCallback
from .scorer import count_first, measured_kls
from .warned_once import warned_once


class EvaluationHooks(TrainerHooks):
    """The hooks of [`~transformers.Trainer`] for evaluation. See [`NashTrainer`]."""

    @contextmanager
    def as_if_a_round_began(self):
        """Within it the run is where the next round would begin now; a policy yet to come is the live one."""
        place, past = self.place, self.past
        here = self.args.schedule.place(self._micro_step)
        self.place = Place(here.round + (not here.begins_round), 0, 0, 0)
        self.past = self.args.past(self.round, self.past.epoch)
        try:
            yield
        finally:
            self.place, self.past = place, past

    def prediction_step(self, model, inputs: list[dict], prediction_loss_only, ignore_keys=None):
        """The loss of the fit that would begin now, and how often the policy beats the reference."""
        self.policies.ensure_initial()
        self.stops.begin_round()
        count, losses = count_of(inputs), []
        with self.as_if_a_round_began(), torch.no_grad(), self.compute_loss_context_manager():
            own: list[Samples] = []
            for judged in self.collector.collect(inputs):
                batches = self.collector.micro_batches(judged)
                kept = {policy if self.policies.knows(policy) else self.live: 0.0 for policy in self.fit.centre}
                for policy, weight in self.fit.centre.items():
                    kept[policy if policy in kept else self.live] += weight
                fit, own_rows = self.fit._replace(centre=kept), count_of(judged.rows)
                measured = measured_kls(self.past, self.place, self.trains_on_policy)
                batches = self.scorer.centre(fit, batches, self.live, len(batches), measured, own_rows)
                for batch in count_first(batches, own_rows):
                    batch = batch.to(self.accelerator.device)
                    losses.append(self.compute_loss(model, batch, return_outputs=True)[1]["losses"])
                own.append(judged.samples)
            self._record_win_rate(inputs, own)
        total = torch.cat(losses)[:count].sum()
        self.reporter.metrics.add("loss", total, count)
        return total / max(count, 1), None, None

    def _record_win_rate(self, rows: list[dict], own: list[Samples]) -> None:
        """P(policy ≻ reference), completion k against completion k: it costs a generation, so only evaluation asks."""
        count, prompts = self.args.num_generations, [self.sampler.prompt_of(row) for row in rows]
        pairs = [(k, count + k) for k in range(count)]
        with self.reporter.phase("generate"), self.reporter.bar("the start's answers", len(prompts), "prompt"):
            if not self.trains_on_policy:
                own = [Samples(*self.generate(prompts, count), [], **self.sampler.beside)]
            prompt_ids, others = self.generate(prompts, count, INITIAL)
        first = [list(range(count))] * len(prompts)
        mine = replace(Samples.together(own).chosen(first), prompt_ids=prompt_ids, pairs=pairs)
        samples = mine.against(others, self.sampler.beside)
        with self.reporter.phase("judge"):
            judged = self.judging.verdicts(rows, samples)
        failure, self.judging.failure = self.judging.failure, None
        self.stops.if_judge_failed(failure)
        self.reporter.record_played(judged)
        lengths = [length for row in samples.lengths[: count_of(rows)] for length in row[count:]]
        self.reporter.metrics.add("completions/mean_length_reference", sum(lengths), len(lengths))

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        metric = self.args.metric_for_best_model or ""
        win_rate = metric.endswith((WIN_RATE, WIN_RATE_WORST))
        if win_rate and f"eval_{metric.removeprefix('eval_')}" not in metrics:
            self.reporter.say_once(f"The judge had no opinion in an evaluation: without {metric} it is not the best.")
            return False
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best and metric.endswith(WIN_RATE_WORST) and self.opponent_pool is not None:
            self.opponent_pool.keep_best()
        return is_best

    def evaluation_loop(self, dataloader, *args, metric_key_prefix="eval", **kwargs):
        with warned_once():
            output = super().evaluation_loop(dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs)
            if (pool := self.opponent_pool) is not None:
                played = pool.evaluate(dataloader, metric_key_prefix)
                output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in played.items()})
        output.metrics.update({f"{metric_key_prefix}_{k}": v for k, v in self.reporter.flush_evaluation().items()})
        self.reporter.show_answers(f"{metric_key_prefix}_completions", self.state.global_step)
        return output

    # ---- The opponent pool ----

    @property
    def opponent_pool(self) -> OpponentPoolCallback | None:
        """The pool that evaluations play against, if there is one."""
        callbacks = self.callback_handler.callbacks
        return next((callback for callback in callbacks if isinstance(callback, OpponentPoolCallback)), None)

    def start_run(self, checkpoint: Path | None) -> None:
        super().start_run(checkpoint)
        if self.opponent_pool is not None:
            self.opponent_pool.begin(checkpoint and checkpoint / FOLDER)
        elif (self.args.metric_for_best_model or "").endswith(WIN_RATE_WORST):
            raise ValueError(
                f"`metric_for_best_model={self.args.metric_for_best_model!r}` needs an opponent pool: set "
                "`opponent_pool_rounds`."
            )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.opponent_pool is not None:
            self.opponent_pool.save(Path(output_dir) / FOLDER)
