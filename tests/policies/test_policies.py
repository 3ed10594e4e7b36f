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

from trl_nash.algorithms import AVERAGE, INITIAL, START, Policy
from trl_nash.policies import FrozenPolicies, is_sharded


OLD, OLDER, REFERENCE = Policy(3), Policy(2), Policy(6)
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
    policies.freeze(OLD)
    old = weights(model)
    perturb(model, seed=1)
    new = weights(model)
    assert not same(old, new)
    for _ in range(3):
        with policies.active(OLD) as active:
            assert active is model
            assert same(weights(model), old)
        assert same(weights(model), new)


def test_exchange_happens_in_place():
    """Parameters keep their storage, so that optimizer states, DDP buckets and tied weights stay attached."""
    model = build_model(build_tokenizer(), tie_word_embeddings=True)
    policies = policies_of(model)
    policies.freeze(OLD)
    perturb(model, seed=1)
    before = [(id(p), p.data_ptr()) for p in model.parameters()]
    with policies.active(OLD):
        assert [(id(p), p.data_ptr()) for p in model.parameters()] == before
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert [(id(p), p.data_ptr()) for p in model.parameters()] == before


def test_an_error_in_the_context_puts_the_live_weights_back():
    """Whatever happens while another policy is active, training goes on with the live weights."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    policies.freeze(OLD)
    old = weights(model)
    perturb(model, seed=1)
    new = weights(model)
    with pytest.raises(RuntimeError, match="out of memory"), policies.active(OLD):
        raise RuntimeError("out of memory")
    assert same(weights(model), new)
    with policies.active(OLD):
        assert same(weights(model), old)


def test_a_frozen_policy_shares_no_storage_with_the_live_one():
    """A step of the optimizer between two contexts changes the live policy and not the frozen one."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    policies.freeze(OLD)
    old = weights(model)
    for seed in range(3):
        perturb(model, seed)
        with policies.active(OLD):
            assert same(weights(model), old)


def test_only_trainable_weights_are_kept():
    """Under LoRA a frozen policy has r * (in + out) = 2 * (16 + 16) numbers per target, 2 targets in 2 layers."""
    model = build_lora()
    policies = policies_of(model)
    policies.freeze(OLD)
    assert sum(tensor.numel() for tensor in policies._weights[OLD].values()) == 2 * (16 + 16) * 2 * 2
    assert all(tensor.device.type == "cpu" for tensor in policies._weights[OLD].values())


def test_an_unknown_policy_is_named():
    """The error names the policy that was asked for and those that there are."""
    policies = policies_of(build_model(build_tokenizer()))
    policies.freeze(OLD)
    with pytest.raises(KeyError, match="round_2 is not kept: there are round_3"), policies.active(OLDER):
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
    with policies.active(INITIAL) as active:
        assert active is ref_model
    assert INITIAL not in policies
    assert policies.resolve(START) == START  # which is another policy than the reference then


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


def test_a_policy_that_is_kept_leaves_the_initial_one_alone():
    """As when COMAL moves its reference: the initial policy, and the metrics about it, stay what they were."""
    model = build_lora()
    base = logits(model)
    policies = policies_of(model, fresh_adapter=True)
    assert policies.resolve(START) == INITIAL
    perturb(model, seed=1)
    policies.freeze(REFERENCE)
    moved = logits(model)
    perturb(model, seed=2)
    with policies.active(REFERENCE) as active:
        assert torch.equal(logits(active), moved)
    with policies.active(START) as active:
        assert torch.equal(logits(active), base)


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_second_run_starts_with_no_policy_of_the_first(kind):
    """Its initial policy is the one that the first run has made, also where that was a fresh adapter."""
    model = BUILDERS[kind]()
    policies = policies_of(model, fresh_adapter=kind == "lora")
    for seed in (1, 2):
        policies.start_over()
        assert list(policies) == [] and policies.averaged == 0
        policies.ensure_initial()
        start = logits(model)
        perturb(model, seed)
        policies.freeze(OLD)
        policies.average(0, 0.5)
        perturb(model, seed + 2)
        with policies.active(INITIAL) as active:
            assert torch.equal(logits(active), start)


