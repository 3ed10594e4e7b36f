# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Keeps what a trainer scored and fitted, and works the same numbers out in fp64 by plain means."""

from dataclasses import dataclass, field, replace

import torch
from helpers import lora_config, weights
from peft import get_peft_model
from tiny import build_model, build_tokenizer

from trl_nash.algorithms import Policy
from trl_nash.rounds.batch import PairBatch, Samples


@dataclass
class Recorded:
    """One regression: `round` and `fit` count from 0."""

    round: int
    fit: int
    weights: dict[str, torch.Tensor]  # of the live policy when the fit began
    samples: Samples
    live: list[torch.Tensor] = field(default_factory=list)  # scores of that policy, one tensor a micro-batch
    scores: dict[Policy, list[torch.Tensor]] = field(default_factory=dict)  # those that the trainer asked for
    steps: list[tuple[torch.Tensor, PairBatch]] = field(default_factory=list)  # log-probs that were trained on

    @property
    def batches(self) -> list[PairBatch]:
        """The round, with the whole centre, as its first pass saw it."""
        return [batch for _, batch in self.steps[: len(self.live)]]


def record(trainer) -> list[Recorded]:
    """From now on, every fit of `trainer` is appended to the list that is returned."""
    fits: list[Recorded] = []
    drawn: list[Samples] = []
    micro_batches, centre = trainer.collector.micro_batches, trainer.scorer.centre
    under, objective = trainer.scorer.under, trainer.objective

    def keep_samples(judged, *labels):
        # Here all prompts have the same pairs.
        drawn.append(replace(judged.samples, pairs=[tuple(pair) for pair in judged.pairs[0].tolist()]))
        return micro_batches(judged, *labels)

    def keep_centre(fit, batches, live, first, references):
        fits.append(Recorded(trainer.round, trainer.place.fit, weights(trainer.model), drawn[-1]))
        fits[-1].live = under(live, batches, is_live=True)
        return centre(fit, batches, live, first, references)

    def keep_scores(policy, batches, is_live, progress):
        fits[-1].scores[policy] = under(policy, batches, is_live, progress)
        return fits[-1].scores[policy]

    def keep_step(logps, batch):
        fits[-1].steps.append((logps.detach().clone(), batch))
        return objective(logps, batch)

    trainer.collector.micro_batches, trainer.scorer.centre = keep_samples, keep_centre
    trainer.scorer.under, trainer.objective = keep_scores, keep_step
    return fits


def copy_in_fp64(state: dict[str, torch.Tensor], lora: bool = False) -> torch.nn.Module:
    """A model of its own with these weights; no code of the trainer or of TRL has touched it."""
    model = build_model(build_tokenizer())
    if lora:
        model = get_peft_model(model, lora_config())
    model.load_state_dict(state)
    return model.double().eval()


def logps_in_fp64(model, prompt: list[int], completion: list[int], temperature: float = 1.0) -> torch.Tensor:
    """`log softmax(logits / T)` of the completion's tokens, from an ordinary forward over one unpadded sequence."""
    logits = model(input_ids=torch.tensor([prompt + completion])).logits[0]
    logps = (logits / temperature).log_softmax(-1)
    return torch.stack([logps[len(prompt) - 1 + n, token] for n, token in enumerate(completion)])


def own_rows(samples: Samples, count: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) of each row that is trained on, in order."""
    return [
        (prompt, completion)
        for prompt, completions in zip(samples.prompt_ids, samples.completion_ids, strict=True)
        for completion in completions[:count]
    ]


def rows_of(batches: list[PairBatch], values: list[torch.Tensor]) -> list[torch.Tensor]:
    """The completion tokens' values of each row of a round; everything else must be exactly 0."""
    rows = []
    for batch, value in zip(batches, values, strict=True):
        inside = batch.labels[:, 1:] != -100
        assert (value[~inside] == 0).all()
        rows += [row[mask] for row, mask in zip(value, inside, strict=True)]
    return rows
