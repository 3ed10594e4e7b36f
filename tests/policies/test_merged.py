# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The weights of a PEFT model for an engine that knows no adapters: those of PEFT's own merge, and nothing moves."""

import copy

import peft
import pytest
import torch
from helpers import equal, lora_config, perturb, weights
from tiny import build_model, build_tokenizer

from trl_nash.policies import fingerprint, has_adapters_off, merged_weights
from trl_nash.policies.memory import hash_of


LAYERS = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
ADAPTERS = {
    "lora": lora_config(),
    "rslora on all layers": lora_config(use_rslora=True, target_modules="all-linear"),
    "dora": lora_config(use_dora=True),
    "bias": lora_config(bias="lora_only"),
    "embeddings": lora_config(target_modules=["q_proj", "embed_tokens"]),
    "head": lora_config(target_modules=["q_proj", "lm_head"]),
    "saved": lora_config(modules_to_save=["lm_head", "embed_tokens", "norm"]),
    "tokens": lora_config(trainable_token_indices={"embed_tokens": [3, 5]}),
    "parameters": lora_config(target_modules=[], target_parameters=["q_proj.weight", "mlp.down_proj.weight"]),
    "ia3": peft.IA3Config(feedforward_modules=["down_proj"], **LAYERS),
    "oft": peft.OFTConfig(r=4, oft_block_size=0, **LAYERS),
    "lokr": peft.LoKrConfig(r=4, alpha=8, **LAYERS),
    "loha": peft.LoHaConfig(r=4, alpha=8, **LAYERS),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "norms": peft.LNTuningConfig(task_type="CAUSAL_LM", target_modules=["input_layernorm"]),
}


def adapted(name: str, dtype: torch.dtype, **config) -> peft.PeftModel:
    model = build_model(build_tokenizer(), attention_bias=name == "bias", **config).to(dtype)
    model = peft.get_peft_model(model, copy.deepcopy(ADAPTERS[name]))
    perturb(model, scale=0.05)
    return model


def collected(model) -> dict[str, torch.Tensor]:
    """As an engine may take them: all at once, with no copy in between."""
    return dict(merged_weights(model))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_they_are_pefts_and_the_model_stays_what_it_was(name, dtype):
    """Bitwise both, after 50 times, with the names and the order of the base model."""
    model = adapted(name, dtype)
    before, objects = weights(model), {name: id(parameter) for name, parameter in model.named_parameters()}
    for _ in range(50):
        found = collected(model)
    assert equal(weights(model), before)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == objects
    assert not any(getattr(module, "merged", False) for module in model.modules())
    expected = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    assert list(found) == list(expected) and equal(found, {n: p.detach() for n, p in expected.items()})
    assert any(not torch.equal(found[n], p) for n, p in build_model(build_tokenizer()).to(dtype).named_parameters())


@pytest.mark.parametrize("name", ADAPTERS)
def test_with_adapters_off_they_are_the_base_models(name):
    model = adapted(name, torch.float32)
    base = {n: p.detach() for n, p in build_model(build_tokenizer(), attention_bias=name == "bias").named_parameters()}
    assert not has_adapters_off(model)
    with model.disable_adapter():
        assert has_adapters_off(model)
        found = collected(model)
    if name == "bias":  # which PEFT trains in place
        found, base = ({n: p for n, p in these.items() if not n.endswith("bias")} for these in (found, base))
    assert found.keys() == base.keys() and equal(found, base)


def test_the_adapter_that_is_active_is_merged():
    """Whatever it is called, and what it saves with it."""
    model = adapted("saved", torch.float32)
    model.add_adapter("second", copy.deepcopy(ADAPTERS["saved"]))
    model.set_adapter("second")
    perturb(model, scale=0.2, seed=3)
    found = collected(model)
    expected = copy.deepcopy(model).merge_and_unload(adapter_names=["second"])
    assert equal(found, {n: p.detach() for n, p in expected.named_parameters()})


def test_tied_embeddings_come_once():
    model = adapted("lora", torch.float32, tie_word_embeddings=True)
    assert "lm_head.weight" not in collected(model) and "model.embed_tokens.weight" in collected(model)


def test_an_engine_that_stops_in_the_middle_leaves_the_model_as_it_was():
    model = adapted("dora", torch.bfloat16)
    before = weights(model)
    for name, _ in merged_weights(model):
        if "q_proj" in name:
            break
    assert equal(weights(model), before) and not any(getattr(m, "merged", False) for m in model.modules())


def test_pefts_own_merging_and_unmerging_moves_the_base():
    """Why it is not done in place: in bf16 the base is another one after a single time."""
    model = adapted("lora", torch.bfloat16)
    before = weights(model)
    model.merge_adapter()
    model.unmerge_adapter()
    assert not equal(weights(model), before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int8])
def test_fingerprints_see_every_bit_and_its_place(dtype):
    weight = (100 * torch.randn(3, 64, generator=torch.Generator().manual_seed(0))).to(dtype)
    seen, bits = {hash_of(weight).item()}, weight.view(torch.uint8)
    for place in range(0, bits.numel(), 7):
        for bit in range(8):
            bits.view(-1)[place] ^= 1 << bit
            seen.add(hash_of(weight).item())
            bits.view(-1)[place] ^= 1 << bit
    assert len(seen) == 1 + 8 * len(range(0, bits.numel(), 7))
    seen.add(hash_of(weight[[1, 0, 2]]).item())
    assert hash_of(weight.clone()).item() in seen and len(seen) == 2 + 8 * len(range(0, bits.numel(), 7))


def test_fingerprints_are_of_what_is_trained():
    model = adapted("lora", torch.float32)
    before = fingerprint(model)
    assert len(before) == sum(p.requires_grad for p in model.parameters()) and before == fingerprint(model)
    model.get_base_model().model.norm.weight.data.mul_(2)
    assert fingerprint(model) == before
    perturb(model)
    assert all(a != b for a, b in zip(fingerprint(model), before, strict=True))
