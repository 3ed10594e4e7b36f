# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A prompt is read once for the completions that are scored, and log-probs and gradients are the model's own."""

import logging

import pytest
import torch
from accelerate import Accelerator
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from architectures import ATTENTION, HYBRID, RECURRENT, build
from helpers import history, lora_config, make_trainer
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny import build_model, build_tokenizer

from trl_nash.kernels.fused_head import IGNORED, FusedHead, add_fused_head
from trl_nash.planning.costs.bytes import shares_prompts
from trl_nash.planning.model import sizes_from_config
from trl_nash.planning.run import Run
from trl_nash.trainers.checks import policy as verification
from trl_nash.trainers.checks.policy import verify_policy
from trl_nash.trainers.checks.sample import Sample
from trl_nash.trainers.checks.sharing import fault_of_sharing
from trl_nash.trainers.run import construction


COUNT, WIDTH = 3, 18
MODELS = ATTENTION | HYBRID | RECURRENT
# Of each prompt its length, and of each completion its length and the tokens in it that are nobody's of the policy.
PROMPTS = {
    "of several lengths": [(1, [(3, ()), (6, ()), (1, ())]), (5, [(2, ()), (2, ()), (4, ())]), (9, [(4, ())] * 3)],
    "of one token": [(1, [(3, ()), (6, ()), (1, ())])] * 2,
    "of dialogues": [(4, [(9, (3, 4, 5)), (5, (0, 1)), (7, (2,))]), (6, [(1, ()), (8, (4, 7)), (2, ())])],
    "without a completion": [(4, [(0, ()), (3, ()), (0, ())]), (3, [(0, ())] * 3)],
}


def batch(prompts) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(3, 40, (len(prompts) * COUNT, WIDTH))
    mask, labels = torch.ones_like(ids), ids.clone()
    for b, (length, completions) in enumerate(prompts):
        rows = slice(b * COUNT, (b + 1) * COUNT)
        ids[rows, :length] = ids[b * COUNT, :length]
        labels[rows, :length] = IGNORED
        for row, (new, others) in enumerate(completions, start=b * COUNT):
            mask[row, length + new :] = 0
            labels[row, length + new :] = IGNORED
            labels[row, [length + place for place in others]] = IGNORED
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": labels}


