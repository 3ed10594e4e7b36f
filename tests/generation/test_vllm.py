# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`use_vllm=True` through OnlineDPOTrainer's own code, with engines that have vLLM's call signatures and no GPU."""

import math
import os
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
import trl.experimental.online_dpo.online_dpo_trainer as online_dpo
from helpers import (
    CountingJudge,
    equal,
    make_config,
    make_trainer,
    prompt_dataset,
    weights,
)
from tiny import build_tokenizer
from transformers import PreTrainedTokenizerFast


# The algorithms whose own samples vLLM can draw.
WITH_VLLM = ["ipo", "onpo-one", "onpo-two", "comal", "self-play"]
NUMBERS = ["one", "two", "three", "yes", "no", "user"]


class SamplingParams:
    """vLLM's class: whatever it is given becomes an attribute."""

    def __init__(self, n=1, max_tokens=16, temperature=1.0, **options):
        self.n, self.max_tokens, self.temperature = n, max_tokens, temperature
        self.options = options


class Engine:
    """
    Answers sample s of a prompt whose last word is p with the tokens of `p NUMBERS[s] <eos>`.

    s counts the samples of that prompt since the last change of weights, so that repeated prompts get fresh samples.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        self.weights: dict[str, torch.Tensor] = {}
        self.requests: list[list[str]] = []
        self.syncs = 0

    def load(self, name: str, weight: torch.Tensor) -> None:
        self.weights[name] = weight.detach().clone()

    def answers(self, prompts: list[str], n: int) -> list[list[list[int]]]:
        self.requests.append(list(prompts))
        drawn: dict[str, int] = {}
        rows = []
        for prompt in prompts:
            word = [w for w in prompt.split() if not w.startswith("<") and w != "assistant"][-1]
            first = drawn.get(prompt, 0)
            drawn[prompt] = first + n
            rows.append([self.encode(f"{word} {NUMBERS[s]} <eos>") for s in range(first, first + n)])
        return rows

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


class LLM(Engine):
    """vLLM's offline engine, for `vllm_mode="colocate"`."""

    last: "LLM"

    def __init__(self, model, max_model_len, seed, **options):
        super().__init__(self.tokenizer_of_test)
        LLM.last = self
        self.options = options
        worker = SimpleNamespace(model_runner=SimpleNamespace(model=self))
        self.llm_engine = SimpleNamespace(model_executor=SimpleNamespace(driver_worker=worker))

    def load_weights(self, pairs):
        for name, weight in pairs:
            self.load(name, weight)

    def reset_prefix_cache(self):
        self.syncs += 1

    def generate(self, prompts, sampling_params, use_tqdm=True):
        self.sampling = sampling_params
        return [
            SimpleNamespace(
                prompt_token_ids=self.tokenizer(prompt)["input_ids"],  # vLLM adds the tokenizer's special tokens
                outputs=[SimpleNamespace(token_ids=tuple(ids)) for ids in rows],
            )
            for prompt, rows in zip(prompts, self.answers(prompts, sampling_params.n), strict=True)
        ]


class VLLMClient(Engine):
    """TRL's client of `trl vllm-serve`, for `vllm_mode="server"`: completions come prompt by prompt."""

    last: "VLLMClient"

    def __init__(self, base_url=None, group_port=51216, connection_timeout=0.0):
        super().__init__(LLM.tokenizer_of_test)
        VLLMClient.last = self

    def init_communicator(self, device):
        self.device = device

    @contextmanager
    def weight_update(self):
        yield

    def update_named_param(self, name, weights):
        self.load(name, weights)

    def reset_prefix_cache(self):
        self.syncs += 1

    def generate(self, prompts, n=1, max_tokens=16, **sampling):
        self.sampling = SamplingParams(n=n, max_tokens=max_tokens, **sampling)
        rows = self.answers(prompts, n)
        return {
            "prompt_ids": [self.encode(p) for p in prompts],
            "completion_ids": [ids for group in rows for ids in group],
        }


