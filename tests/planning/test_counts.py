# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `trl-nash plan` counts, against transformers, the trainers and PyTorch's counter."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

import trl_nash
from trl_nash.cli import plan
from trl_nash.cli.main import main
from trl_nash.cli.plan.options import ALGORITHMS, OWN
from trl_nash.compat import ModelConfig
from trl_nash.generation.plain import generate_plainly
from trl_nash.kernels.schedule import Projection
from trl_nash.planning.costs import flop as plan_flop
from trl_nash.planning.costs import memory as plan_memory
from trl_nash.planning.costs import time as plan_time
from trl_nash.planning.costs.bytes import shares_prompts
from trl_nash.planning.costs.time import DEVICES, Speed
from trl_nash.planning.known import STRATEGIES
from trl_nash.planning.model import sizes_by_hand, sizes_from_config
from trl_nash.planning.run import Run
from trl_nash.planning.run.lengths import longest
from trl_nash.policies import cache_name


SMALL = {"vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = SMALL | {"intermediate_size": 160, "num_key_value_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**LLAMA),
    "llama, tied": LlamaConfig(**LLAMA, tie_word_embeddings=True),
    "llama, biases, wide heads": LlamaConfig(**LLAMA, attention_bias=True, mlp_bias=True, head_dim=32),
    "qwen2": Qwen2Config(**LLAMA),
    "qwen3": Qwen3Config(**LLAMA, head_dim=16),
    "phi": PhiConfig(**SMALL, intermediate_size=160),
    "mixtral": MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2),
    "gpt2": GPT2Config(vocab_size=500, n_embd=64, n_layer=3, n_head=4),
}
SEVEN_B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32}


def planned(*argv: str, capsys) -> list[dict]:
    assert main(["plan", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


# ---- The model ----


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_model(name):
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    sizes = sizes_from_config(CONFIGS[name], name)
    assert sizes.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sorted(sizes.tensors) == sorted(parameter.numel() for parameter in model.parameters())


def test_sizes_by_hand_are_those_of_a_llama():
    by_hand = sizes_by_hand(None, **LLAMA)
    counted = sizes_from_config(CONFIGS["llama"], by_hand.name)
    order = sorted(counted.linears)
    assert replace(counted, linears=tuple(order), others=by_hand.others) == replace(
        by_hand, linears=tuple(sorted(by_hand.linears))
    )
    assert sorted(counted.others) == sorted(by_hand.others)
    llama_2 = sizes_by_hand(None, **SEVEN_B, intermediate_size=11008, vocab_size=32000)
    assert llama_2.parameters == 6_738_415_616  # Llama-2-7B
    eight = {**SEVEN_B, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}
    assert sizes_by_hand(None, **eight).parameters == 8_030_261_248  # Llama-3.1-8B


@pytest.mark.parametrize("parameters", [5e8, 1e9, 7e9, 13e9, 70e9, 405e9])
def test_a_number_of_parameters_is_enough(parameters):
    assert sizes_by_hand(int(parameters)).parameters == pytest.approx(parameters, rel=1e-2)


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["all-linear"]])
def test_adapters_are_those_of_peft(targets):
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"])
    names = "all-linear" if targets == ["all-linear"] else targets
    adapter = get_peft_model(model, LoraConfig(r=4, target_modules=names, task_type="CAUSAL_LM"))
    trained = sorted(p.numel() for p in adapter.parameters() if p.requires_grad)
    run = Run(use_peft=True, lora_r=4, lora_target_modules=tuple(targets))
    assert sorted(plan_memory.adapter_tensors(sizes_from_config(CONFIGS["qwen2"], "x"), run)) == trained


