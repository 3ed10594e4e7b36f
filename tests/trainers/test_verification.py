# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A trainer measures its policy: log-probs, equal forwards, what a fresh adapter leaves out."""

import copy
import logging
import random
from types import SimpleNamespace

import pytest
import torch
import transformers.trainer
from accelerate import Accelerator
from helpers import equal, history, lora_config, make_trainer, perturb, weights
from peft import get_peft_model
from tiny import build_model, build_tokenizer
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    Llama4TextConfig,
    LlamaForCausalLM,
    MixtralConfig,
    ModernBertDecoderConfig,
    PhimoeConfig,
    RecurrentGemmaConfig,
)

from trl_nash.algorithms import INITIAL
from trl_nash.kernels.fused_head import add_fused_head
from trl_nash.trainers.checks import policy as verification
from trl_nash.trainers.checks.noise import drawing
from trl_nash.trainers.checks.policy import verify_policy
from trl_nash.trainers.run import construction


TOKENIZER = build_tokenizer()
SMALL = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": TOKENIZER.pad_token_id,
    "eos_token_id": TOKENIZER.eos_token_id,
    "bos_token_id": TOKENIZER.eos_token_id,
}
NO_GROUPS = {name: value for name, value in SMALL.items() if name != "num_key_value_heads"}
# Each of them trained on wrong numbers, or failed in its first round.
CONFIGS = {
    "recurrent-gemma": RecurrentGemmaConfig(
        **SMALL | {"num_hidden_layers": 3}, lru_width=16, attention_window_size=8, logits_soft_cap=3.0
    ),
    "modernbert-decoder": ModernBertDecoderConfig(**NO_GROUPS | {"initializer_range": 0.02}),
    "llama4": Llama4TextConfig(**SMALL, head_dim=8, intermediate_size_mlp=32, num_local_experts=2),
    "phimoe": PhimoeConfig(**SMALL, num_local_experts=4, router_jitter_noise=0.5, input_jitter_noise=0.1),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, router_jitter_noise=0.3),
}


def build(name: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name])


def said(caplog, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


def measured(model, head=None, **options):
    """What `verify_policy` says of a model on a CPU."""
    return verify_policy(model, head or add_fused_head(model), Accelerator(cpu=True), **options)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="trl_nash")
    return caplog


# ---- Log-probs ----


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("name", CONFIGS)
def test_architectures_that_were_wrong(name, lora, tmp_path, warnings):
    """
    Log-probs that are trained on are those of the model's own forward in evaluation mode, in fp64; margin and KL of
    the first round are exactly 0.
    """
    model = build(name)
    truth = copy.deepcopy(model).eval().double()
    truth.set_experts_implementation("eager")  # the only one in fp64
    adapter = lora_config(target_modules=["q_proj"]) if lora else None
    trainer = make_trainer("ipo", tmp_path, model=model, peft_config=adapter, max_steps=2, temperature=0.7)
    steps, score = [], trainer.score

    def record(model, batch):
        logps = score(model, batch)
        steps.append((trainer.round, batch, logps.detach()))
        return logps

    trainer.score = record
    trainer.train()
    assert len(history(trainer, "loss")) == 2
    assert history(trainer, "fit/margin")[0] == 0.0 and history(trainer, "policy/kl_reference")[0] == 0.0
    assert said(warnings, "cannot be fused") == said(warnings, "could not be verified") == []
    for round_, batch, logps in steps:
        if round_ == 0:
            with torch.no_grad():
                logits = truth(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits / 0.7
            targets = batch.labels[:, 1:]
            expected = logits[:, :-1].log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None])[..., 0]
            torch.testing.assert_close(logps.double(), expected * (targets != -100), atol=5e-5, rtol=0)


class Odd(LlamaForCausalLM):
    """A Llama that forbids a token behind its head, which no scale or cap of logits does."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        if output.logits.size(-1) == self.vocab_size:
            output.logits[..., 3] = -30.0
        return output


def build_odd() -> Odd:
    model = build_model(TOKENIZER)
    model.__class__ = Odd
    return model


@pytest.mark.parametrize("whose", ["policy", "reference"])
def test_a_head_that_cannot_be_fused_is_not(whose, tmp_path, warnings):
    """One warning, and log-probs from the model's own logits; the other model keeps its fused head."""
    policy = build_odd() if whose == "policy" else build_model(TOKENIZER)
    reference = build_odd() if whose == "reference" else build_model(TOKENIZER, seed=3)
    trainer = make_trainer("ipo", tmp_path, model=policy, extra={"ref_model": reference}, max_steps=1)
    (message,) = said(warnings, "cannot be fused")
    assert {"policy": "Log-probs of the policy", "reference": "Log-probs of `ref_model`"}[whose] in message
    ids = torch.tensor([[5, 6, 7, 3, 9, 10]])
    for model in (policy, reference):
        with torch.no_grad():
            logps = model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs
            expected = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        torch.testing.assert_close(logps, expected, atol=2e-5, rtol=0)
    trainer.train()
    assert history(trainer, "fit/margin") == [0.0]
    assert len(said(warnings, "cannot be fused")) == 1


