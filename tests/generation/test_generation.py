# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Generation: the KV cache, and the distributions that the policy and Nash-MD's opponents are sampled from."""

import pytest
import torch
from helpers import ALGORITHMS, PROMPTS, equal, lora_config, make_trainer, perturb, prompt_dataset, weights
from peft import get_peft_model
from tiny import build_model, build_tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from trl_nash.algorithms import INITIAL, Past, Policy
from trl_nash.kernels.fused_head import FusedHead
from trl_nash.rounds.schedule import Place


NEW_TOKENS = 5


class Cache:
    """Records, for every forward of a generation, the rows, the positions given and those that are cached."""

    scoring = False

    def __init__(self, model):
        self.calls = []
        # The trunk: PEFT calls the models around it without their hooks.
        trunk = (model.get_base_model() if hasattr(model, "get_base_model") else model).model
        trunk.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        if Cache.scoring:
            return
        past = kwargs.get("cache", kwargs.get("past_key_values"))  # its name since transformers 5.24, and before
        rows, given = kwargs["input_ids"].shape
        self.calls.append((rows, given, 0 if past is None else past.get_seq_length()))


@pytest.fixture(autouse=True)
def scoring(monkeypatch):
    """Caches are told of log-probs that are taken, for which models are called, too."""
    log_probs = FusedHead.log_probs

    def told(*args, **kwargs):
        monkeypatch.setattr(Cache, "scoring", True)
        try:
            return log_probs(*args, **kwargs)
        finally:
            monkeypatch.setattr(Cache, "scoring", False)

    monkeypatch.setattr(FusedHead, "log_probs", told)


def never_ends(tokenizer):
    """A tiny model that does not sample <eos>, so that every generation has all its tokens."""
    model = build_model(tokenizer, attention_bias=True)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    with torch.no_grad():
        model.lm_head.bias[tokenizer.eos_token_id] = -1e4
    return model


# ---- The KV cache ----


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_generation_keeps_its_cache(algorithm, checkpointing, lora, tmp_path):
    """
    With gradient checkpointing or without, a generation of n tokens reads W - 1 positions of each prompt once for both
    completions, and then one position at a time, where a generation without cache reads Σ (W + i).
    """
    tokenizer = build_tokenizer(chat=False)
    trainer = make_trainer(
        algorithm,
        tmp_path,
        model=never_ends(tokenizer),
        tokenizer=tokenizer,
        dataset=prompt_dataset(["a b c"] * 4),
        gradient_checkpointing=checkpointing,
        lora=lora,
        max_steps=2 * (2 if algorithm == "onpo-two" else 1),
    )
    cache = Cache(trainer.model)
    trainer.train()
    # The mixture's two policies take turns in the same module; the opponents of "ema" are a generation of their own.
    generation = [(2, 2, 0), *((4, 1, 2 + i) for i in range(NEW_TOKENS))]
    # The reference reads the prompts when it is asked for the first time.
    mixture = [*generation[:2] * 2, *(call for call in generation[2:] for _ in range(2))]
    a_round = generation + {"nash-md": mixture, "nash-ema": generation}.get(algorithm, [])
    assert cache.calls == a_round * 2


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_evaluation_keeps_its_cache(lora, tmp_path):
    """The win rate against the reference generates twice, for policy and reference, both with their cache."""
    tokenizer = build_tokenizer(chat=False)
    trainer = make_trainer(
        "ipo",
        tmp_path,
        model=never_ends(tokenizer),
        tokenizer=tokenizer,
        gradient_checkpointing=True,
        lora=lora,
        extra={"eval_dataset": prompt_dataset(["a b c"] * 2)},
        per_device_eval_batch_size=2,
    )
    cache = Cache(trainer.model)
    trainer.evaluate()
    assert cache.calls == [(2, 2, 0), *((4, 1, 2 + i) for i in range(NEW_TOKENS))] * 2


