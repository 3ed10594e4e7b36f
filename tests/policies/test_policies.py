# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Frozen policies without a trainer: exchange, names, averages, files, and a second policy beside the live one."""

import copy
import json
import struct
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from tiny import build_model, build_tokenizer
from torch import nn

from trl_nash.policies import INITIAL, PREVIOUS, REFERENCE, FrozenPolicies, is_sharded


IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def perturb(model: nn.Module, seed: int) -> None:
    """Moves the trainable weights as training would, but visibly."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def policies_of(model: nn.Module, **kwargs) -> FrozenPolicies:
    return FrozenPolicies(live=lambda: model, unwrapped=lambda: model, **kwargs)


def build_lora(trained: bool = False, **config) -> nn.Module:
    """A PEFT model; `trained` gives its adapter weights that change the policy."""
    torch.manual_seed(3)
    model = get_peft_model(
        build_model(build_tokenizer()),
        LoraConfig(**{"r": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | config),
    )
    if trained:
        perturb(model, seed=11)
    return model


BUILDERS = {
    "full": lambda: build_model(build_tokenizer()),
    "tied": lambda: build_model(build_tokenizer(), tie_word_embeddings=True),
    "bf16": lambda: build_model(build_tokenizer()).bfloat16(),
    "lora": build_lora,
}


# ---- Exchange ----


@pytest.mark.parametrize("kind", BUILDERS)
def test_exchange_is_bitwise_reversible(kind):
    """In the context the weights are the frozen ones, behind it the live ones, any number of times, all bitwise."""
    model = BUILDERS[kind]()
    policies = policies_of(model)
    policies.freeze("old")
    old = weights(model)
    perturb(model, seed=1)
    new = weights(model)
    assert not same(old, new)
    for _ in range(3):
        with policies.active("old") as active:
            assert active is model
            assert same(weights(model), old)
        assert same(weights(model), new)


def test_exchange_happens_in_place():
    """Parameters keep their storage, so that optimizer states, DDP buckets and tied weights stay attached."""
    model = build_model(build_tokenizer(), tie_word_embeddings=True)
    policies = policies_of(model)
    policies.freeze("old")
    perturb(model, seed=1)
    before = [(id(p), p.data_ptr()) for p in model.parameters()]
    with policies.active("old"):
        assert [(id(p), p.data_ptr()) for p in model.parameters()] == before
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert [(id(p), p.data_ptr()) for p in model.parameters()] == before


def test_an_error_in_the_context_puts_the_live_weights_back():
    """Whatever happens while another policy is active, training goes on with the live weights."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    policies.freeze("old")
    old = weights(model)
    perturb(model, seed=1)
    new = weights(model)
    with pytest.raises(RuntimeError, match="out of memory"), policies.active("old"):
        raise RuntimeError("out of memory")
    assert same(weights(model), new)
    with policies.active("old"):
        assert same(weights(model), old)