@pytest.fixture
def vllm(monkeypatch):
    """Puts the engines where OnlineDPOTrainer imports vLLM's; returns a way to build trainers over them."""
    monkeypatch.setattr(online_dpo, "is_vllm_available", lambda *args, **kwargs: True)
    monkeypatch.setattr(online_dpo, "LLM", LLM, raising=False)
    monkeypatch.setattr(online_dpo, "SamplingParams", SamplingParams, raising=False)
    monkeypatch.setattr(online_dpo, "VLLMClient", VLLMClient)
    environment = dict(os.environ)

    def build(algorithm, output_dir, mode, tokenizer=None, **options):
        LLM.tokenizer_of_test = tokenizer or build_tokenizer()
        if algorithm == "self-play":
            algorithm, options = "nash-md", {"mixture_coef": 0.0} | options
        with monkeypatch.context() as patch:
            # The server's client is told the number of the current device.
            patch.setattr(torch.accelerator, "current_accelerator", lambda *args, **kwargs: torch.device("cpu"))
            patch.setattr(torch.cpu, "current_device", lambda: 0)
            return make_trainer(
                algorithm,
                output_dir,
                tokenizer=LLM.tokenizer_of_test,
                use_vllm=True,
                vllm_mode=mode,
                **{"max_new_tokens": 4} | options,
            )

    yield build
    # What the base puts into the environment for vLLM (RANK, WORLD_SIZE ...) must not reach other tests.
    os.environ.clear()
    os.environ.update(environment)


def prefers_late_samples(prompts, first, second):
    """P(first ≻ second) = sigmoid of how much later a sample the first is."""
    ranks = [[NUMBERS.index(text.split()[1]) for text in texts] for texts in (first, second)]
    return [1 / (1 + math.exp(j - i)) for i, j in zip(*ranks, strict=True)]


def engine_of(trainer) -> Engine:
    return trainer.llm if trainer.vllm_mode == "colocate" else trainer.vllm_client


@pytest.mark.parametrize("mode", ["colocate", "server"])
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_completions_belong_to_their_prompts(count, mode, vllm, tmp_path):
    """
    Sample s of the prompt that ends with p is "p NUMBERS[s]": every prompt gets K samples of its own, each once, from
    ceil(K / 2) repeats of the prompts at two samples each. (In server mode they were shuffled for months: trl#5514.)
    """
    trainer = vllm("ipo", tmp_path, mode, num_generations=count)
    prompts = ["a", "b c", "d e f"]
    prompt_ids, completion_ids = trainer.generate(prompts, count)
    engine = engine_of(trainer)
    assert prompt_ids == [engine.encode(prompt) for prompt in prompts]
    expected = [[f"{prompt.split()[-1]} {NUMBERS[s]} <eos>" for s in range(count)] for prompt in prompts]
    texts = [[trainer._tokenizer.decode(ids) for ids in group] for group in completion_ids]
    assert [sorted(group, key=lambda text: NUMBERS.index(text.split()[1])) for group in texts] == expected
    assert engine.requests == [prompts * -(-count // 2)]
    assert engine.sampling.n == 2 and engine.sampling.max_tokens == 4 and engine.sampling.temperature == 1.0


@pytest.mark.parametrize("count, said", [(2, False), (3, True), (4, False), (5, True)])
def test_an_odd_number_of_completions_leaves_one_over(count, said, vllm, tmp_path, caplog):
    """The engine samples in twos, and that there is a surplus is said once a run."""
    trainer = vllm("ipo", tmp_path, "colocate", num_generations=count, max_steps=2)
    with caplog.at_level("INFO", logger="trl_nash"):
        trainer.train()
    messages = [entry.message for entry in caplog.records if "sampled in twos" in entry.message]
    assert len(messages) == said and all(f"of {count + 1} per prompt, {count} are used" in text for text in messages)


@pytest.mark.parametrize("mode", ["colocate", "server"])
@pytest.mark.parametrize("algorithm", WITH_VLLM)
def test_training_with_vllm(algorithm, mode, vllm, tmp_path):
    """A run trains, judges what the engine said beside the right prompt, and `num_generations` of the base stays 2."""
    judge = CountingJudge(prefers_late_samples)
    trainer = vllm(algorithm, tmp_path, mode, judge=judge, num_generations=4, max_steps=3)
    start = weights(trainer.model)
    trainer.train()
    assert trainer.num_generations == 2 and trainer.args.num_generations == 4
    assert not equal(weights(trainer.model), start)
    assert judge.calls
    for call in judge.calls:
        for prompt, first, second in zip(call["prompts"], call["first"], call["second"], strict=True):
            assert first.split()[0] == second.split()[0] == prompt.split()[-1]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_the_engine_samples_from_the_policy_as_it_is(mode, lora, vllm, tmp_path):
    """Before each round after a step the engine has the policy's weights, an adapter merged into them."""
    trainer = vllm("ipo", tmp_path, mode, lora=lora, max_steps=3)
    seen = []
    generate = trainer.sampler._vllm

    def compare(prompts):
        rows = generate(prompts)
        seen.append(trainer.state.global_step)
        engine = engine_of(trainer)
        if lora:
            trainer.model.merge_adapter()
        live = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): p.detach().clone()
            for name, p in trainer.model.named_parameters()
            if "lora_" not in name
        }
        if lora:
            trainer.model.unmerge_adapter()
        assert engine.weights.keys() == live.keys()
        assert all(torch.allclose(engine.weights[name], live[name], atol=1e-6) for name in live)
        return rows

    trainer.sampler._vllm = compare
    trainer.train()
    assert seen == [0, 1, 2] and engine_of(trainer).syncs == 3


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_end_of_sequence_is_kept_and_what_follows_is_not(mode, vllm, tmp_path):
    """A completion ends with its first end of sequence, one without is as long as `max_new_tokens` and "clipped"."""
    trainer = vllm("ipo", tmp_path, mode)
    eos = trainer._tokenizer.eos_token_id
    drawn = [[[6, eos, 7], [6, 7, 8, 9]], [[eos], [7, 8, 9, eos]]]
    engine_of(trainer).answers = lambda prompts, n: drawn
    _, completion_ids = trainer.generate(["a", "b"], 2)
    assert completion_ids == [[[6, eos], [6, 7, 8, 9]], [[eos], [7, 8, 9, eos]]]


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_conversations_reach_the_engine_as_rendered_text(mode, vllm, tmp_path):
    """The engine gets the chat template's text, with the header that the assistant's answer follows."""
    prompt = [{"role": "user", "content": "a b"}]
    trainer = vllm("ipo", tmp_path, mode, dataset=prompt_dataset([prompt] * 4))
    trainer.generate([prompt], 2)
    assert engine_of(trainer).requests == [["<|im_start|>user a b <eos> <|im_start|>assistant "]]


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_long_prompts_are_cut_for_the_engine_too(mode, vllm, tmp_path):
    """A prompt of 6 tokens with max_length - max_new_tokens = 8 - 4 reaches the engine as its last 4."""
    trainer = vllm("ipo", tmp_path, mode, max_length=8)
    prompt_ids, _ = trainer.generate(["a b c d e f"], 2)
    assert engine_of(trainer).requests == [["c d e f"]]
    assert prompt_ids == [engine_of(trainer).encode("c d e f")]


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_evaluation_with_vllm(mode, vllm, tmp_path):
    """The policy's completions come from the engine, the reference's from transformers; all metrics are there."""
    evaluation = prompt_dataset(["a", "b c", "d"])
    trainer = vllm("ipo", tmp_path, mode, extra={"eval_dataset": evaluation}, max_steps=1)
    trainer.evaluate()
    trainer.train()
    metrics = trainer.evaluate()
    assert engine_of(trainer).requests[-2:] == [["b c", "a"], ["d"]]  # in chunks of two prompts, the longest first
    assert metrics["eval_completions/mean_length"] == 3  # "p NUMBERS[s] <eos>"
    assert 0 <= metrics["eval_policy/win_rate_reference"] <= 1
    assert metrics["eval_completions/mean_length_reference"] <= 4