def test_checkpointing_is_off_in_generation_and_on_in_the_fit(tmp_path):
    """Generation turns gradient checkpointing off for its own time only."""
    trainer = make_trainer("nash-md", tmp_path, gradient_checkpointing=True, max_steps=2)
    layer = trainer.model.model.layers[0]
    seen = {"generate": set(), "score": set(), "fit": set()}

    def watch(module, args, kwargs):
        kind = ("fit" if torch.is_grad_enabled() else "score") if kwargs.get("fused_lm_head") else "generate"
        seen[kind].add(bool(layer.gradient_checkpointing))

    trainer.model.register_forward_pre_hook(watch, with_kwargs=True)
    trainer.train()
    assert seen["generate"] == {False} and seen["fit"] == {True}


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("own_reference", [False, True])
def test_mixture_counts_of_forwards_and_cached_positions(own_reference, count, tmp_path):
    """
    3 prompts of 2, 3 and 4 tokens, K opponents each, 5 tokens: one forward of policy and reference with 3 rows, which
    reads all tokens of the prompts but the last, then 5 each with 3 K rows, which find 3 + i positions in their cache.
    """
    tokenizer = build_tokenizer(chat=False)
    reference = never_ends(tokenizer) if own_reference else None
    trainer = make_trainer(
        "nash-md",
        tmp_path,
        model=never_ends(tokenizer),
        tokenizer=tokenizer,
        extra={"ref_model": reference},
    )
    trainer.policies.ensure_initial()
    own = Cache(trainer.model)
    other = Cache(reference) if own_reference else own
    _, completions = trainer.generate(["a b", "b c d", "f g h a"], count, {INITIAL: 0.3})
    assert [[len(ids) for ids in row] for row in completions] == [[NEW_TOKENS] * count] * 3
    expected = [(3, 3, 0), *((3 * count, 1, 3 + i) for i in range(NEW_TOKENS))]
    if own_reference:
        assert own.calls == other.calls == expected
    else:
        assert own.calls == [*expected[:2] * 2, *(call for call in expected[2:] for _ in range(2))]


# ---- Distributions ----


