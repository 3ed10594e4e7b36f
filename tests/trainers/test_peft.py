# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Adapters, quantised bases and explicit references: who the reference is, and how many models there are."""

import copy
import gc
from contextlib import nullcontext

import pytest
import torch
from helpers import (
    ALGORITHMS,
    favours_a,
    history,
    lora_config,
    make_config,
    make_trainer,
    perturb,
    prompt_dataset,
    weights,
)
from peft import PeftModel, get_peft_model
from tiny import build_model, build_tokenizer
from transformers import BitsAndBytesConfig, LlamaForCausalLM

from trl_nash.algorithms import INITIAL, Policy


IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(input_ids=IDS).logits


def wrapped(trained: bool = False, **config) -> PeftModel:
    """A model that was made a PEFT model before the trainer sees it; `trained` moves its adapter away from 0."""
    torch.manual_seed(3)
    model = get_peft_model(build_model(build_tokenizer()), lora_config(**config))
    if trained:
        perturb(model, seed=11)
    return model


# ---- Who the reference is ----


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_reference_of_a_fresh_adapter_is_the_base_model(algorithm, tmp_path):
    """After training, the reference's logits are the base model's bitwise, and `get_base_model()`'s are not."""
    base = logits(build_model(build_tokenizer()))
    trainer = make_trainer(algorithm, tmp_path, lora=True, max_steps=4, learning_rate=0.1)
    trainer.train()
    with trainer.policies.active(INITIAL) as reference:
        assert torch.equal(logits(reference), base)
    assert (logits(trainer.model) - base).abs().max() > 0.1
    assert (logits(trainer.model.get_base_model()) - base).abs().max() > 0.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_trained_adapter_is_its_own_reference(algorithm, tmp_path):
    """A PEFT model handed over as it is starts from its adapter: that is the reference, and not the base model."""
    model = wrapped(trained=True)
    start = logits(model)
    assert (start - logits(build_model(build_tokenizer()))).abs().max() > 0.1
    trainer = make_trainer(algorithm, tmp_path, model=model, max_steps=4, learning_rate=0.1)
    trainer.train()
    assert history(trainer, "policy/kl_reference")[0] == 0.0
    with trainer.policies.active(INITIAL) as reference:
        assert torch.equal(logits(reference), start)
    assert (logits(trainer.model) - start).abs().max() > 0.1


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_wrapped_model_works_like_a_peft_config(algorithm, tmp_path):
    """With the same fresh adapter both ways of handing it over give the same losses."""
    start = wrapped().state_dict()
    runs = []
    for options in ({"model": wrapped()}, {"lora": True}):
        trainer = make_trainer(algorithm, tmp_path, max_steps=4, **options)
        trainer.model.load_state_dict(start)
        trainer.train()
        runs.append((history(trainer, "loss"), history(trainer, "policy/kl_reference")))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_second_run_starts_from_the_end_of_the_first(algorithm, lora, tmp_path):
    """Its reference is the policy that the first run has made, also where that was a fresh adapter: the KL is 0."""
    trainer = make_trainer(algorithm, tmp_path, lora=lora, max_steps=4, learning_rate=0.1)
    trainer.train()
    with trainer.policies.active(INITIAL) as reference:
        first = logits(reference)
    start = logits(trainer.model)
    assert (start - first).abs().max() > 0.1
    trainer.train()
    assert trainer.state.global_step == 4 and history(trainer, "round")[0] == 1
    assert history(trainer, "policy/kl_reference")[0] == 0.0
    with trainer.policies.active(INITIAL) as reference:
        assert torch.equal(logits(reference), start)
    assert (logits(trainer.model) - start).abs().max() > 0.1


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_an_explicit_reference_is_honoured(lora, tmp_path):
    """
    `ref_model` of another architecture: `policy/kl_reference` of the first round is the mean log-ratio of the sampled
    completions to that model, recomputed here in fp64; without it, it is 0.
    """
    tokenizer = build_tokenizer()
    reference = build_model(tokenizer, seed=5, num_hidden_layers=1)
    truth = build_model(tokenizer).double(), build_model(tokenizer, seed=5, num_hidden_layers=1).double()
    trainer = make_trainer("comal", tmp_path, lora=lora, extra={"ref_model": reference}, max_steps=1)
    assert trainer.ref_model is reference
    batches = []
    fit = trainer.objective
    trainer.objective = lambda logps, batch: batches.append(batch) or fit(logps, batch)
    trainer.train()
    (batch,) = batches
    inside = batch.labels[:, 1:] != -100
    sums = []
    for model in truth:
        with torch.no_grad():
            logps = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits.log_softmax(-1)
        tokens = logps[:, :-1].gather(-1, batch.input_ids[:, 1:, None])[..., 0]
        sums.append((tokens * inside).sum(-1))
    expected = (sums[0] - sums[1]).mean().item()
    assert history(trainer, "policy/kl_reference") == pytest.approx([expected], abs=1e-4)
    assert abs(expected) > 1
    # ρ = 1/3: the anchor is a third of the reference and two thirds of the policy.
    anchor = batch.centre_logps.double().sum(-1)
    torch.testing.assert_close(anchor, sums[1] / 3 + sums[0] * 2 / 3, atol=1e-4, rtol=0)