@pytest.mark.parametrize("mode", ["colocate", "server"])
def test_prompt_begins_with_one_bos(mode, vllm, tmp_path):
    """With a tokenizer that adds BOS, the engine and the loss see the same prompt, with one BOS."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(bos_token="<bos>")
    bos = tokenizer.convert_tokens_to_ids("<bos>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    trainer = vllm("ipo", tmp_path, mode, tokenizer=tokenizer)
    prompt_ids, _ = trainer.generate(["a b"], 2)
    sampled_from = tokenizer(engine_of(trainer).requests[0][0])["input_ids"]  # as vLLM tokenises a text
    assert sampled_from == prompt_ids[0] == [bos, *tokenizer("a b", add_special_tokens=False)["input_ids"]]


@pytest.mark.parametrize("options", [{}, {"mixture_coef": 1.0}, {"mixture_coef": [0.0, 0.5]}, {"opponent": "ema"}])
def test_opponents_that_vllm_cannot_sample_are_refused(options, tmp_path):
    """`use_vllm` with Nash-MD's mixture or average raises when the config is built, and says what to do."""
    with pytest.raises(ValueError, match="leave `use_vllm` out, or set `mixture_coef=0`"):
        make_config("nash-md" if "opponent" not in options else "nash-ema", tmp_path, use_vllm=True, **options)


def test_vllm_that_is_not_installed_is_an_import_error_with_the_pip_line(tmp_path, monkeypatch):
    """Without vLLM the base says how to install it."""
    monkeypatch.setattr(online_dpo, "is_vllm_available", lambda *args, **kwargs: False)
    with pytest.raises(ImportError, match=r"pip install trl\[vllm\]"):
        make_trainer("ipo", tmp_path, use_vllm=True)