def gpt2(tokenizer, seed: int = 0) -> GPT2LMHeadModel:
    """A tiny model with learned absolute positions, which shows a wrong position that rotary ones would hide."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=32,
        n_embd=16,
        n_layer=1,
        n_head=2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(20)
    return model


def lora_model(tokenizer):
    torch.manual_seed(3)
    return get_peft_model(build_model(tokenizer), lora_config())


def double_of(build, source=None) -> torch.nn.Module:
    """A model of `build` in fp64, which nothing of trl-nash has touched, with the weights of `source`."""
    model = build()
    if source is not None:
        model.load_state_dict(source.state_dict())
    return model.double().eval()


class Setup:
    """A trainer whose policy has moved away from its reference, and both of them again in fp64, on their own."""

    def __init__(self, kind: str, tmp_path, algorithm: str = "nash-md", **options):
        tokenizer = build_tokenizer(chat=False)
        kwargs = {}
        if kind in ("full", "ref_model", "full, moved reference"):
            build = reference = lambda: build_model(tokenizer)
        elif kind == "gpt2":
            build = reference = lambda: gpt2(tokenizer)
        elif kind in ("lora", "lora, ref_model", "lora, moved reference"):
            build, reference = lambda: lora_model(tokenizer), lambda: build_model(tokenizer)
            kwargs["peft_config"] = lora_config()
        elif kind == "trained lora":
            build = reference = lambda: lora_model(tokenizer)
        model = build_model(tokenizer) if "peft_config" in kwargs else build()
        if kind.endswith("ref_model"):
            reference = lambda: build_model(tokenizer, seed=5, num_hidden_layers=1)  # noqa: E731
            kwargs["extra"] = {"ref_model": reference()}
        if kind == "trained lora":
            perturb(model, seed=11)
        self.trainer = make_trainer(algorithm, tmp_path, model=model, tokenizer=tokenizer, **kwargs, **options)
        if kind == "trained lora":
            self.reference = double_of(reference, self.trainer.model)
        else:
            self.reference = double_of(reference)
        self.trainer.policies.ensure_initial()
        perturb(self.trainer.model, seed=1)
        # In round 7, which looks back to the policy of the start of round 6 where the reference has moved to it.
        moved = kind.endswith("moved reference")
        self.trainer.place, self.trainer.past = Place(6, 0, 0, 0), Past(6, reference_rounds=5 if moved else None)
        if moved:
            self.trainer.policies.freeze(Policy(5))
            self.reference = double_of(build, self.trainer.model)
            perturb(self.trainer.model, seed=2)
        self.policy = double_of(build, self.trainer.model)

    def logps(self, model, prompt: list[int], completion: list[int]) -> torch.Tensor:
        """log π(· | prompt, completion[:t]) at the temperature for every t: one full forward each, without padding."""
        temperature = self.trainer.args.temperature
        with torch.no_grad():
            rows = [
                model(input_ids=torch.tensor([prompt + completion[:t]])).logits[0, -1] for t in range(len(completion))
            ]
        return (torch.stack(rows) / temperature).log_softmax(-1)

    def mixture(self, coef: float, prompt: list[int], completion: list[int]) -> torch.Tensor:
        """π^{1-c} μ^c / Z at every step of a completion, in fp64."""
        mixed = (1 - coef) * self.logps(self.policy, prompt, completion)
        mixed = mixed + coef * self.logps(self.reference, prompt, completion)
        return mixed.log_softmax(-1).exp()


KINDS = [
    "full",
    "ref_model",
    "full, moved reference",
    "gpt2",
    "lora",
    "lora, ref_model",
    "trained lora",
    "lora, moved reference",
]
UNEVEN = ["a", "b c", "f g h a b"]  # one to five tokens: padded on the left by four, three and none


@pytest.fixture
def sampled(monkeypatch):
    """The probabilities that tokens are really drawn from: the argument of every call of `torch.multinomial`."""
    drawn, multinomial = [], torch.multinomial

    def record(probabilities, *args, **kwargs):
        drawn.append(probabilities.clone())
        return multinomial(probabilities, *args, **kwargs)

    monkeypatch.setattr(torch, "multinomial", record)
    return drawn


def assert_sampled_from(drawn, completions, expected):
    """Compares what was drawn from at step t of row r with `expected[r][t]`, as far as the row's completion goes."""
    for row, (completion, truth) in enumerate(zip(completions, expected, strict=True)):
        probabilities = torch.stack([step[row] for step in drawn[: len(completion)]])
        torch.testing.assert_close(probabilities.double(), truth, atol=2e-5, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("coef", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_opponent_is_the_geometric_mixture(kind, coef, temperature, tmp_path, sampled):
    """
    At every step the opponent is drawn from π^{1-c} μ^c / Z, both at the sampling temperature: c = 0 is the policy,
    c = 1 the reference. The truth is an uncached forward of each model alone, in fp64, without padding.
    """
    setup = Setup(kind, tmp_path, mixture_coef=coef, temperature=temperature)
    samples = setup.trainer.sample_pairs(UNEVEN)
    own = [row[:2] for row in samples.completion_ids]
    opponents = [row[2:] for row in samples.completion_ids]
    tokenizer = setup.trainer.processing_class
    assert samples.prompt_ids == [tokenizer(prompt)["input_ids"] for prompt in UNEVEN]

    # A generation goes on until its longest completion ends: first the policy's own, then the opponents'.
    steps = max(len(ids) for row in own for ids in row)
    rows = [(b, k) for b in range(3) for k in range(2)]
    for drawn, completions, weight in [(sampled[:steps], own, 0.0), (sampled[steps:], opponents, coef)]:
        expected = [setup.mixture(weight, samples.prompt_ids[b], completions[b][k]) for b, k in rows]
        assert_sampled_from(drawn, [completions[b][k] for b, k in rows], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_policy_and_reference_are_really_different(kind, tmp_path):
    """The comparison above can fail: policy, mixture and reference differ by more than .1 in some probability."""
    setup = Setup(kind, tmp_path)
    prompt = setup.trainer.processing_class("f g h a b")["input_ids"]
    policy, mixture, reference = (setup.mixture(coef, prompt, [5, 6, 7]) for coef in (0.0, 0.5, 1.0))
    assert (policy - reference).abs().max() > 0.1
    assert (policy - mixture).abs().max() > 0.05 and (mixture - reference).abs().max() > 0.05


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_mixture_leaves_the_policy_alone(kind, tmp_path):
    """Sampling opponents changes no weight, bitwise, and gradient flow is as before."""
    setup = Setup(kind, tmp_path)
    before = weights(setup.trainer.model)
    trainable = [p.requires_grad for p in setup.trainer.model.parameters()]
    setup.trainer.sample_pairs(UNEVEN)
    assert equal(weights(setup.trainer.model), before)
    assert [p.requires_grad for p in setup.trainer.model.parameters()] == trainable


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_ema_opponent_has_the_averaged_weights(kind, tmp_path, sampled):
    """Nash-EMA's opponent is the model whose weights are d θ_0 + (1 - d) θ_1, with d = .25."""
    setup = Setup(kind, tmp_path, algorithm="nash-ema", ema_decay=0.25)
    trainer = setup.trainer
    start = weights(trainer.model)
    trainer._begin_round()  # as the first round does: the average is θ_0
    perturb(trainer.model, seed=4)
    trainer.place = Place(7, 0, 0, 0)
    trainer._begin_round()
    now = trainer.model.state_dict()
    setup.policy.load_state_dict({name: 0.25 * start[name].double() + 0.75 * now[name].double() for name in start})
    samples = trainer.sample_pairs(UNEVEN)
    steps = max(len(ids) for row in samples.completion_ids for ids in row[:2])
    rows = [(b, 2 + k) for b in range(3) for k in range(2)]
    completions = [samples.completion_ids[b][k] for b, k in rows]
    expected = [setup.mixture(0.0, samples.prompt_ids[b], samples.completion_ids[b][k]) for b, k in rows]
    assert_sampled_from(sampled[steps:], completions, expected)


def test_mixture_coef_follows_the_epoch(tmp_path, sampled):
    """`mixture_coef=[1, 0.3]` mixes with 1 in the first epoch and .3 in the second."""
    setup = Setup("full", tmp_path, mixture_coef=[1.0, 0.3])
    for epoch, coef in enumerate([1.0, 0.3, 0.3]):
        setup.trainer.past = Past(6, epoch=epoch)
        sampled.clear()
        samples = setup.trainer.sample_pairs(UNEVEN)
        steps = max(len(ids) for row in samples.completion_ids for ids in row[:2])
        rows = [(b, 2 + k) for b in range(3) for k in range(2)]
        expected = [setup.mixture(coef, samples.prompt_ids[b], samples.completion_ids[b][k]) for b, k in rows]
        assert_sampled_from(sampled[steps:], [samples.completion_ids[b][k] for b, k in rows], expected)


@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
def test_completions_end_with_the_first_eos(algorithm, tmp_path):
    """An <eos> is the last token of its completion, and is trained on; without one a completion has all its tokens."""
    trainer = make_trainer(algorithm, tmp_path, num_generations=4)
    trainer.policies.ensure_initial()
    eos = trainer.processing_class.eos_token_id
    ended = 0
    for _ in range(4):
        for row in trainer.sample_pairs(PROMPTS).completion_ids:
            for ids in row:
                assert eos not in ids[:-1] and 1 <= len(ids) <= NEW_TOKENS
                assert ids[-1] == eos or len(ids) == NEW_TOKENS
                ended += ids[-1] == eos
    assert ended > 0