def test_comal_moves_its_reference_to_a_frozen_adapter(tmp_path):
    """
    `reference_rounds=3`: in rounds 4, 5 and 6 the reference is the policy as it stood after round 3, in rounds 7 and 8
    as after round 6; the initial policy stays the base model, and `policy/kl_anchor` starts anew when the reference
    has moved.
    """
    base = logits(build_model(build_tokenizer()))
    seen, current = [], []

    trainer = make_trainer("comal", tmp_path, lora=True, reference_rounds=3, learning_rate=0.1, max_steps=8)
    sample = trainer.sample_pairs

    def sample_pairs(prompts):
        current.append(logits(trainer.model))
        reference = trainer.past.reference
        assert (reference == trainer.live) == (trainer.round in (3, 6))  # then it is about to be frozen
        with nullcontext(trainer.model) if reference == trainer.live else trainer.policies.active(reference) as model:
            seen.append(logits(model))
        return sample(prompts)

    trainer.sample_pairs = sample_pairs
    trainer.train()
    for round_, origin in enumerate([None, None, None, 3, 3, 3, 6, 6]):
        assert torch.equal(seen[round_], base if origin is None else current[origin])
    with trainer.policies.active(INITIAL) as initial:
        assert torch.equal(logits(initial), base)
    assert [kl == 0 for kl in history(trainer, "policy/kl_anchor")] == [True, False, False, True, False]


# ---- Initialisations ----


@pytest.mark.parametrize("init", ["pissa", "olora", False, "gaussian", True])
def test_initial_policy_under_every_initialisation(init, tmp_path):
    """
    PiSSA and OLoRA take the adapter's product out of the base weights, and `False` starts from a random product: the
    initial policy is base and adapter together as they were at the start, for every initialisation.
    """
    trainer = make_trainer(
        "comal", tmp_path, peft_config=lora_config(init_lora_weights=init), max_steps=3, learning_rate=0.1
    )
    start = logits(trainer.model)
    trainer.train()
    assert (logits(trainer.model) - start).abs().max() > 0.1
    with trainer.policies.active(INITIAL) as initial:
        torch.testing.assert_close(logits(initial), start, atol=1e-6, rtol=0)
    if init is not False:
        torch.testing.assert_close(start, logits(build_model(build_tokenizer())), atol=1e-3, rtol=0)
    with trainer.model.disable_adapter():
        off = (logits(trainer.model) - start).abs().max()
    assert (off > 0.1) == (init in ("pissa", "olora", False))


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_initial_policy_when_lora_trains_biases(bias, tmp_path):
    """LoRA's `bias` option trains biases of the base model, which `disable_adapter` does not take back."""
    trainer = make_trainer(
        "comal",
        tmp_path,
        model=build_model(build_tokenizer(), attention_bias=True),
        peft_config=lora_config(bias=bias),
        max_steps=3,
        learning_rate=0.1,
    )
    start = logits(build_model(build_tokenizer(), attention_bias=True))
    trainer.train()
    with trainer.policies.active(INITIAL) as initial:
        assert torch.equal(logits(initial), start)


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["norm"]}, {"target_modules": "all-linear"}],
    ids=str,
)
def test_initial_policy_under_other_options_of_lora(options, tmp_path):
    """DoRA, rank-stabilised LoRA and whole modules that are trained beside it switch off with the adapter."""
    base = logits(build_model(build_tokenizer()))
    trainer = make_trainer("ipo", tmp_path, peft_config=lora_config(**options), max_steps=2, learning_rate=0.1)
    trainer.train()
    assert (logits(trainer.model) - base).abs().max() > 0.1
    with trainer.policies.active(INITIAL) as initial:
        torch.testing.assert_close(logits(initial), base, atol=1e-5, rtol=0)