@pytest.mark.parametrize("pre_wrapped", [False, True])
def test_dora_on_the_head(pre_wrapped, tmp_path, warnings):
    """An adapter of which only logits can be had is trained on logits, and its log-probs are those of the model."""
    config = lora_config(target_modules=["q_proj", "lm_head"], use_dora=True)
    given = {"peft_config": config}
    if pre_wrapped:
        given = {"model": get_peft_model(build_model(TOKENIZER), config)}
    trainer = make_trainer("ipo", tmp_path, max_steps=2, **given)
    (message,) = said(warnings, "cannot be fused")
    assert "DoRA" in message
    before = weights(trainer.model)
    trainer.train()
    assert history(trainer, "fit/margin")[0] == 0.0 == history(trainer, "policy/kl_reference")[0]
    moved = [name for name, weight in weights(trainer.model).items() if not torch.equal(weight, before[name])]
    assert any("lm_head.lora_A" in name for name in moved) and any("lm_head.lora_magnitude" in name for name in moved)


def test_liger_leaves_the_head_to_us(tmp_path, monkeypatch):
    """
    `use_liger_kernel` would put another forward in the place of ours when training begins, unless it is told not to
    (simulated, as Liger needs a GPU: this is what its function does to a model).
    """

    def apply_liger_kernel(model, config):
        if config.get("fused_linear_cross_entropy", True):
            model.forward = type(model).forward.__get__(model)
        applied.append(config)

    losses, applied = [], []
    monkeypatch.setattr(transformers.trainer, "apply_liger_kernel", apply_liger_kernel)
    for options in (
        {},
        {"use_liger_kernel": True},
        {"use_liger_kernel": True, "liger_kernel_config": {"rope": False}},
    ):
        trainer = make_trainer("ipo", tmp_path, max_steps=2, **options)
        trainer.train()
        losses.append(history(trainer, "loss"))
    assert losses[0] == losses[1] == losses[2]
    assert applied == [{"fused_linear_cross_entropy": False}, {"rope": False, "fused_linear_cross_entropy": False}]


def test_a_copy_of_the_policy_is_its_own(tmp_path):
    """`copy.deepcopy(trainer.model)` has its own log-probs, also when the original is trained on."""
    trainer = make_trainer("ipo", tmp_path, max_steps=1)
    ids = torch.tensor([[5, 6, 7, 3, 9, 10]])
    other, before = (
        copy.deepcopy(trainer.model),
        trainer.model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs,
    )
    trainer.train()
    assert torch.equal(other(input_ids=ids, labels=ids, fused_lm_head=True).log_probs, before)
    assert not torch.equal(trainer.model(input_ids=ids, labels=ids, fused_lm_head=True).log_probs, before)


@pytest.mark.parametrize(
    "kind", ["full", "tied", "LoRA", "LoRA on the head", "whole head", "bf16", "fp16", "bf16, LoRA", "4 bits, LoRA"]
)
def test_ordinary_models_pass_in_silence(kind, tmp_path, warnings):
    """Whatever their dtype or adapter: nothing is said, and the head is fused."""
    model = build_model(TOKENIZER, hidden_size=64, intermediate_size=64, tie_word_embeddings=kind == "tied")
    model.to({"bf16": torch.bfloat16, "fp16": torch.float16}.get(kind.split(",")[0], torch.float32))
    if kind.startswith("4 bits"):
        model.save_pretrained(tmp_path / "model")
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype="float32")
        model = LlamaForCausalLM.from_pretrained(tmp_path / "model", quantization_config=nf4)
    options = {"target_modules": ["q_proj", "lm_head"]} if "head" in kind else {}
    options |= {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]} if kind == "whole head" else {}
    adapter = lora_config(**options) if "LoRA" in kind or kind == "whole head" else None
    trainer = make_trainer(
        "ipo", tmp_path, model=model, peft_config=adapter, bf16="bf16" in kind, gradient_checkpointing=kind == "LoRA"
    )
    assert warnings.records == []
    assert trainer.policies.initial_is_a_copy == (adapter is None)


# ---- Equal forwards ----


