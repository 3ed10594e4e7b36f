# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
A trainer whose policy is a table over three one-word answers, whose samples are all there are, weighted by their
probability, and whose fits are exact. Everything else (rounds, labels, pairs, anchors, loss) is the trainer's own.
"""

from contextlib import nullcontext
from dataclasses import replace
from itertools import product

import torch
from helpers import make_trainer, prompt_dataset
from torch import nn


WORDS = "abc"
# The synthetic game of COMAL, P[i, j] = P(i ≻ j): b beats a, c beats b, a beats c.
GAME = torch.tensor([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]], dtype=torch.float64)
START = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


class Table(nn.Module):
    """`log π` of three one-token answers, in fp64."""

    def __init__(self, policy: torch.Tensor, answers: list[int]):
        super().__init__()
        self.logits = nn.Parameter(policy.log())
        self.answers = torch.tensor(answers)

    def forward(self, labels: torch.Tensor) -> torch.Tensor:
        # Prompt and completion are one token each, so column 1 holds the answer.
        return self.logits.log_softmax(-1)[torch.searchsorted(self.answers, labels[:, 1:].contiguous())]


def judge_words(prompts, first, second):
    return [GAME[WORDS.index(a), WORDS.index(b)].item() for a, b in zip(first, second, strict=True)]


judge_words.symmetric = True


class ExactGame:
    """
    Plays rounds of `algorithm` from `START` with exact fits.

    Args:
        count (`int`): K. A round has one "prompt" for each of the 3^K draws of K answers.
        repeats (`int`): how often each draw is in the round.
        in_fp64 (`bool`): whether centres and preferences skip the fp32 that the trainer keeps them in.
    """

    def __init__(self, algorithm, output_dir, count=2, repeats=1, judge=judge_words, in_fp64=False, **options):
        rows = repeats * 3**count
        self.trainer = make_trainer(
            algorithm,
            output_dir,
            judge=judge,
            dataset=prompt_dataset(["d"] * rows),
            per_device_train_batch_size=rows,
            num_generations=count,
            **options,
        )
        answers = self.trainer._tokenizer.convert_tokens_to_ids(list(WORDS))
        self.draws = torch.tensor(list(product(range(3), repeat=count)) * repeats)
        self.table = Table(START, answers)
        self.trainer.model = self.trainer.model_wrapped = self.table
        self.trainer.score = lambda model, batch: model(batch.labels)
        prompt = self.trainer._tokenizer("d").input_ids
        completions = [[[answers[i]] for i in draw] for draw in self.draws.tolist()]
        self.trainer.generate = lambda prompts, count, policy=None: ([prompt] * rows, completions)
        if in_fp64:
            self.trainer.scorer.centre = self._centre_in_fp64

    @property
    def policy(self) -> torch.Tensor:
        return self.table.logits.detach().softmax(-1)

    @torch.no_grad()
    def _centre_in_fp64(self, fit, batches, live, first, references):
        centre = 0.0
        for policy, weight in fit.centre.items():
            kept = nullcontext(self.table) if policy == live else self.trainer.policies.active(policy)
            with kept as table:
                centre = centre + weight * table(batches[0].labels)
        wins = GAME[self.draws[:, batches[0].pairs[0, :, 0]], self.draws[:, batches[0].pairs[0, :, 1]]]
        return [replace(batches[0], centre_logps=centre, preference=wins)]

    def fit(self, chance: torch.Tensor | None = None, sampler: torch.Tensor | None = None) -> None:
        """
        One fit: the trainer makes the batch (and, when a round begins, samples, judges and labels it), and the logits
        become the minimiser of its objective in expectation.

        Args:
            chance (`torch.Tensor`): extra probability of each draw, of its label for instance.
            sampler (`torch.Tensor`): the policy that draws, if it is not the current one.
        """
        trainer = self.trainer
        batch = trainer._prepare_inputs([{"prompt": "d"}] * len(self.draws))
        if trainer.place.fit == 0 or trainer.fit.pairs_from is not None:  # else they are the pairs of the first fit
            sampler = self.policy if sampler is None else sampler
            self.weights = sampler[self.draws].prod(-1) * (1.0 if chance is None else chance)
            assert abs(self.weights.sum() - 1) < 1e-6

        batch = trainer.scorer.complete(batch, self.table(batch.labels))

        def loss(logits):
            logps = torch.func.functional_call(self.table, {"logits": logits}, (batch.labels,))
            return (self.weights * trainer.objective(logps, batch)).sum()

        # Margins are linear in the logits, so the loss is a parabola and one Newton step ends at its bottom.
        logits = self.table.logits.detach()
        gradient = torch.autograd.functional.jacobian(loss, logits)
        hessian = torch.autograd.functional.hessian(loss, logits)
        with torch.no_grad():
            self.table.logits -= torch.linalg.pinv(hessian, hermitian=True) @ gradient

    def play_round(self, **kwargs) -> None:
        for _ in range(self.trainer.args.schedule.fits):
            self.fit(**kwargs)


def mirror_step(log_anchor: torch.Tensor, step: float, opponent: torch.Tensor, game=GAME) -> torch.Tensor:
    """`π ∝ exp(anchor) · exp(step · P(· ≻ opponent))`."""
    return (log_anchor + step * game @ opponent).softmax(-1)