def measured(model):
    """The head of a model, which shares prompts where the model is found to be up to it."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = add_fused_head(base)
    accelerator = Accelerator(cpu=True)
    verify_policy(model, head, accelerator)
    with torch.no_grad():
        sample = Sample(model, head, accelerator)
        sample.own()
        head.shares_prompts = fault_of_sharing(sample) is None  # also where all weights are trained
    return head


def result(model, inputs, **options):
    """Log-probs, gradients, and how many tokens went through the model."""
    tokens = []
    hook = model.get_input_embeddings().register_forward_hook(lambda _, given, __: tokens.append(given[0].numel()))
    logps = model(**inputs, fused_lm_head=True, **options).log_probs
    hook.remove()
    weights = torch.linspace(-1, 1, logps.numel()).view_as(logps)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad((logps * weights).sum(), trained.values(), allow_unused=True)
    return logps.detach(), dict(zip(trained, gradients, strict=True)), sum(tokens)


@pytest.mark.parametrize("prompts", PROMPTS)
@pytest.mark.parametrize(
    ("name", "lora"), [(name, False) for name in MODELS] + [(name, True) for name in ATTENTION], ids=str
)
def test_log_probs_and_gradients_are_those_of_whole_rows(name, lora, prompts):
    model = build(name, **MODELS[name])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(3)  # fp32 has digits for the gradients of such weights
    if lora:
        model = get_peft_model(model, lora_config(target_modules="all-linear", init_lora_weights=False))
    head, inputs = measured(model), batch(PROMPTS[prompts])
    assert head.shares_prompts == (name in ATTENTION)  # a mask leaves no padding out of a recurrent state
    model.train()
    logps, gradients, tokens = result(model, inputs, num_completions=COUNT)
    expected, own, all_tokens = result(model, inputs)
    torch.testing.assert_close(logps, expected, rtol=1e-4, atol=1e-4)
    total = sum(g.norm() ** 2 for g in own.values() if g is not None) ** 0.5
    for name_, gradient in gradients.items():
        assert (gradient is None) == (own[name_] is None)
        if gradient is not None:
            assert (gradient - own[name_]).norm() <= 3e-4 * total + 1e-6
    assert tokens < all_tokens if head.shares_prompts else tokens == all_tokens


def test_each_prompt_is_read_once():
    """B prompts, and of each completion all but its last token."""
    model = build("Llama")
    head = measured(model)
    inputs = batch(PROMPTS["of several lengths"])
    *_, tokens = result(model, inputs, num_completions=COUNT)
    assert head.shares_prompts and tokens == 3 * 9 + 9 * 5


@pytest.mark.parametrize("adapter", [PromptTuningConfig, PrefixTuningConfig])
def test_virtual_tokens_are_left_in_front_of_the_whole_prompt(adapter):
    model = get_peft_model(build("Llama"), adapter(task_type="CAUSAL_LM", num_virtual_tokens=4))
    measured(model)
    inputs = batch(PROMPTS["of several lengths"])
    logps, *_ = result(model, inputs, num_completions=COUNT)
    expected, *_ = result(model, inputs)
    torch.testing.assert_close(logps, expected)


def test_a_cache_that_is_cut_off_is_found_out(monkeypatch):
    """Values are right, and the gradient of the prompt is lost: prompts are read for each completion."""
    model = build("Llama")
    monkeypatch.setattr(
        "transformers.cache_utils.DynamicLayer.reorder_cache",
        lambda self, rows: vars(self).update(keys=self.keys.detach()[rows], values=self.values.detach()[rows]),
    )
    assert not measured(model).shares_prompts


def spoil(layer, rows):
    """Rows as they should be, with gradients, and wrong values."""
    vars(layer).update(keys=-layer.keys[rows], values=layer.values[rows])


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotations_of_the_longest_position_are_not_mixed(kind):
    """A prompt below the length from which on they differ, with a completion beyond it, would have both."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4} if kind == "longrope" else {"factor": 4.0}
    rope = {"rope_type": kind, "rope_theta": 1e4, "original_max_position_embeddings": 8} | factors
    model = build("Llama", rope_parameters=rope, max_position_embeddings=8 if kind == "dynamic" else 32)
    inputs = batch([(7, [(8, ())] * 3)])
    measured(model)
    logps, *_ = result(model, inputs, num_completions=COUNT)
    torch.testing.assert_close(logps, result(model, inputs)[0], rtol=1e-4, atol=1e-4)


def test_an_explicit_reference_reads_prompts_once(tmp_path):
    """Nothing goes back through it."""
    tokenizer = build_tokenizer(chat=False)
    reference = build_model(tokenizer)
    heads = []
    with pytest.MonkeyPatch.context() as patch:
        build_head = construction.add_fused_head
        patch.setattr(construction, "add_fused_head", lambda *a, **k: heads.append(build_head(*a, **k)) or heads[-1])
        make_trainer("ipo", tmp_path, tokenizer=tokenizer, extra={"ref_model": reference})
    assert [head.shares_prompts for head in heads] == [False, True]


def test_a_model_on_several_devices_shares():
    """accelerate's forward of a `device_map` does not show the arguments of the model's own."""
    model = build("Llama")
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True))
    assert measured(model).shares_prompts


def test_rows_of_one_token():
    model, one = build("Llama"), torch.ones(4, 1, dtype=torch.long)
    measured(model)
    inputs = {"input_ids": one, "attention_mask": one, "labels": one}
    assert model(**inputs, fused_lm_head=True, num_completions=2).log_probs.shape == (4, 0)


def test_a_cache_that_is_wrong_is_found_out(monkeypatch):
    model = build("Llama")
    assert measured(model).shares_prompts
    monkeypatch.setattr("transformers.cache_utils.DynamicLayer.reorder_cache", spoil)
    assert not measured(model).shares_prompts


