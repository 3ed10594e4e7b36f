# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A prompt is read once for all its completions, and they are drawn from what the model says without any cache."""

import pytest
import torch
from architectures import ATTENTION, EOS, HYBRID, RECURRENT, build
from helpers import lora_config, make_trainer, perturb
from peft import PromptTuningConfig, get_peft_model
from tiny import build_model, build_tokenizer
from transformers import GenerationConfig
from transformers.cache_utils import DynamicLayer

from trl_nash.generation import plain, prefix
from trl_nash.generation.plain import generate_plainly, left_padded
from trl_nash.generation.prefix import RoomyLayer, shared_prefix
from trl_nash.policies import forward_cached


COUNT, NEW_TOKENS = 3, 8
PROMPTS = [[5, 6], [6, 7, 8], [9, 10, 11, 12, 13, 14, 15, 16, 17], [20, 21, 22, 23, 24]]


class Drawn:
    """Samples, and keeps what was drawn from and how many caches were shared."""

    def __init__(self, model, monkeypatch, share=True, prompts=PROMPTS, **options):
        self.steps, self.shared = [], []
        multinomial = torch.multinomial
        with monkeypatch.context() as patch:
            patch.setattr(torch, "multinomial", lambda p, **k: self.steps.append(p) or multinomial(p, **k))
            patch.setattr(plain, "shared_prefix", self._share if share else lambda *arguments: None)
            torch.manual_seed(3)
            self.completions = generate_plainly(model, config(**options), torch.device("cpu"), prompts, COUNT)

    def _share(self, *arguments):
        self.shared.append(shared_prefix(*arguments))
        return self.shared[-1]

    def error(self, truth, prompts=PROMPTS) -> float:
        """The largest difference of log-probs from those of the model's full forward, for each completion alone."""
        differences = []
        for b, prompt in enumerate(prompts):
            for k, completion in enumerate(self.completions[b]):
                ended = completion.index(EOS) + 1 if EOS in completion else len(completion)
                with torch.no_grad():
                    logits = truth(input_ids=torch.tensor([prompt + completion[:ended]])).logits[
                        0, len(prompt) - 1 : -1
                    ]
                expected = logits.float().log_softmax(-1)
                found = torch.stack([step[b * COUNT + k] for step in self.steps[:ended]]).log()
                likely = expected > -12  # a probability in fp32 has no more digits than that
                differences.append((found - expected)[likely].abs().max())
        return float(max(differences))


def config(**options) -> GenerationConfig:
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 0, "use_cache": True} | options
    return GenerationConfig(pad_token_id=0, eos_token_id=[EOS], **options)


@pytest.mark.parametrize("name", ATTENTION | HYBRID)
def test_log_probs_are_those_of_the_full_forward(name, monkeypatch):
    """Prompts of 2, 3, 5 and 9 tokens, in fp32 to 1e-5; and the tokens are those of 3 separate prefills each."""
    model = build(name, **(ATTENTION | HYBRID)[name])
    drawn = Drawn(model, monkeypatch)
    assert name in HYBRID or drawn.shared[0] is not None  # before transformers 5 hybrids have caches of their own
    assert drawn.error(model) < 1e-5
    assert drawn.completions == Drawn(model, monkeypatch, share=False).completions


@pytest.mark.parametrize("name", RECURRENT)
def test_what_cannot_be_repeated_is_computed_for_each(name, monkeypatch):
    """Where a cache does not say how long it is: the same tokens from the same calls as without sharing."""
    model = build(name, **RECURRENT[name])
    drawn, separate = Drawn(model, monkeypatch), Drawn(model, monkeypatch, share=False)
    assert drawn.shared == [None]
    assert drawn.completions == separate.completions
    assert all(map(torch.equal, drawn.steps, separate.steps))


def test_adapters(monkeypatch):
    model = get_peft_model(build("Llama"), lora_config())
    before = Drawn(model, monkeypatch)
    perturb(model, seed=5)
    drawn = Drawn(model, monkeypatch)
    assert drawn.shared[0] is not None and drawn.error(model) < 1e-5
    assert drawn.completions != before.completions
    assert drawn.completions == Drawn(model, monkeypatch, share=False).completions