def test_a_frozen_policy_shares_no_storage_with_the_live_one():
    """A step of the optimizer between two contexts changes the live policy and not the frozen one."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    policies.freeze("old")
    old = weights(model)
    for seed in range(3):
        perturb(model, seed)
        with policies.active("old"):
            assert same(weights(model), old)


def test_only_trainable_weights_are_kept():
    """Under LoRA a frozen policy has r * (in + out) = 2 * (16 + 16) numbers per target, 2 targets in 2 layers."""
    model = build_lora()
    policies = policies_of(model)
    policies.freeze("old")
    assert sum(tensor.numel() for tensor in policies._weights["old"].values()) == 2 * (16 + 16) * 2 * 2
    assert all(tensor.device.type == "cpu" for tensor in policies._weights["old"].values())


def test_an_unknown_policy_is_named():
    """The error names the policy that was asked for and those that there are."""
    policies = policies_of(build_model(build_tokenizer()))
    policies.freeze("old")
    with pytest.raises(KeyError, match=r"'older'.*\['old'\]"), policies.active("older"):
        pass


# ---- Who the initial policy and the reference are ----


def test_full_model_keeps_a_snapshot_as_initial():
    """With full fine-tuning the initial policy is frozen once; later calls change nothing."""
    model = build_model(build_tokenizer())
    expected = logits(model)
    policies = policies_of(model)
    policies.ensure_initial()
    perturb(model, seed=1)
    policies.ensure_initial()
    with policies.active(INITIAL) as active:
        assert torch.equal(logits(active), expected)


def test_ref_model_is_initial_and_nothing_is_copied():
    """An explicit reference is used as it is, whatever its architecture."""
    model, ref_model = build_model(build_tokenizer()), build_model(build_tokenizer(), seed=5, num_hidden_layers=1)
    policies = policies_of(model, ref_model=ref_model)
    policies.ensure_initial()
    for name in (INITIAL, REFERENCE):
        with policies.active(name) as active:
            assert active is ref_model
    assert INITIAL not in policies


def test_fresh_adapter_is_initial_with_adapters_off():
    """The base model's logits come back exactly, and not those of `get_base_model()`, which keeps LoRA active."""
    base = logits(build_model(build_tokenizer()))
    model = build_lora()
    policies = policies_of(model, fresh_adapter=True)
    policies.ensure_initial()
    assert INITIAL not in policies
    perturb(model, seed=1)
    with policies.active(INITIAL) as active:
        assert torch.equal(logits(active), base)
    assert (logits(model.get_base_model()) - base).abs().max() > 0.1
    assert (logits(model) - base).abs().max() > 0.1


def test_trained_adapter_is_its_own_initial_policy():
    """A PEFT model that was trained before starts from itself, not from its base model."""
    model = build_lora(trained=True)
    start, base = logits(model), logits(build_model(build_tokenizer()))
    policies = policies_of(model)
    policies.ensure_initial()
    perturb(model, seed=1)
    with policies.active(INITIAL) as active:
        assert torch.equal(logits(active), start)
        assert (logits(active) - base).abs().max() > 0.1


def test_reference_is_initial_until_another_policy_is_frozen_as_it():
    """COMAL's move of the reference leaves the initial policy, and its metrics, alone."""
    model = build_lora()
    base = logits(model)
    policies = policies_of(model, fresh_adapter=True)
    assert policies.resolve(REFERENCE) == INITIAL
    perturb(model, seed=1)
    policies.freeze(REFERENCE)
    moved = logits(model)
    perturb(model, seed=2)
    assert policies.resolve(REFERENCE) == REFERENCE
    with policies.active(REFERENCE) as active:
        assert torch.equal(logits(active), moved)
    with policies.active(INITIAL) as active:
        assert torch.equal(logits(active), base)


def test_the_live_model_is_called_through_its_wrapper():
    """`active` yields what `live` returns, so that DDP's, DeepSpeed's and FSDP's hooks see the forward."""
    model = build_model(build_tokenizer())
    wrapper = nn.ModuleList([model])
    policies = FrozenPolicies(live=lambda: wrapper, unwrapped=lambda: model)
    policies.freeze("old")
    with policies.active("old") as active:
        assert active is wrapper


# ---- Chains and averages ----


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_remember_keeps_the_last_policies_in_order(depth):
    """After round t, `previous` is π_t, `previous_2` is π_{t-1} ... and no more than `depth` are kept."""
    model = nn.Linear(1, 1, bias=False)
    policies = policies_of(model)
    for t in range(7):
        nn.init.constant_(model.weight, float(t))
        policies.remember(depth)
        names = [PREVIOUS, *(f"previous_{k}" for k in range(2, 9))]
        kept = [policies._weights[name]["weight"].item() for name in names if name in policies]
        assert kept == [float(t - k) for k in range(min(depth, t + 1))]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