def test_a_model_that_checkpoints_already_is_measured_without(monkeypatch):
    """It keeps a cache in evaluation mode, and would be believed then."""
    model = build("Llama")
    model.gradient_checkpointing_enable()
    assert measured(model).shares_prompts
    monkeypatch.setattr("transformers.cache_utils.DynamicLayer.reorder_cache", spoil)
    assert not measured(model).shares_prompts
    assert all(layer.gradient_checkpointing for layer in model.model.layers)


@pytest.mark.parametrize(
    ("adapter", "why"),
    [
        (None, "more than 10% of its parameters are trained"),
        (lora_config(), None),
        (lora_config(r=64), "more than 10% of its parameters are trained"),
        (lora_config(modules_to_save=["lm_head", "embed_tokens"]), "more than 10% of its parameters are trained"),
    ],
    ids=["full", "lora", "large", "whole embeddings"],
)
def test_gradients_of_most_weights_are_not_held_twice(adapter, why, caplog):
    caplog.set_level(logging.INFO, logger="trl_nash")
    model = build_model(build_tokenizer())
    model = model if adapter is None else get_peft_model(model, adapter)
    head = add_fused_head(model if adapter is None else model.get_base_model())
    accelerator = Accelerator(cpu=True)
    verify_policy(model, head, accelerator)
    said = [record.getMessage() for record in caplog.records if "prompt for each" in record.getMessage()]
    assert head.shares_prompts == (why is None) == (said == [])
    assert all(message.endswith(f": {why}.") for message in said)


@pytest.mark.parametrize(("rank", "expected"), [(None, False), (2, True), (64, False)], ids=["full", "lora", "large"])
def test_a_plan_counts_prompts_as_they_are_read(rank, expected):
    sizes = sizes_from_config(build_model(build_tokenizer()).config, "tiny")
    run = Run(gradient_checkpointing=False, use_peft=rank is not None, lora_r=rank or 0)
    assert shares_prompts(sizes, run) == expected


def test_all_processes_do_as_the_first(monkeypatch):
    found = verification.Findings(apart=None)
    monkeypatch.setattr(verification, "broadcast_object_list", lambda objects: [found])
    model = build("Llama")
    monkeypatch.setattr(verification, "_examine", lambda *arguments: 1 / 0)
    head = add_fused_head(model)
    verify_policy(model, head, Accelerator(cpu=True))
    assert head.shares_prompts


@pytest.mark.parametrize("algorithm", ["comal", "nash-md"])
def test_a_run_is_as_without(algorithm, tmp_path, monkeypatch):
    """Losses, R² and gradients of a run; and with gradient checkpointing, which keeps no cache, nothing is shared."""
    tokenizer, runs, counts = build_tokenizer(chat=False), {}, {}
    for kind, options in {"shared": {}, "each": {}, "checkpointed": {"gradient_checkpointing": True}}.items():
        tokens = []
        model = build_model(tokenizer)
        options = {"gradient_checkpointing": False, "num_generations": 4, "max_steps": 3} | options
        trainer = make_trainer(algorithm, tmp_path / kind, model=model, tokenizer=tokenizer, lora=True, **options)
        score = trainer.score

        def counted(model, batch, score=score, tokens=tokens):
            hook = model.get_input_embeddings().register_forward_hook(lambda _, i, __: tokens.append(i[0].numel()))
            try:
                return score(model, batch)
            finally:
                hook.remove()

        trainer.score = counted
        with monkeypatch.context() as patch:
            if kind == "each":
                patch.setattr(FusedHead, "can_share_prompts", lambda *arguments: False)
            trainer.train()
        runs[kind] = history(trainer, "loss") + history(trainer, "grad_norm")
        counts[kind] = sum(tokens)
    assert runs["shared"] == pytest.approx(runs["each"], rel=1e-3, abs=1e-5)
    assert runs["checkpointed"] == pytest.approx(runs["each"], rel=1e-3, abs=1e-5)
    assert counts["shared"] < counts["each"] == counts["checkpointed"]
