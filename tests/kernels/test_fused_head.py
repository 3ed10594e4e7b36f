# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The kernel as the head of models: whatever a model does to its logits, log-probs and gradients are those of them."""

import copy
import functools
import inspect
import types
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import build_model, build_tokenizer
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GraniteConfig,
    HyperCLOVAXConfig,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MiniCPM3Config,
    ModernBertDecoderConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
    RecurrentGemmaConfig,
)

from trl_nash.kernels import schedule
from trl_nash.kernels.fused_head import add_fused_head, head_parts


IDS = torch.tensor([[5, 6, 7, 8, 9], [6, 5, 8, 8, 0]])
LABELS = torch.tensor([[-100, -100, 7, 8, 9], [-100, -100, -100, 8, -100]])
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,
}
GPT = {"vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen2, tied": Qwen2Config(**SMALL, tie_word_embeddings=True),
    "gemma2, softcap": Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=3.0),
    "cohere, scale": CohereConfig(**SMALL, logit_scale=0.4),
    "granite, scaling": GraniteConfig(**SMALL, logits_scaling=2.5),
    "falcon-h1, multiplier": FalconH1Config(
        **SMALL, lm_head_multiplier=0.6, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8
    ),
    "phi, bias": PhiConfig(**SMALL),
    "gpt-j, bias": GPTJConfig(**GPT, rotary_dim=4, initializer_range=0.3),
    "gpt2": GPT2Config(**GPT, initializer_range=0.3),
    "hyperclovax, scaling that multiplies": HyperCLOVAXConfig(**SMALL, logits_scaling=2.5),
    "minicpm3, scaled before the head": MiniCPM3Config(
        **SMALL, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=4, qk_nope_head_dim=4, v_head_dim=8, dim_model_base=4
    ),
    "recurrent gemma, softcap of another name": RecurrentGemmaConfig(
        **SMALL | {"num_hidden_layers": 3}, lru_width=16, attention_window_size=8, logits_soft_cap=3.0
    ),
    "modernbert decoder, a layer between trunk and head": ModernBertDecoderConfig(
        **{name: value for name, value in SMALL.items() if name != "num_key_value_heads"}
        | {"initializer_range": 0.02, "decoder_bias": True}
    ),
    "llama 4, whose base model is not its trunk": Llama4TextConfig(
        **SMALL, head_dim=8, intermediate_size_mlp=32, num_local_experts=2
    ),
    "mamba, which asks for the head's dtype": MambaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, state_size=4, initializer_range=0.3
    ),
    "opt": OPTConfig(**SMALL, ffn_dim=32, init_std=0.3, word_embed_proj_dim=16, dropout=0.0),
}


def expected_logps(model, temperature, ids=IDS, labels=LABELS):
    """log softmax(logits / T) of the next token where it has a label, 0 elsewhere."""
    logps = (model(input_ids=ids).logits[:, :-1].double() / temperature).log_softmax(-1)
    labels = labels[:, 1:]
    return logps.gather(-1, labels.clamp(min=0)[..., None])[..., 0].masked_fill(labels == -100, 0.0)


def fused_logps(model):
    return model(
        input_ids=IDS, attention_mask=torch.ones_like(IDS), labels=LABELS, fused_lm_head=True
    ).log_probs.double()


def assert_same(model, base, temperature=0.7):
    """Values and gradients through the fused head are those through the model's own logits."""
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = torch.arange(1.0, 9.0).view(2, 4)
    expected = expected_logps(model, temperature)
    add_fused_head(base, temperature=temperature)
    found = fused_logps(model)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    for g, e in zip(
        torch.autograd.grad((weights * found).sum(), trained, allow_unused=True),
        torch.autograd.grad((weights * expected).sum(), trained, allow_unused=True),
        strict=True,
    ):
        assert (g is None) == (e is None)
        if g is not None:
            assert (g - e).norm() <= 1e-4 * e.norm() + 1e-5


@pytest.fixture
def model():
    return build_model(build_tokenizer())