# ---- The run ----


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_defaults_are_the_training_commands(algorithm):
    name = "PairConfig" if algorithm == "iterative-ipo" else trl_nash.cli.options.typed.ALGORITHMS[algorithm].config
    config = getattr(trl_nash, name)
    theirs = {}
    for field in [*dataclasses.fields(ModelConfig), *dataclasses.fields(config)]:
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name == "history_weights":
            default = tuple(default)
        theirs[field.name] = default[0] if isinstance(default, list) and default else default
    options = plan._parse([algorithm, "--parameters", "1B"])
    (run,) = plan.check(options)
    ours = {**vars(options), **dataclasses.asdict(run)}
    ours["steps_per_generation"] = ours["bf16"] = ours["max_steps"] = None  # resolved, or by hardware
    theirs["max_steps"] = None  # -1: by epochs
    shared = theirs.keys() & vars(options).keys() - {"judge", "dtype"}
    assert len(shared) > 25
    own = {option for option, users in OWN.items() if algorithm not in users}
    assert {name: ours[name] for name in shared - own} == {name: theirs[name] for name in shared - own}
    assert ours["dtype"] == theirs["dtype"]


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        (["comal"], 5 * 4 // 2 * 2),
        (["comal", "--judge", "reward:org/model"], 5),
        (["comal", "--judge", "openai:m", "--judge_kwargs", '{"order": "random"}'], 10),
        (["onpo", "--num_generations", "8", "--pair_selection", "tournament"], 22),
        (["onpo", "--num_generations", "7", "--pair_selection", "iid"], 6),
        (["onpo", "--num_generations", "4", "--pair_selection", "best_worst"], 12),
        (["onpo", "--num_generations", "8", "--pair_selection", "swiss"], 24),
        (["onpo", "--num_generations", "8", "--pair_selection", "elimination"], 26),
        (["onpo", "--num_generations", "8", "--pair_selection", "circular"], 16),
        (["onpo", "--num_generations", "8", "--pair_selection", "active", "--pairs_per_prompt", "7"], 14),
        (["onpo", "--num_generations", "8", "--judge", "openai-group:m"], 2),
        (["nash-md", "--num_generations", "3"], 18),
        (["nash-md", "--num_generations", "3", "--reward_model_path", "org/model"], 6),
        (["egpo", "--num_generations", "3"], 2 * 3 * 2),  # sampled twice
        (["nash-mp", "--num_generations", "3", "--reward_model_path", "org/model"], 6),
        (["nash-prox", "--num_generations", "3"], 18),
    ],
)
def test_judge_calls(options, calls, capsys):
    (found,) = planned(*options, "--parameters=1B", "--rounds=3", "--steps_per_generation=1", capsys=capsys)
    assert found["a_round"]["judge_calls"] == calls * 8  # prompts
    assert found["in_all"]["judge_calls"] == calls * 8 * 3


def test_tokens_by_hand(capsys):
    argv = "comal --parameters 1B --devices 2 --per_device_train_batch_size 4 --generation_batch_size 64 --rounds 8"
    argv += " --num_iterations 2 --prompt_length 100 --completion_length 50 --test_split_size 0"
    (found,) = planned(*argv.split(), capsys=capsys)
    assert found["a_round"]["prompts"] == 64
    assert found["a_round"]["tokens_generated"] == 64 * 5 * 50
    rows = 64 * 5 * 150
    assert found["a_round"]["tokens_trained"] == 2 * rows
    # Of 8 micro-steps one comes before the first optimizer step. In the first round the policy is the start; in the
    # seventh it is the reference, which has moved; the start is then scored on one micro-batch, for a metric alone.
    assert found["in_all"]["tokens_scored"] == rows * (7 / 8 + 5 * (1 + 7 / 8) + (7 / 8 + 1 / 8) + (1 + 7 / 8 + 1 / 8))


@pytest.mark.parametrize(
    ("run", "kept"),
    [
        (Run(algorithm="iterative-ipo"), 1),
        (Run(algorithm="comal", rounds=6, reference_rounds=6), 1),  # the reference has not moved
        (Run(algorithm="comal", rounds=7, reference_rounds=6), 2),
        (Run(algorithm="comal", rounds=7, reference_rounds=6, use_peft=True), 1),
        (Run(rounds=2), 2),  # the first of the past policies is the start
        (Run(rounds=20, anchor_history=3), 3),  # the third is the live one, which the next round names
        (Run(rounds=20, fits="two"), 2),
        (Run(algorithm="nash-md", use_peft=True), 0),
        (Run(algorithm="nash-md", opponent="ema"), 2),
        (Run(algorithm="inpo"), 1),
        (Run(algorithm="egpo"), 2),  # the policy at the start of the round, for its second fit
        (Run(algorithm="egpo", use_peft=True), 1),
        (Run(algorithm="mnpo", history_weights=(0.5, 0.25, 0.25)), 3),
        (Run(algorithm="nash-prox", reference_rounds=3), 2),
        (Run(algorithm="sppo"), 1),
    ],
)
def test_frozen_policies_that_are_kept(run, kept):
    assert run.kept() == kept