@pytest.mark.parametrize(
    "name, who", [("mixtral", "MixtralSparseMoeBlock"), ("phimoe", "PhimoeSparseMoeBlock, PhimoeTopKRouter")]
)
def test_random_modules_stay_in_evaluation_mode(name, who, warnings):
    """Those that draw, and no others, whatever mode the model is put in; a copy of the model does the same."""
    model = build(name).train()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    assert not torch.equal(model(ids).logits, model(ids).logits)
    expected = copy.deepcopy(model).eval()(ids).logits
    measured(model)
    (message,) = said(warnings, "draws random numbers")
    assert message.endswith(f": {who}.")
    for policy in (model, copy.deepcopy(model)):
        policy.eval().train()
        kept = [module for module in policy.modules() if not module.training]
        assert {type(module).__name__ for module in kept} == set(who.split(", "))
        assert torch.equal(policy(ids).logits, expected)
        assert drawing(lambda policy=policy: policy(ids), torch.device("cpu")) == []


class Noisy(LlamaForCausalLM):
    """A Llama that is random by itself, and not in a part of it."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = self.change(output.logits)
        return output


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda z, on: z + 0.01 * on * torch.rand_like(z),
            "Two forwards in training mode differ, because Noisy draws",
        ),
        (lambda z, on: z * (1 + 0.01 * on * random.random()), "Two forwards in training mode differ, because Noisy"),
    ],
    ids=["torch", "python"],
)
def test_a_policy_that_differs_from_itself_is_refused(change, message, tmp_path):
    """Randomness of the whole model, or of a generator that is not torch's."""
    model = build_model(TOKENIZER)
    model.__class__ = Noisy
    model.change = lambda logits: change(logits, model.training)
    with pytest.raises(ValueError, match=message + ".*noise, jitter and dropout at 0"):
        make_trainer("ipo", tmp_path, model=model)


def test_a_policy_with_a_training_mode_of_its_own_is_said(tmp_path, warnings):
    """As 8-bit weights have one: rounds are sampled and fitted in it, so that the first KL is 0; evaluation is not."""
    model = build_model(TOKENIZER)
    model.__class__ = Noisy
    model.change = lambda logits: logits * (1 + 0.01 * model.training)
    trainer = make_trainer("ipo", tmp_path, model=model, max_steps=1)
    assert any("In training mode Noisy computes other log-probs than" in r.getMessage() for r in warnings.records)
    trainer.train()
    assert history(trainer, "policy/kl_reference") == [0.0]


class Draws(nn.Module):
    """Draws a number, as LayerDrop does, and drops nothing."""

    def forward(self, hidden):
        return hidden + 0.0 * torch.rand([])


def test_numbers_that_change_nothing_are_no_matter(tmp_path, warnings):
    """A module that draws numbers in either mode to no effect is left alone, and nothing is said."""
    model = build_model(TOKENIZER)
    model.model.norm = nn.Sequential(model.model.norm, Draws())
    trainer = make_trainer("ipo", tmp_path, model=model, max_steps=1)
    assert warnings.records == []
    trainer.train()
    assert history(trainer, "policy/kl_reference") == [0.0]


# ---- Fresh adapters ----


@pytest.mark.parametrize(
    "options, fresh",
    [
        ({}, True),
        ({"init_lora_weights": "gaussian"}, True),
        ({"use_dora": True}, True),
        ({"use_rslora": True}, True),
        ({"modules_to_save": ["norm"]}, True),
        ({"init_lora_weights": False}, False),
        ({"init_lora_weights": "pissa"}, False),
        ({"init_lora_weights": "olora"}, False),
        ({"init_lora_weights": "orthogonal"}, True),
        ({"bias": "all"}, False),
        ({"bias": "lora_only"}, False),
    ],
    ids=str,
)
def test_who_is_the_initial_policy(options, fresh, tmp_path):
    """It is the model without its adapter where this is the policy and nothing that is trained stays; else a copy."""
    model = build_model(TOKENIZER, attention_bias=True)
    trainer = make_trainer("ipo", tmp_path, model=model, peft_config=lora_config(**options))
    assert trainer.policies.initial_is_a_copy != fresh
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        start = trainer.model(ids).logits
        trainer.policies.ensure_initial()
        perturb(trainer.model)
        with trainer.policies.active(INITIAL) as initial:
            torch.testing.assert_close(initial(ids).logits, start, atol=1e-5, rtol=0)


def test_an_adapter_that_was_there_is_not_fresh():
    model = get_peft_model(build_model(TOKENIZER), lora_config())
    head = add_fused_head(model.get_base_model())
    assert measured(model, head, adapted=True) and not measured(model, head)
    perturb(model)
    assert not measured(model, head, adapted=True)