@pytest.mark.parametrize("name", CONFIGS)
def test_architectures(name):
    """Ties, biases, softcaps and scales of logits by any name or none, layers before the head."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    head = model.get_output_embeddings()
    if "bias" in name:
        with torch.no_grad():
            head.bias.normal_()
    assert ("bias" in name) <= (head.bias is not None)
    assert_same(model, model)


class Replaced(LlamaForCausalLM):
    """A Llama whose logits are made by `head`, a function of it and of hidden states."""

    def forward(self, input_ids=None, attention_mask=None, use_cache=None, logits_to_keep=0):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache).last_hidden_state
        self.seen = hidden[:, -logits_to_keep:].size(1)
        return SimpleNamespace(logits=self.make_logits(hidden[:, -logits_to_keep:]))


@pytest.mark.parametrize(
    "make_logits, message",
    [
        (lambda model, hidden: torch.exp(model.lm_head(hidden) / 9), "does more to its logits than to scale"),
        (lambda model, hidden: model.lm_head(hidden) + 1.0, "does more to its logits than to scale"),
        (lambda model, hidden: model.lm_head(hidden) + model.lm_head(-hidden) * 3, "calls its output layer 2 times"),
        (lambda model, hidden: hidden @ model.lm_head.weight.T, "calls its output layer 0 times"),
    ],
)
def test_a_head_that_cannot_be_fused(make_logits, message):
    """
    It is said what is strange; with `plain` log-probs and gradients are those of the model's own logits, and those of
    the prompt are never made.
    """
    torch.manual_seed(0)
    model = Replaced(LlamaConfig(**SMALL))
    model.make_logits = functools.partial(make_logits, model)
    weights = torch.arange(1.0, 9.0).view(2, 4)
    expected = expected_logps(model, 0.7)
    head = add_fused_head(model, temperature=0.7)
    with pytest.raises(ValueError, match=message):
        fused_logps(model)
    assert "lm_head" in dict(model.named_modules())  # the stand-in has gone
    head.plain = True
    found = fused_logps(model)
    assert model.seen == IDS.size(1) - 1  # the first label is that of the third token
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    for g, e in zip(
        torch.autograd.grad((weights * found).sum(), list(model.parameters())),
        torch.autograd.grad((weights * expected).sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(g, e, atol=1e-5, rtol=1e-4)


def test_plain_log_probs_where_nothing_is_scored(model):
    """A batch without completions has log-probs of 0, which can be differentiated."""
    head = add_fused_head(model)
    head.plain = True
    logps = model(input_ids=IDS, labels=torch.full_like(IDS, -100), fused_lm_head=True).log_probs
    assert logps.shape == (2, 4) and not logps.any()
    logps.sum().backward()


@pytest.mark.parametrize("wrapped", ["", "by accelerate's autocast", "by accelerate's hooks"])
@pytest.mark.parametrize("plain", [False, True])
def test_a_copy_computes_with_its_own_weights(model, plain, wrapped):
    """`copy.deepcopy` of a model with a fused head: each of the two has its own log-probs, before and after."""
    if wrapped == "by accelerate's hooks":
        from accelerate.hooks import ModelHook, add_hook_to_module

        add_hook_to_module(model, ModelHook())
    add_fused_head(model).plain = plain
    if wrapped == "by accelerate's autocast":
        autocast = torch.autocast("cpu", torch.bfloat16)
        model.forward = types.MethodType(autocast(model.forward.__func__), model)
    before = fused_logps(model)
    other = copy.deepcopy(model)
    shake(other)
    assert torch.equal(fused_logps(model), before)
    assert (fused_logps(other) - before).abs().max() > 0.1
    expected = expected_logps(other, 1.0)
    torch.testing.assert_close(fused_logps(other), expected, atol=0.1 if "autocast" in wrapped else 2e-5, rtol=0)
    assert "input_ids" in inspect.signature(other.forward).parameters


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_plain_forward_is_left_alone_and_the_last_temperature_counts(model, temperature):
    """Without `fused_lm_head` the model returns its logits; a model may go from one trainer to the next."""
    before, expected = model(input_ids=IDS).logits, expected_logps(model, temperature)
    for t in (3.0, temperature):
        add_fused_head(model, temperature=t)
    assert torch.equal(model(input_ids=IDS).logits, before)
    assert model(input_ids=IDS, labels=LABELS).loss.isfinite()
    torch.testing.assert_close(fused_logps(model), expected, atol=2e-5, rtol=0)


def adapted(model, **options):
    options = {"r": 2, "lora_alpha": 8, "target_modules": ["q_proj", "lm_head"], "task_type": "CAUSAL_LM"} | options
    return get_peft_model(model, LoraConfig(**options))


def shake(model):
    """Moves the trained weights, so that an adapter does something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("tied", [False, True])