def test_the_live_model_is_called_through_its_wrapper():
    """`active` yields what `live` returns, so that DDP's, DeepSpeed's and FSDP's hooks see the forward."""
    model = build_model(build_tokenizer())
    wrapper = nn.ModuleList([model])
    policies = FrozenPolicies(live=lambda: wrapper, unwrapped=lambda: model)
    policies.freeze(OLD)
    with policies.active(OLD) as active:
        assert active is wrapper


# ---- Chains and averages ----


def test_what_is_needed_is_kept():
    """The live policy is frozen if it is needed and not at hand; what is needed no more is given up."""
    model = nn.Linear(1, 1, bias=False)
    policies = policies_of(model)
    policies.ensure_initial()
    for t in range(7):
        nn.init.constant_(model.weight, float(t))
        policies.keep({Policy(max(t - age, 0)) for age in range(3)}, live=Policy(t))
        kept = {policy.round: policies._weights[policy]["weight"].item() for policy in policies if policy != INITIAL}
        assert kept == {round: float(round) for round in range(max(t - 2, 1), t + 1)}  # the start is the initial one
    nn.init.constant_(model.weight, 9.0)
    policies.keep({Policy(6)}, live=Policy(7))
    assert list(policies) == [INITIAL, Policy(6)]


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 1.0])
def test_average_matches_its_closed_form(decay):
    """w_n = d^n θ_0 + (1 - d) Σ_{k=1..n} d^{n-k} θ_k, computed in fp64; each round counts once."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    policies = policies_of(model)
    seen = []
    for n in range(6):
        perturb(model, seed=n)
        policies.average(n, decay)
        policies.average(n, decay)  # as when a run that was stopped in the round is resumed
        seen.append(model.weight.detach().double())
        expected = decay**n * seen[0] + (1 - decay) * sum(decay ** (n - k) * seen[k] for k in range(1, n + 1))
        torch.testing.assert_close(policies._weights[AVERAGE]["weight"].double(), expected, atol=1e-6, rtol=0)


def test_average_of_16_bit_weights_is_kept_in_fp32():
    """1,000 rounds at decay .999 of weights 1, from 0: 1 - .999^1000 = .632, which bf16 would never leave 0 for."""
    model = nn.Linear(1, 1, bias=False).bfloat16()
    policies = policies_of(model)
    nn.init.zeros_(model.weight)
    policies.average(0, 0.999)
    nn.init.ones_(model.weight)
    for n in range(1, 1001):
        policies.average(n, 0.999)
        if n % 100 == 0:  # its use, rounded, leaves it as it is
            with policies.active(AVERAGE) as active:
                assert active.weight.dtype == torch.bfloat16
                assert active.weight.item() == pytest.approx(1 - 0.999**n, rel=1e-2)
            assert model.weight.item() == 1.0
    assert policies._weights[AVERAGE]["weight"].item() == pytest.approx(1 - 0.999**1000, rel=1e-4)


def test_average_leaves_the_live_policy_alone():
    """Averaging reads the live weights only."""
    model = nn.Linear(3, 2)
    policies = policies_of(model)
    policies.average(0, 0.5)
    perturb(model, seed=1)
    before = weights(model)
    policies.average(1, 0.5)
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
    reference = REFERENCE if kind == "moved reference" else INITIAL
    with policies.beside(reference) as enter:
        for _ in range(3):
            with enter() as other:
                assert torch.equal(logits(other), expected)
            assert torch.equal(logits(model), live)
    assert same(weights(model), before)
    with policies.active(reference) as other:  # and the kept weights are still what they were
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
    policies.freeze(OLD)
    model.weight.ds_tensor += 10
    model.weight.data += 10
    with policies.active(OLD):
        assert model.weight.ds_tensor.tolist() == [0, 1, 2, 3]
        assert model.weight.tolist() == ([0, 1, 2, 3] if persist else [])
    assert model.weight.ds_tensor.tolist() == [10, 11, 12, 13]
    assert model.weight.tolist() == ([10, 11, 12, 13] if persist else [])


# ---- Files ----


def test_what_is_saved_is_loaded_bitwise(tmp_path):
    """All policies come back under their names with the same bits, and what was there before is gone."""
    model = build_model(build_tokenizer())
    policies = policies_of(model)
    for seed, name in enumerate((INITIAL, OLD, Policy(2, 1), AVERAGE)):
        perturb(model, seed)
        policies.freeze(name)
    policies.save(tmp_path, rank=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "average-00000.safetensors",
        "initial-00000.safetensors",
        "round_2_fit_1-00000.safetensors",
        "round_3-00000.safetensors",
    ]
    other = policies_of(model)
    other.freeze(OLDER)
    other.load(tmp_path, 0, list(policies))
    assert sorted(other._weights) == sorted(policies._weights)
    for name, kept in policies._weights.items():
        assert all(torch.equal(kept[key], other._weights[name][key]) for key in kept)


def test_files_are_safetensors_and_not_pickles(tmp_path):
    """A file is a length, a JSON header and raw numbers: loading it runs no code."""
    policies = policies_of(nn.Linear(2, 2))
    policies.freeze(OLD)
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
    policies.freeze(OLD)
    policies.save(tmp_path / "policies", rank=1)
    assert not (tmp_path / "policies").exists()
    policies.save(tmp_path / "policies", rank=0)
    other = policies_of(model)
    other.load(tmp_path / "policies", 1, [OLD])
    assert torch.equal(other._weights[OLD]["weight"], model.weight)


def test_each_rank_keeps_its_own_shard(tmp_path):
    """With shards every rank writes and reads its own file."""
    for rank in (0, 1):
        model = Shard(persist=False)
        model.weight.ds_tensor += 100 * rank
        policies = policies_of(model)
        policies.freeze(OLD)
        policies.save(tmp_path, rank)
    for rank in (0, 1):
        policies = policies_of(Shard(persist=False))
        policies.load(tmp_path, rank, [OLD])
        assert policies._weights[OLD]["weight"].tolist() == [100 * rank + k for k in range(4)]


def test_nothing_frozen_saves_and_loads(tmp_path):
    """A fresh adapter has no frozen policy at first; its checkpoint loads all the same."""
    policies = policies_of(build_lora(), fresh_adapter=True)
    policies.save(tmp_path / "policies", rank=0)
    policies.load(tmp_path / "policies", 0, [])
    assert policies._weights == {}


@pytest.mark.parametrize("other", [nn.Linear(2, 3), nn.Linear(2, 2, bias=False)])
def test_files_of_another_model_are_refused(tmp_path, other):
    """Other shapes or other names are no policy of this model; the error says what to resume with."""
    policies = policies_of(nn.Linear(2, 2))
    policies.freeze(OLD)
    policies.save(tmp_path, rank=0)
    with pytest.raises(ValueError, match="does not fit this model.*number of processes"):
        policies_of(copy.deepcopy(other)).load(tmp_path, 0, [OLD])


def test_a_policy_that_is_given_up_is_not_kept_for_its_file(tmp_path):
    """Neither behind a save nor behind a load, on a rank that never saves."""
    model = BUILDERS["full"]()
    policies = policies_of(model)
    policies.freeze(OLD)
    policies.save(tmp_path, rank=0)
    for loaded in (False, True):
        if loaded:
            policies.load(tmp_path, 1, [OLD])
        kept = weakref.ref(policies._weights[OLD])
        policies.keep({OLDER}, live=OLDER)
        assert kept() is None


def test_a_policy_whose_file_is_missing_is_named(tmp_path):
    """Before anything is read: other processes may have theirs."""
    policies = policies_of(BUILDERS["full"]())
    policies.freeze(OLD)
    policies.save(tmp_path, rank=0)
    with pytest.raises(ValueError, match="round_6-00000.safetensors is missing: copy the whole checkpoint"):
        policies.load(tmp_path, 1, [OLD, REFERENCE], processes=2)