# ---- What it costs, and leaves behind ----


def state(model) -> tuple:
    """All that a look at a model could change."""
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    parameters = [(name, p.requires_grad, p.grad is None, p._version) for name, p in model.named_parameters()]
    modes = [(name, module.training) for name, module in model.named_modules()]
    return hooks, parameters, modes, torch.get_rng_state().tolist(), random.getstate(), list(nn.Module().__dict__)


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", ["full", "lora", "frozen adapter weights"])
def test_a_model_is_left_as_it_is(kind, mode):
    """Modes, flags, gradients, hooks, weights and random numbers; four forwards, or nine with an adapter."""
    model = build_model(TOKENIZER)
    head = add_fused_head(model)
    policy = model if kind == "full" else get_peft_model(model, lora_config())
    policy.train(mode)
    policy.get_submodule("model.model.layers.0" if kind != "full" else "model.layers.0").train(not mode)
    if kind == "frozen adapter weights":
        next(p for p in policy.parameters() if p.requires_grad).requires_grad_(False)
    before, start, calls = state(policy), weights(policy), []
    handle = model.model.register_forward_hook(lambda *_: calls.append(1))
    measured(policy, head, adapted=kind != "full")
    handle.remove()
    assert state(policy) == before and equal(weights(policy), start)
    assert len(calls) == (4 if kind == "full" else 9)


def believe(model, head, accelerator, *, adapted, gather):
    """What is found of the tiny model, unseen."""
    head.shares_prompts = adapted
    return adapted


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_training_is_bitwise_what_it_was(lora, tmp_path, monkeypatch):
    """With the measurements and without them a run draws, logs and ends the same."""
    runs = []
    for measure in (True, False):
        if not measure:
            monkeypatch.setattr(construction, "verify_policy", believe)
        trainer = make_trainer("comal", tmp_path, lora=lora, max_steps=3)
        trainer.train()
        runs.append((history(trainer, "loss"), history(trainer, "grad_norm"), weights(trainer.model)))
    assert runs[0][:2] == runs[1][:2] and equal(runs[0][2], runs[1][2])


def test_what_cannot_be_measured_is_said(tmp_path, warnings, monkeypatch):
    """A model that cannot be run yet is trained as before, with a copy for its initial policy, and a warning."""
    monkeypatch.setattr(verification.Sample, "own", lambda self: 1 / 0)
    trainer = make_trainer("ipo", tmp_path, lora=True, max_steps=1)
    assert said(warnings, "the policy could not be verified: ZeroDivisionError: division by zero.")
    assert trainer.policies.initial_is_a_copy
    trainer.train()
    assert history(trainer, "fit/margin") == [0.0]


def test_sharded_weights_are_gathered_only_if_they_fit(warnings):
    """With `ds3_gather_for_generation=False` what ZeRO-3 has taken apart is not put together to be verified."""
    model = build_model(TOKENIZER)
    model.lm_head.weight.ds_id = 0
    assert not measured(model, adapted=True, gather=False)
    assert said(warnings, "could not be verified: its weights are sharded and `ds3_gather_for_generation` is off.")


def test_all_processes_adopt_what_the_first_found(monkeypatch):
    """So they do the same also where the others have no weights yet, as with FSDP2."""
    found = verification.Findings(in_evaluation=["model.norm"], plain="it is strange", fresh=True)
    monkeypatch.setattr(verification, "broadcast_object_list", lambda objects: [found])
    model = build_model(TOKENIZER)
    model.model.embed_tokens.weight = nn.Parameter(torch.empty(0))  # cannot be run
    head = add_fused_head(model)
    assert measured(model, head, adapted=True)
    assert head.plain and not model.train().model.norm.training


def test_attention_elsewhere_needs_no_kernel():
    """A model that waits for its device is run with plain attention, and has its own again afterwards."""
    model, seen = build_model(TOKENIZER), []
    sample = verification.Sample(model, add_fused_head(model), Accelerator(cpu=True))
    sample.home = SimpleNamespace(type="cuda")
    before = model.config._attn_implementation
    verification._attempt(sample, lambda: seen.append(model.config._attn_implementation))
    assert seen == ["eager"] and model.config._attn_implementation == before != "eager"


def test_tolerance_is_that_of_the_dtype():
    """Rounding of products, scale and cap in the head's dtype, for logits of this size."""
    model = build_model(TOKENIZER)
    sample = verification.Sample(model, add_fused_head(model), Accelerator(cpu=True))
    sample.largest = 9.0
    assert 5e-5 < sample.tolerance < 1e-4
    model.to(torch.bfloat16)
    assert 0.3 < sample.tolerance < 0.4