def test_lora_on_the_head(tied):
    """TRL's head ignores this adapter; here values and gradients contain it, and vanish with it."""
    model = build_model(build_tokenizer(), tie_word_embeddings=tied)
    plain = expected_logps(model, 0.7)
    adapter = adapted(model)
    shake(adapter)
    assert_same(adapter, model)
    assert (expected_logps(adapter, 0.7) - plain).abs().max() > 0.1
    with adapter.disable_adapter():
        torch.testing.assert_close(fused_logps(adapter), plain, atol=2e-5, rtol=0)
    adapter.merge_adapter()
    torch.testing.assert_close(fused_logps(adapter), expected_logps(adapter, 0.7), atol=2e-5, rtol=0)


def test_two_adapters_at_once(model):
    adapter = adapted(model)
    adapter.add_adapter("second", LoraConfig(r=3, lora_alpha=3, target_modules=["lm_head"]))
    adapter.base_model.set_adapter(["default", "second"])
    shake(adapter)
    assert_same(adapter, model)


def test_a_head_that_is_saved_whole(model):
    """`modules_to_save`: PEFT's trained copy counts, and without the adapter the original does."""
    plain = expected_logps(model, 0.7)
    adapter = adapted(model, target_modules=["q_proj"], modules_to_save=["lm_head"])
    shake(adapter)
    assert_same(adapter, model)
    with adapter.disable_adapter():
        torch.testing.assert_close(fused_logps(adapter), plain, atol=2e-5, rtol=0)


@pytest.mark.parametrize("options", [{"use_dora": True}, {"target_modules": ["lm_head"], "lora_bias": True}])
def test_what_cannot_be_taken_apart_is_refused(model, options):
    head = adapted(model, **options).get_output_embeddings()
    with pytest.raises(ValueError, match="on the output head are not supported: use LoRA"):
        head_parts(head)


def test_a_quantised_head_is_refused():
    import bitsandbytes as bnb

    with pytest.raises(ValueError, match="Linear4bit.*leave `lm_head` out of quantisation"):
        head_parts(bnb.nn.Linear4bit(16, 40, bias=False, quant_storage=torch.uint8).to("cpu"))


@pytest.mark.parametrize("trained", ["adapter", "all"])
def test_a_frozen_head_multiplies_no_weight_gradient(model, trained, monkeypatch):
    """With LoRA the head costs two products a tile, both in the forward."""
    products, multiply = [], schedule.multiply

    def counted(a, b, out, add=False):
        products.append(out.shape)
        multiply(a, b, out, add)

    monkeypatch.setattr(schedule, "multiply", counted)
    policy = adapted(model, target_modules=["q_proj"]) if trained == "adapter" else model
    add_fused_head(model)
    logps = fused_logps(policy)
    assert len(products) == 2
    logps.sum().backward()
    assert len(products) == (2 if trained == "adapter" else 4)
    assert (model.lm_head.weight.grad is None) == (trained == "adapter")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_autocast_and_gradient_checkpointing(model, checkpointing):
    """In bf16 the trunk rounds, the head does not: log-probs are those of the trunk's hidden states in fp64."""
    add_fused_head(model)
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with torch.autocast("cpu", torch.bfloat16):
        logps = fused_logps(model)
        hidden = model.model(IDS).last_hidden_state.bfloat16()
    logits = hidden.double() @ model.lm_head.weight.detach().bfloat16().double().T
    labels = LABELS[:, 1:]
    exact = logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert (logps - exact.masked_fill(labels == -100, 0.0)).abs().max() < 5e-5
    logps.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