def test_average_matches_its_closed_form(decay):
    """w_n = d^n θ_0 + (1 - d) Σ_{k=1..n} d^{n-k} θ_k, computed in fp64."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    policies = policies_of(model)
    seen = []
    for n in range(6):
        perturb(model, seed=n)
        policies.average("average", decay)
        seen.append(model.weight.detach().double())
        expected = decay**n * seen[0] + (1 - decay) * sum(decay ** (n - k) * seen[k] for k in range(1, n + 1))
        torch.testing.assert_close(policies._weights["average"]["weight"].double(), expected, atol=1e-6, rtol=0)


def test_average_leaves_the_live_policy_alone():
    """Averaging reads the live weights only."""
    model = nn.Linear(3, 2)
    policies = policies_of(model)
    policies.average("average", 0.5)
    perturb(model, seed=1)
    before = weights(model)
    policies.average("average", 0.5)
    assert same(weights(model), before)


# ---- A second policy beside the live one ----


def frozen_reference(kind: str) -> tuple[nn.Module, FrozenPolicies, torch.Tensor]:
    """A live model, its frozen policies, and the logits that the reference must have."""
    if kind == "ref_model":
        model, ref_model = build_model(build_tokenizer()), build_model(build_tokenizer(), seed=5)
        return model, policies_of(model, ref_model=ref_model), logits(ref_model)
    model = build_model(build_tokenizer()) if kind == "full" else build_lora(trained=kind != "lora")
    policies = policies_of(model, fresh_adapter=kind in ("lora", "moved reference"))
    policies.ensure_initial()
    if kind == "moved reference":
        policies.freeze(REFERENCE)
    return model, policies, logits(model)


@pytest.mark.parametrize("kind", ["full", "ref_model", "lora", "trained lora", "moved reference"])
def test_beside_switches_between_two_policies(kind):
    """Inside `enter` the model is the reference, outside of it the live policy, at every one of several tokens."""
    model, policies, expected = frozen_reference(kind)
    perturb(model, seed=1)
    live, before = logits(model), weights(model)
    assert (live - expected).abs().max() > 0.1
    with policies.beside(REFERENCE) as enter:
        for _ in range(3):
            with enter() as other:
                assert torch.equal(logits(other), expected)
            assert torch.equal(logits(model), live)
    assert same(weights(model), before)
    with policies.active(REFERENCE) as other:  # and the kept weights are still what they were
        assert torch.equal(logits(other), expected)


def test_beside_restores_the_live_policy_after_an_error():
    """An error between two tokens leaves the live weights in the model."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    policies.ensure_initial()
    perturb(model, seed=1)
    before = weights(model)
    with pytest.raises(RuntimeError, match="stop"), policies.beside(INITIAL) as enter, enter():
        raise RuntimeError("stop")
    assert same(weights(model), before)


def test_beside_refuses_sharded_weights():
    """Two policies cannot be gathered at once; the error says what can be done."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    policies.freeze(REFERENCE)
    model.lm_head.weight.ds_tensor = torch.zeros(3)
    assert is_sharded(model)
    with pytest.raises(ValueError, match="ref_model"), policies.beside(REFERENCE):
        pass


# ---- Shards ----


class Shard(nn.Module):
    """
    Stands in for a model under ZeRO-3 on one process: a parameter holds this rank's partition as `ds_tensor`, and is
    itself empty unless ZeRO-3 keeps it gathered.
    """

    def __init__(self, persist: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.arange(4.0) if persist else torch.empty(0))
        self.weight.ds_tensor = torch.arange(4.0)
        self.weight.ds_persist = persist
        self.weight.partition = lambda parameters: [setattr(p, "data", torch.empty(0)) for p in parameters]
        self.weight.all_gather = lambda parameters: [setattr(p, "data", p.ds_tensor.clone()) for p in parameters]


@pytest.mark.parametrize("persist", [False, True])
def test_a_zero3_partition_is_exchanged(persist):
    """This rank's partition is swapped, and a parameter that ZeRO-3 keeps gathered is gathered anew from it."""
    model = Shard(persist)
    policies = policies_of(model)
    policies.freeze("old")
    model.weight.ds_tensor += 10
    model.weight.data += 10
    with policies.active("old"):
        assert model.weight.ds_tensor.tolist() == [0, 1, 2, 3]
        assert model.weight.tolist() == ([0, 1, 2, 3] if persist else [])
    assert model.weight.ds_tensor.tolist() == [10, 11, 12, 13]
    assert model.weight.tolist() == ([10, 11, 12, 13] if persist else [])


# ---- Files ----