def test_virtual_tokens_are_computed_for_each(monkeypatch):
    """PEFT puts them in front of the prompt by itself, so that the cache is longer than the prompt."""
    model = get_peft_model(build("Llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    drawn = Drawn(model, monkeypatch)
    assert drawn.shared == [None]
    assert drawn.completions == Drawn(model, monkeypatch, share=False).completions


def test_bf16(monkeypatch):
    """As near to the fp32 model of the same weights as separate prefills are: rounding, and nothing else."""
    model = build("Llama").bfloat16()
    truth = build("Llama")
    truth.load_state_dict({name: weight.float() for name, weight in model.state_dict().items()})
    drawn, separate = Drawn(model, monkeypatch), Drawn(model, monkeypatch, share=False)
    assert drawn.shared[0] is not None and {step.dtype for step in drawn.steps} == {torch.float32}
    assert drawn.error(truth) < 1.5 * separate.error(truth) < 1


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_mixed_precision(lora, tmp_path, monkeypatch):
    """A run with autocast, in which PEFT's `generate` has none, draws what it draws without sharing."""
    shared, drawn = [], []

    def note(*arguments):
        shared.append(shared_prefix(*arguments))
        return shared[-1]

    for name, share in ("shared", note), ("separate", lambda *arguments: None):
        with monkeypatch.context() as patch:
            patch.setattr(plain, "shared_prefix", share)
            trainer = make_trainer("comal", tmp_path / name, lora=lora, bf16=True, max_steps=1)
            trainer.train()  # which prepares the model
            torch.manual_seed(3)
            drawn.append(trainer.generate(["a b", "b c d"], COUNT))
    assert len(shared) == 2 and shared[-1] is not None  # the first is of a round with prompts of one token
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    "options", [{"cache_implementation": "static"}, {"use_cache": False}, {"prefill_chunk_size": 4}], ids=str
)
def test_another_cache_that_is_asked_for_is_used(options, monkeypatch):
    model = build("Llama")
    drawn = Drawn(model, monkeypatch, **options)
    assert drawn.shared == []
    assert drawn.error(model) < 1e-5


@pytest.mark.parametrize("prompts", [[[5], [6]], [[5]]], ids=str)
@pytest.mark.parametrize("name", ATTENTION | HYBRID)
def test_prompts_of_one_token(name, prompts, monkeypatch):
    """There is nothing to share then, and padding, which recurrent layers may take for a token, is not read."""
    model = build(name, **(ATTENTION | HYBRID)[name])
    drawn = Drawn(model, monkeypatch, prompts=prompts)
    assert drawn.shared == [None] and drawn.error(model, prompts) < 1e-5


def test_rows_of_the_cache_are_those_of_their_prompts():
    """Row b * K + k of the cache is row b of a cache that is not repeated, in every layer, bitwise."""
    model = build_model(build_tokenizer()).eval()
    ids, mask = left_padded([[5, 6, 7], [8, 9], [5, 6, 7, 8]], padding=0)
    with torch.no_grad():
        _, single = forward_cached(model, ids[:, :-1], mask[:, :-1], None)
        shared = shared_prefix(model, ids, mask, 4)
    for one, many in zip(single.layers, shared.layers, strict=True):
        for b in range(3):
            for k in range(4):
                assert torch.equal(many.keys[4 * b + k], one.keys[b])
                assert torch.equal(many.values[4 * b + k], one.values[b])


@pytest.mark.parametrize("room", [1, 3, 64])
def test_a_layer_with_room_holds_what_one_without_holds(room, monkeypatch):
    """Token by token, several at once, behind rows that were dealt out again, and behind tokens that were dropped."""
    monkeypatch.setattr(prefix, "ROOM", room)
    torch.manual_seed(0)
    plain_layer = DynamicLayer()
    plain_layer.update(*torch.randn(2, 3, 2, 5, 4))
    roomy = RoomyLayer(plain_layer)
    for rows, tokens in [(3, 1), (3, 2), (6, 1), (6, 1), (6, 7), (6, 1)]:
        if rows != roomy.keys.size(0):
            for layer in (plain_layer, roomy):
                layer.reorder_cache(torch.tensor([0, 2, 1, 1, 0, 2]))
        if tokens == 7:
            for layer in (plain_layer, roomy):
                layer.keys, layer.values = layer.keys[..., :-1, :], layer.values[..., :-1, :]
        fresh = torch.randn(2, rows, 2, tokens, 4)
        for found, expected in zip(roomy.update(*fresh), plain_layer.update(*fresh), strict=True):
            assert torch.equal(found, expected)
        assert roomy.get_seq_length() == plain_layer.get_seq_length()