# ---- No second model ----


@pytest.mark.parametrize("kind", ["full", "lora", "wrapped"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_model_is_never_copied(algorithm, kind, tmp_path, monkeypatch):
    """
    Construction and training deep-copy no module, and one language model is alive at the end: OnlineDPOTrainer alone
    would keep a second one for `full` and `wrapped`.
    """
    copied = []
    deepcopy = copy.deepcopy

    def watch(value, memo=None, *args):
        if isinstance(value, torch.nn.Module):
            copied.append(value)
        return deepcopy(value, memo, *args)

    gc.collect()
    before = sum(isinstance(thing, LlamaForCausalLM) for thing in gc.get_objects())
    model = wrapped() if kind == "wrapped" else build_model(build_tokenizer())
    monkeypatch.setattr(copy, "deepcopy", watch)
    trainer = make_trainer(algorithm, tmp_path, model=model, lora=kind == "lora", max_steps=2)
    trainer.train()
    gc.collect()
    assert copied == []
    assert trainer.ref_model is None
    assert sum(isinstance(thing, LlamaForCausalLM) for thing in gc.get_objects()) - before == 1


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_memory_of_frozen_policies(kind, tmp_path):
    """
    ONPO with a history of 3 keeps the policies of the last two rounds for the next, which adds its own, and `initial`
    unless adapters off are it: each as many numbers as are trainable.
    """
    trainer = make_trainer("onpo-one", tmp_path, lora=kind == "lora", anchor_history=3, max_steps=5)
    trainer.train()
    kept_now = {Policy(3), Policy(4)} | ({INITIAL} if kind == "full" else set())
    assert set(trainer.policies) == kept_now
    trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    kept = sum(tensor.numel() for policy in trainer.policies._weights.values() for tensor in policy.values())
    assert kept == len(kept_now) * trainable
    assert trainable < 0.1 * sum(p.numel() for p in trainer.model.parameters()) or kind == "full"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_lora_trains_nothing_but_the_adapter(algorithm, tmp_path):
    """The base weights are bitwise what they were, however often policies were exchanged."""
    base = build_model(build_tokenizer()).state_dict()
    trainer = make_trainer(algorithm, tmp_path, lora=True, max_steps=4)
    trainer.train()
    now = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): tensor
        for name, tensor in trainer.model.state_dict().items()
        if "lora_" not in name
    }
    assert now.keys() == base.keys()
    assert all(torch.equal(now[name], base[name]) for name in base)


# ---- QLoRA ----


@pytest.fixture
def model_folder(tmp_path):
    """A tiny model on disk, wide enough for blocks of 64 weights."""
    tokenizer = build_tokenizer()
    folder = tmp_path / "model"
    build_model(tokenizer, hidden_size=64, intermediate_size=64).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}


def quantized(folder) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder, quantization_config=BitsAndBytesConfig(**NF4))