# ---- FLOP ----


def counted(function) -> int:
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **kwargs: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3", "phi"])
@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_flop_of_a_step_is_near_pytorchs_count(name, lora, checkpoints):
    config = CONFIGS[name]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    sizes = sizes_from_config(config, name)
    run = Run(use_peft=lora, lora_r=4, lora_target_modules=("all-linear",), gradient_checkpointing=checkpoints)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        model.enable_input_require_grads()
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    trunk, ids = model.get_base_model().model if lora else model.model, torch.randint(0, 500, (4, 96))
    head = plan_flop.head_flop(sizes, 4 * 32, plan_flop.head_products(sizes, run))
    expected = plan_flop.fit_flop(sizes, run, rows=4, prompt=64, completion=32) - head
    # Eager attention keeps its matrix; fused kernels make it again, two products of the forward once more.
    expected -= plan_flop.attention_flop(sizes, plan_flop.positions(sizes, run, 4, 64, 32)[1]) / 2

    def step():
        if not shares_prompts(sizes, run):
            output = trunk(input_ids=ids, use_cache=False)
        else:  # two prompts with two completions each
            prompts = trunk(input_ids=ids[:2, :64], use_cache=True)
            cache = prompts[cache_name(trunk)]
            cache.reorder_cache(torch.tensor([0, 0, 1, 1]))
            output = trunk(input_ids=ids[:, :31], use_cache=True, **{cache_name(trunk): cache})
        # Completions begin from what comes of their prompts.
        extra = prompts.last_hidden_state.sum() if shares_prompts(sizes, run) else 0.0
        (output.last_hidden_state.sum() + extra).backward()

    found = counted(step)
    assert expected == pytest.approx(found, rel=0.01)


def test_flop_of_the_head_is_pytorchs_count():
    sizes = sizes_from_config(CONFIGS["llama"], "llama")
    hidden, weight = torch.ones(32, 64), torch.full((500, 64), 0.01)  # no token so improbable that it is done again
    head = Projection([hidden], [weight], None, torch.randint(0, 500, (32,)), 1.0, None, 1.0, 16, 128)

    def step(stash_rows: int):
        scores = head.forward(gradient=True, stash_rows=stash_rows, statistics=False)
        head.weight_gradients(torch.ones(32), scores.anchor, scores.target_entry, scores.stash, [True, False])

    frozen = Run(use_peft=True)
    on_cpu = Run(strategy="cpu")
    for function, products in (
        (lambda: head.forward(gradient=False, stash_rows=0, statistics=False), 1),
        (lambda: head.forward(gradient=True, stash_rows=0, statistics=False), plan_flop.head_products(sizes, frozen)),
        (lambda: step(32), plan_flop.head_products(sizes, Run())),
        (lambda: step(0), plan_flop.head_products(sizes, on_cpu)),
    ):
        assert counted(function) == plan_flop.head_flop(sizes, 32, products)


def test_flop_of_generation_is_near_pytorchs_count():
    """Two prompts of which three completions each are sampled: the prompts are read once."""
    config = CONFIGS["llama"]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    sizes = sizes_from_config(config, "llama")
    run = Run(max_length=160, max_new_tokens=32, num_generations=3)
    how = GenerationConfig(max_new_tokens=32, min_new_tokens=32, pad_token_id=0, use_cache=True)
    ids = torch.randint(3, 500, (2, 128)).tolist()
    found = counted(lambda: generate_plainly(model, how, torch.device("cpu"), ids, 3))
    assert plan_flop.generation_flop(sizes, run, rows=6) == pytest.approx(found, rel=0.02)


@pytest.mark.parametrize(("mean", "rows"), [(20, 2), (20, 16), (50, 2), (50, 256), (90, 16)])
def test_the_longest_of_a_call_is_that_of_draws(mean, rows):
    draws = np.random.default_rng(0)
    scales = np.linspace(5, 2000, 20000)
    scale = scales[np.argmin(abs(scales * (1 - np.exp(-100 / scales)) - mean))]
    lengths = np.minimum(draws.exponential(scale, (20000, rows)), 100)
    assert lengths.mean() == pytest.approx(mean, rel=0.02)
    assert longest(mean, 100, rows) == pytest.approx(lengths.max(1).mean(), rel=0.02)


