# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The second half of a round: log-probs of the pairs under the policies of the anchor, computed once."""

from contextlib import nullcontext
from dataclasses import replace

import torch

from ..policies import INITIAL, PREVIOUS, REFERENCE
from ..rounds.batch import PairBatch


class ScoringMixin:
    """Scores completions under the live and the frozen policies. Part of [`NashTrainer`]."""

    def score(self, model: torch.nn.Module, batch: PairBatch) -> torch.Tensor:
        """
        Token log-probs of the completions at the sampling temperature, 0 elsewhere.

        The wrapped model's own forward is called, so that DDP, ZeRO and FSDP see it.

        Returns:
            `torch.Tensor` of shape `(B * K, T - 1)`.
        """
        return model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, fused_lm_head=True
        ).log_probs

    @torch.no_grad()
    def _score_anchor(self, batches: list[PairBatch], count: int | None = None) -> list[PairBatch]:
        """
        Scores a round under the policies of the anchor, one swap each, and combines them into `anchor_logps`. Metrics
        are of the first `count` prompts.
        """
        weights: dict[str, float] = {}
        for name, weight in self.anchor_weights().items():
            name = self.policies.resolve(name)
            weights[name] = weights.get(name, 0.0) + weight
        if self.fit == 0:
            # The KL metrics are exact at the moment of sampling.
            weights = {PREVIOUS: 0.0, INITIAL: 0.0, **weights}
        # In fp64, so that weights that add up to 1 return a policy's own log-probs bitwise.
        anchors: list[torch.Tensor | float] = [0.0] * len(batches)
        sums: dict[str, torch.Tensor] = {}
        bar = self._bar("scoring", len(weights) * len(batches), "micro-batch", prompts=sum(map(len, batches)))
        with self._metrics[self._mode].phase("score"), self.compute_loss_context_manager(), bar as self._progress:
            for name, weight in weights.items():
                scores = self._score_under(name, batches)
                anchors = [a + weight * s.double() if weight else a for a, s in zip(anchors, scores, strict=True)]
                sums[name] = torch.cat([s.sum(-1) for s in scores])
        if self.fit == 0:
            for metric, name in (("policy/kl_reference", INITIAL), ("policy/kl_anchor", REFERENCE)):
                if name in sums:
                    kl = (sums[PREVIOUS] - sums[name]).unflatten(0, (-1, self.args.num_generations))[:count]
                    self._metrics[self._mode].add(metric, kl.sum(), kl.numel())
        return [replace(batch, anchor_logps=a.float()) for batch, a in zip(batches, anchors, strict=True)]

    def _score_under(self, name: str, batches: list[PairBatch]) -> list[torch.Tensor]:
        policy = nullcontext(self.model_wrapped) if name == PREVIOUS else self.policies.active(name)
        scores = []
        with policy as model:
            for batch in batches:
                scores.append(self.score(model, batch.to(self.accelerator.device)).float().cpu())
                self._progress.update()
        return scores