def later_in_the_alphabet(prompts, first, second):
    """A judge that is certain of every two completions that differ, so that these give a gradient."""
    return [float(a > b) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("by_name", [False, True], ids=["model", "path"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_qlora_trains_on_cpu(algorithm, by_name, model_folder, tmp_path):
    """
    An NF4 base, loaded by the user or by the trainer from a path: it stays quantised and bitwise the same, every
    adapter moves, the KL starts at 0, and the reference is the quantised base.
    """
    options = {"model": quantized(model_folder)}
    if by_name:
        init = {"quantization_config": BitsAndBytesConfig(**NF4)}
        options = {"model": str(model_folder), "model_init_kwargs": init}
    options |= {"learning_rate": 0.1, "max_steps": 4, "judge": later_in_the_alphabet}
    trainer = make_trainer(algorithm, tmp_path, lora=True, **options)
    layer = trainer.model.get_base_model().model.layers[0].self_attn.q_proj.base_layer
    packed = layer.weight.data.clone()
    assert type(layer).__name__ == "Linear4bit" and packed.dtype == torch.uint8
    start = logits(trainer.model)
    adapters = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    losses = torch.tensor(history(trainer, "loss"))
    assert len(losses) == 4 and losses.isfinite().all()
    assert history(trainer, "policy/kl_reference")[0] == 0.0
    assert torch.equal(layer.weight.data, packed)
    now = dict(trainer.model.named_parameters())
    assert all((now[name] - before).abs().max() > 1e-3 for name, before in adapters.items())
    with trainer.policies.active(INITIAL) as reference:
        torch.testing.assert_close(logits(reference), start, atol=1e-5, rtol=0)


@pytest.mark.parametrize("before", ["sampling", "evaluation"])
def test_qlora_trains_after_inference_on_cpu(before, model_folder, tmp_path):
    """
    On CPUs with AVX512-BF16 bitsandbytes packs 4-bit weights at the first forward in eval mode, and gradients are 0
    below them from then on. Whether the model was sampled from before or is evaluated first, its gradient is the one
    that it has without (unpacking has rounded the scales to bf16).
    """
    norms = []
    for inference in (False, True):
        model = quantized(model_folder)
        if inference and before == "sampling":
            model.generate(input_ids=IDS, max_new_tokens=2, do_sample=False)
        trainer = make_trainer(
            "comal",
            tmp_path,
            model=model,
            lora=True,
            judge=later_in_the_alphabet,
            max_steps=1,
            num_generations=4,  # so that some pair has a gradient
            extra={"eval_dataset": prompt_dataset(["a", "b"])},
        )
        if inference and before == "evaluation":
            trainer.evaluate()
            torch.manual_seed(trainer.args.seed)
        trainer.train()
        norms += history(trainer, "grad_norm")
    assert norms[0] > 0
    assert norms[1] == pytest.approx(norms[0], rel=1e-6 if before == "evaluation" else 4e-3)


# ---- What cannot work is refused ----


def test_an_adapter_that_is_not_trainable_is_refused(tmp_path):
    """`PeftModel.from_pretrained` freezes by default; the error says how to load it for training."""
    wrapped().save_pretrained(tmp_path / "adapter")
    model = PeftModel.from_pretrained(build_model(build_tokenizer()), tmp_path / "adapter")
    with pytest.raises(ValueError, match="is_trainable=True"):
        make_trainer("ipo", tmp_path, model=model)


@pytest.mark.parametrize("options", [{"target_modules": ["q_proj", "lm_head"]}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("algorithm", ["comal", "nash-md"])
def test_an_adapter_on_the_output_head_is_trained(algorithm, options, tmp_path):
    """It moves, and policies with and without it are told apart: the first margin is 0, the KL grows."""
    trainer = make_trainer(
        algorithm, tmp_path, peft_config=lora_config(**options), max_steps=3, steps_per_generation=1
    )
    before = weights(trainer.model)
    trainer.train()
    moved = {key for key, tensor in weights(trainer.model).items() if not torch.equal(tensor, before[key])}
    assert any("lm_head" in key for key in moved) and any("q_proj" in key for key in moved)
    assert not any("base_layer" in key or "original_module" in key for key in moved)
    kl = history(trainer, "policy/kl_reference")
    assert kl[0] == 0.0 and max(map(abs, kl)) > 0


def test_dropout_of_the_adapter_is_off(tmp_path):
    """LoRA's dropout would make the policy differ from the frozen policies: the first margins are exactly 0."""
    trainer = make_trainer("ipo", tmp_path, peft_config=lora_config(lora_dropout=0.5), max_steps=1)
    trainer.train()
    assert history(trainer, "fit/margin") == [0.0]


def test_model_as_a_path_with_an_adapter(model_folder, tmp_path):
    """A path and a `peft_config`: model and tokenizer are loaded, and the adapter is trained."""
    trainer = ALGORITHMS["ipo"][0](
        model=str(model_folder),
        args=make_config("ipo", tmp_path, max_steps=1),
        train_dataset=prompt_dataset(),
        judge=favours_a,
        peft_config=lora_config(),
    )
    trainer.train()
    assert trainer.processing_class.convert_tokens_to_ids("a") == build_tokenizer().convert_tokens_to_ids("a")
    assert len(history(trainer, "loss")) == 1