def test_what_is_saved_is_loaded_bitwise(tmp_path):
    """All policies come back under their names with the same bits, and what was there before is gone."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    for seed, name in enumerate((INITIAL, PREVIOUS, "previous_2", REFERENCE)):
        perturb(model, seed)
        policies.freeze(name)
    policies.save(tmp_path, rank=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "initial-00000.safetensors",
        "previous-00000.safetensors",
        "previous_2-00000.safetensors",
        "reference-00000.safetensors",
    ]
    other = policies_of(model)
    other.freeze("stale")
    other.load(tmp_path, rank=0)
    assert sorted(other._weights) == sorted(policies._weights)
    for name, kept in policies._weights.items():
        assert all(torch.equal(kept[key], other._weights[name][key]) for key in kept)


def test_files_are_safetensors_and_not_pickles(tmp_path):
    """A file is a length, a JSON header and raw numbers: loading it runs no code."""
    policies = policies_of(nn.Linear(2, 2))
    policies.freeze("old")
    policies.save(tmp_path, rank=0)
    (file,) = tmp_path.iterdir()
    raw = file.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    assert set(json.loads(raw[8 : 8 + length])) == {"weight", "bias"}
    with safe_open(file, "pt") as opened:
        assert set(opened.keys()) == {"weight", "bias"}


def test_whole_weights_are_written_by_rank_0_and_read_by_all(tmp_path):
    """Without shards every rank holds the same, so rank 1 writes nothing and reads rank 0's file."""
    model = nn.Linear(2, 2)
    policies = policies_of(model)
    policies.freeze("old")
    policies.save(tmp_path / "policies", rank=1)
    assert not (tmp_path / "policies").exists()
    policies.save(tmp_path / "policies", rank=0)
    other = policies_of(model)
    other.load(tmp_path / "policies", rank=1)
    assert torch.equal(other._weights["old"]["weight"], model.weight)


def test_each_rank_keeps_its_own_shard(tmp_path):
    """With shards every rank writes and reads its own file."""
    for rank in (0, 1):
        model = Shard(persist=False)
        model.weight.ds_tensor += 100 * rank
        policies = policies_of(model)
        policies.freeze("old")
        policies.save(tmp_path, rank)
    for rank in (0, 1):
        policies = policies_of(Shard(persist=False))
        policies.load(tmp_path, rank)
        assert policies._weights["old"]["weight"].tolist() == [100 * rank + k for k in range(4)]


def test_nothing_frozen_saves_and_loads(tmp_path):
    """A fresh adapter has no frozen policy at first; its checkpoint loads all the same."""
    policies = policies_of(build_lora(), fresh_adapter=True)
    policies.save(tmp_path / "policies", rank=0)
    policies.load(tmp_path / "policies", rank=0)
    assert policies._weights == {}


@pytest.mark.parametrize("other", [nn.Linear(2, 3), nn.Linear(2, 2, bias=False)])
def test_files_of_another_model_are_refused(tmp_path, other):
    """Other shapes or other names are no policy of this model; the error says what to resume with."""
    policies = policies_of(nn.Linear(2, 2))
    policies.freeze("old")
    policies.save(tmp_path, rank=0)
    with pytest.raises(ValueError, match="does not fit this model.*number of processes"):
        policies_of(copy.deepcopy(other)).load(tmp_path, rank=0)


def test_a_policy_that_is_given_up_is_not_kept_for_its_file(tmp_path):
    """Neither behind a save nor behind a load, on a rank that never saves."""
    model = BUILDERS["full"]()
    policies = policies_of(model)
    policies.freeze(PREVIOUS)
    policies.save(tmp_path, rank=0)
    for loaded in (False, True):
        if loaded:
            policies.load(tmp_path, rank=1, names=[PREVIOUS])
        kept = weakref.ref(policies._weights[PREVIOUS])
        policies.remember(1)
        assert kept() is None


def test_a_policy_whose_file_is_missing_is_named(tmp_path):
    """Before anything is read: other processes may have theirs."""
    policies = policies_of(BUILDERS["full"]())
    policies.freeze(PREVIOUS)
    policies.save(tmp_path, rank=0)
    with pytest.raises(ValueError, match="reference-00000.safetensors is missing: copy the whole checkpoint"):
        policies.load(tmp_path, rank=1, processes=2, names=[PREVIOUS, REFERENCE])