def test_generate_waits_for_the_longest_and_vllm_for_nobody():
    model, device, speed = sizes_by_hand(int(1e9)), DEVICES["H100"], Speed()
    run = Run(max_length=1124, max_new_tokens=1024, completion_length=100, num_generations=8)
    short = replace(run, max_length=200, max_new_tokens=100, prompt_length=100)

    def seconds(run):
        return plan_time.generation_seconds(model, run, device, speed)

    assert 4 < seconds(run) / seconds(short) < 5  # of 64 rows; the harmonic number is 4.74
    vllm = [replace(one, use_vllm=True) for one in (run, short)]
    assert seconds(vllm[0]) == pytest.approx(seconds(vllm[1]))


def test_time_by_hand():
    """One device, 4 prompts of 2 completions, decoded in one call: everything from the numbers of a data sheet."""
    model = sizes_by_hand(None, **SEVEN_B, intermediate_size=11008, vocab_size=32000)
    run = Run(per_device_train_batch_size=4, max_length=300, max_new_tokens=100, dtype="bfloat16")
    device, speed = DEVICES["H100"], Speed(layer_overhead=0.0)
    read = 2 * 6_738_415_616 + 8 * 250 * (2 * 32 * 4096 * 2)  # weights, and keys and values of 8 rows half-way
    # All but the last token of each prompt, once for both completions.
    prefill = (2 * 4 * 199 * model.trunk + 4 * 32 * 4 * 199 * 199 * 4096) / (989e12 * 0.45)
    seconds = plan_time.generation_seconds(model, run, device, speed)
    assert seconds == pytest.approx(prefill + 100 * read / (3350e9 * 0.6))
    slow = plan_time.generation_seconds(model, run, device, Speed())
    assert slow == pytest.approx(prefill + 100 * 32 * 0.8e-3)
    parts = plan_time.round_seconds(model, run, device, speed, scorings=2)
    flop = plan_flop.round_flop(model, run, 2)
    assert parts["fit"] == pytest.approx(flop["fit"] / (989e12 * 0.35))
    assert parts["scoring"] == pytest.approx(flop["scoring"] / (989e12 * 0.45))
    asked = plan_time.round_seconds(model, replace(run, judge="openai"), device, speed, 2)
    assert asked["judge"] == pytest.approx(4 * 2 / 10)


# ---- Memory ----


def test_strategies_divide_what_they_say():
    """7B in bf16: 2 bytes a weight and a gradient, under ZeRO 4 + 4 + 8 for the optimizer, FSDP2 4 + 4 + 8."""
    model = sizes_by_hand(int(7e9))
    count = model.parameters

    def parts(strategy, **options):
        run = Run(strategy=strategy, num_processes=4, **options)
        kept = (plan_memory.weights, plan_memory.gradients, plan_memory.optimizer_states)
        return [part(model, run) / count for part in kept]

    assert parts("ddp") == pytest.approx([4, 4, 8])
    assert parts("ddp", dtype="bfloat16") == pytest.approx([2, 2, 4])
    assert parts("zero1") == pytest.approx([2, 2, 4])
    assert parts("zero2") == pytest.approx([2, 0.5, 4])
    assert parts("zero3") == pytest.approx([0.5, 0.5, 4])
    assert parts("fsdp2") == pytest.approx([1, 1, 2])
    quantised = parts("ddp", use_peft=True, load_in_4bit=True)
    assert 0.5625 < quantised[0] < 0.9  # NF4 with a scale for 64 weights, and embeddings in bf16


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_processes_of_a_machine_keep_a_frozen_policy_once(strategy):
    """In shards, or as one copy that they share."""
    model = sizes_by_hand(int(1e9))
    host = plan_memory.memory(model, Run(algorithm="comal", precision="fp32", num_processes=4, strategy=strategy)).host
    assert 4 * host["frozen policies"] == pytest.approx(2 * 4 * model.parameters)


def test_only_the_mixture_puts_a_frozen_policy_on_the_device():
    model = sizes_by_hand(int(1e9))
    full = plan_memory.memory(model, Run(algorithm="nash-md")).sampling
    assert full["frozen policy beside it"] == 4 * model.parameters
    for run in (
        Run(algorithm="nash-md", use_peft=True),
        Run(algorithm="nash-md", mixture_coef=0.0),
        Run(algorithm="nash-md", opponent="ema"),
        Run(algorithm="comal", rounds=50),
    ):
        assert "frozen policy beside it" not in plan_memory.memory(model, run).sampling
