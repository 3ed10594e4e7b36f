# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The log-probs of a round under the policies of a fit's centre, each computed once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace

import torch

from ...algorithms import INITIAL, Fit, Past, Policy
from ...policies import FrozenPolicies
from ...rounds.batch import PairBatch
from ...rounds.schedule import Place
from .reports.reporter import Reporter


KL_SAMPLE = 64  # completions of a round on each rank that are scored for the sake of a metric


class Scorer:
    """
    Scores rounds under frozen policies.

    The policy that is fitted is not scored ahead of its first optimizer step: until then the fit's own forward gives
    the same log-probs bitwise, and [`complete`] adds them.

    Args:
        score (`Callable[[torch.nn.Module, PairBatch], torch.Tensor]`):
            Log-probs of the tokens of a micro-batch under a model, of shape (B * K, T - 1), 0 outside completions.
        model (`Callable[[], torch.nn.Module]`): returns the live policy as it is called for training.
        policies ([`FrozenPolicies`]): the others.
        precision (`Callable`): context in which the trainer computes losses.
        device (`torch.device`): where models are.
        reporter ([`Reporter`]): for metrics and progress.
    """

    def __init__(
        self,
        score: Callable[[torch.nn.Module, PairBatch], torch.Tensor],
        model: Callable[[], torch.nn.Module],
        policies: FrozenPolicies,
        precision: Callable[[], AbstractContextManager],
        device: torch.device,
        reporter: Reporter,
    ):
        self._score = score
        self._model = model
        self._policies = policies
        self._precision = precision
        self._device = device
        self._reporter = reporter

    @torch.no_grad()
    def centre(
        self,
        fit: Fit,
        batches: list[PairBatch],
        live: Policy,
        first: int,
        references: dict[str, Policy],
        own: int | None = None,
    ) -> list[PairBatch]:
        """
        The micro-batches with the centre of a fit, `Σ_k w_k log p_k`.

        Args:
            fit ([`Fit`]): which policies, with which weights.
            batches (`list[PairBatch]`): the round.
            live (`Policy`): what the live policy is: it is scored in later micro-batches than the `first` ones only.
            first (`int`): micro-batches before the first optimizer step of the fit.
            references (`dict[str, Policy]`):
                Policies whose KL from the live one is a metric, by its name: on the first micro-batches, and where the
                fit does not name them on `KL_SAMPLE` completions.
            own (`int`, *optional*): prompts that metrics count; behind them are fillers.
        """
        resolve = self._policies.resolve
        weights: dict[Policy, float] = {}
        for policy, weight in fit.centre.items():
            if weight:
                weights[resolve(policy)] = weights.get(resolve(policy), 0.0) + weight
        live_weight = weights.pop(resolve(live), 0.0)  # `complete` adds its part, from the fit's first forward
        sampled = {name: resolve(policy) for name, policy in references.items()}
        passes = dict.fromkeys(weights, batches)
        if (initial := resolve(INITIAL)) in sampled.values() and initial not in (*passes, resolve(live)):
            passes[initial] = _some(batches[:first])
        if live_weight and batches[first:]:
            passes[live] = batches[first:]

        # In fp64, so that weights that add up to 1 return a policy's own log-probs bitwise.
        rests: list[torch.Tensor | float] = [0.0] * len(batches)
        sums: dict[Policy, list[torch.Tensor]] = {}
        dtype = torch.float32
        total = sum(map(len, passes.values()))
        with self._reporter.phase("score"), self._precision(), self._reporter.bar("scoring", total) as bar:
            for policy, rows in passes.items():
                scores = self.under(policy, rows, is_live=policy == live, progress=bar.update)
                dtype = scores[0].dtype if scores else dtype
                if policy == live:
                    rests[first:] = [r + live_weight * s.double() for r, s in zip(rests[first:], scores, strict=True)]
                    continue
                sums[policy] = [s.sum(-1) for s in scores]
                if weight := weights.get(policy):
                    rests = [r + weight * s.double() for r, s in zip(rests, scores, strict=True)]
        for name, policy in sampled.items():
            if policy == resolve(live):
                self._reporter.metrics.sample(
                    name, torch.zeros(sum(map(len, batches[:first])) if own is None else own)
                )

        centred = []
        for index, (batch, rest) in enumerate(zip(batches, rests, strict=True)):
            early = index < first
            known = {name: sums[p][index] for name, p in sampled.items() if p in sums and index < len(sums[p])}
            centred.append(
                replace(
                    batch,
                    centre_logps=torch.as_tensor(rest) if early and live_weight else rest.to(dtype),
                    live_weight=live_weight if early else 0.0,
                    kl_from=known if early else {},
                )
            )
        return centred

    def complete(self, batch: PairBatch, logps: torch.Tensor) -> PairBatch:
        """
        The micro-batch with its whole centre, from the log-probs under the live policy before its first step.

        Args:
            batch ([`PairBatch`]): one of those that [`centre`] returned.
            logps (`torch.Tensor` of shape `(B * K, T - 1)`): from the fit's own forward.
        """
        if batch.live_weight == 0.0 and not batch.kl_from:
            return batch
        logps = logps.detach()
        for name, other in batch.kl_from.items():
            # Completions of a prompt are no independent sample of prompts: the mean of each prompt is.
            self._reporter.metrics.sample(name, (logps.sum(-1) - other).view(len(batch), -1).mean(-1))
        centre = batch.centre_logps
        if batch.live_weight:
            centre = (centre + batch.live_weight * logps.double()).to(logps.dtype)
        return replace(batch, centre_logps=centre, live_weight=0.0, kl_from={})

    @torch.no_grad()
    def under(
        self, policy: Policy, batches: list[PairBatch], is_live: bool, progress: Callable[[], object] = lambda: None
    ) -> list[torch.Tensor]:
        """The log-probs of micro-batches under a policy, each of shape (B * K, T - 1), on the CPU."""

        def scores(model: torch.nn.Module) -> list[torch.Tensor]:
            found = []
            for batch in batches:
                found.append(self._score(model, batch.to(self._device)).cpu())
                progress()
            return found

        if is_live:
            return scores(self._model())
        with self._policies.active(policy) as model:
            return scores(model)


def measured_kls(past: Past, place: Place, trains_on_policy: bool) -> dict[str, Policy]:
    """Policies whose KL from the policy is a metric, by its name, where what is trained on was sampled from that."""
    if place.fit > 0 or not trains_on_policy:
        return {}
    moved = past.reference != INITIAL
    return {"policy/kl_reference": INITIAL} | ({"policy/kl_anchor": past.reference} if moved else {})


def count_first(batches: list[PairBatch], count: int) -> list[PairBatch]:
    """The micro-batches, of which metrics count the first `count` prompts alone: behind them are fillers."""
    marked = []
    for batch in batches:
        counts = torch.arange(batch.input_ids.size(0)) < count * batch.num_completions
        marked.append(replace(batch, kl_from={k: v.where(counts, torch.nan) for k, v in batch.kl_from.items()}))
        count -= len(batch)
    return marked


def _some(batches: list[PairBatch]) -> list[PairBatch]:
    """As many micro-batches as hold `KL_SAMPLE` completions."""
    count = 0
    for index, batch in enumerate(batches):
        if count >= KL_SAMPLE:
            return batches[:index]
        count += batch.input_ids.size(0)
    return batches
