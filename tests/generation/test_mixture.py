# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The geometric mixture where a token has no probability on one side."""

import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from helpers import make_trainer, perturb
from tiny import build_model, build_tokenizer
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from trl_nash.generation.mixture import GeometricMixture


class Fixed(torch.nn.Module):
    """A reference whose next-token logits are always the same."""

    def __init__(self, logits: list[float]):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, input_ids, attention_mask, use_cache, past_key_values=None):
        class Output(dict):
            logits = self.logits.expand(*input_ids.shape, -1)

        return Output(past_key_values=SimpleNamespace())


def mixed(policy: list[float], reference: list[float], coef: float) -> list[float]:
    ids = torch.zeros(1, 1, dtype=torch.long)
    mixture = GeometricMixture(lambda: nullcontext(Fixed(reference)), coef, torch.ones_like(ids))
    return mixture(ids, torch.tensor([policy]))[0].tolist()


@pytest.mark.parametrize("coef", [0.0, 0.25, 1.0])
def test_no_number_is_nan(coef):
    """
    Of logits (1, -inf, 3, -inf) and (2, 4, -inf, -inf): what is forbidden to the policy stays forbidden, what the
    reference never says does not count where its weight is 0.
    """
    inf = math.inf
    expected = {0.0: [1, -inf, 3, -inf], 0.25: [1.25, -inf, -inf, -inf], 1.0: [2, -inf, -inf, -inf]}
    assert mixed([1, -inf, 3, -inf], [2, 4, -inf, -inf], coef) == expected[coef]


@pytest.mark.parametrize("coef", [0.5, 1.0])
def test_min_new_tokens_holds_for_the_opponent(coef, tmp_path, monkeypatch):
    """
    With `min_new_tokens=3` the opponent's first three tokens are drawn from the mixture without <eos>, the next ones
    from all of it, at c = 1 as elsewhere. The truth is a forward of each model alone.
    """
    drawn, multinomial = [], torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda p, *a, **k: drawn.append(p.clone()) or multinomial(p, *a, **k))
    tokenizer = build_tokenizer(chat=False)
    eos = tokenizer.eos_token_id
    trainer = make_trainer(
        "nash-md", tmp_path, tokenizer=tokenizer, mixture_coef=coef, generation_kwargs={"min_new_tokens": 3}
    )
    trainer.policies.ensure_initial()
    perturb(trainer.model, seed=1)
    reference = build_model(tokenizer).eval()
    prompt_ids, completions = trainer.generate(["a b"] * 8, 1, trainer.opponent)
    assert all(len(row) >= 3 for (row,) in completions)
    for row, (completion,) in enumerate(completions):
        for step in range(len(completion)):
            ids = torch.tensor([prompt_ids[row] + completion[:step]])
            with torch.no_grad():
                policy, other = (model(input_ids=ids).logits[0, -1] for model in (trainer.model, reference))
            logits = (1 - coef) * policy + coef * other
            if step < 3:
                logits[eos] = -torch.inf
            torch.testing.assert_close(drawn[step][row], logits.softmax(-1), atol=2e-5, rtol=0)


def test_a_reference_without_a_cache_reads_all_tokens():
    """Some models, as the first GPT, hand no cache out: the logits are those of the whole text at every token."""
    torch.manual_seed(0)
    reference = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=20, n_embd=16, n_layer=2, n_head=2)).eval()
    ids = torch.randint(3, 20, (1, 6)).repeat_interleave(2, dim=0)
    mixture = GeometricMixture(lambda: nullcontext(reference), 1.0, torch.ones_like(ids), count=2)
    with torch.no_grad():
        for length in (7, 8):
            found = mixture(ids, torch.zeros(2, 20))
            assert torch.allclose(found, reference(ids).logits[:, -1], atol=1e-5)
            ids = torch.cat([ids, torch.tensor([[length], [length + 1]])], dim=-1)
