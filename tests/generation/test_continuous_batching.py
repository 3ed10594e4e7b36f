# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sampling through transformers' continuous batching, which runs here as it does on a GPU."""

import math

import pytest
import torch
from helpers import make_config, make_trainer, prompt_dataset, weights
from tiny import build_model, build_tokenizer
from transformers.generation import ContinuousBatchingConfig

from trl_nash.algorithms import INITIAL
from trl_nash.generation import continuous


# Few blocks, so that most rows have to wait for others to end.
CONTINUOUS = {
    "use_transformers_continuous_batching": True,
    "transformers_continuous_batching_config": {"num_blocks": 16, "page_size": 8, "max_batch_tokens": 32},
}
PROMPTS = ["a", "b c", "c d e f g h", "d e f"]


@pytest.mark.parametrize(
    ("temperature", "lora"),
    [
        pytest.param(0.7, False, id="0.7-full", marks=pytest.mark.slow),
        pytest.param(0.7, True, id="0.7-lora", marks=pytest.mark.slow),
        pytest.param(1.3, False, id="1.3-full", marks=pytest.mark.slow),
        pytest.param(1.3, True, id="1.3-lora"),
    ],
)
def test_tokens_are_drawn_from_the_policy(temperature, lora, tmp_path):
    """The first and the second token of 4,000 completions have the policy's own frequencies, within 5 deviations."""
    tokenizer = build_tokenizer(chat=False)
    trainer = make_trainer(
        "ipo", tmp_path, tokenizer=tokenizer, lora=lora, temperature=temperature, max_new_tokens=3, **CONTINUOUS
    )
    perturb_adapter(trainer.model)
    torch.manual_seed(0)
    prompt_ids, completions = trainer.generate(PROMPTS[:2], 2000)
    for ids, rows in zip(prompt_ids, completions, strict=True):
        assert len(rows) == 2000 and all(1 <= len(row) <= 3 for row in rows)
        assert_frequencies(trainer.model, ids, [row[0] for row in rows], temperature)
        common = max(range(len(tokenizer)), key=lambda token: sum(r[0] == token and len(r) > 1 for r in rows))
        seconds = [row[1] for row in rows if row[0] == common and len(row) > 1]
        assert len(seconds) > 200
        assert_frequencies(trainer.model, [*ids, common], seconds, temperature)


def perturb_adapter(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def assert_frequencies(model, context: list[int], tokens: list[int], temperature: float) -> None:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([context])).logits[0, -1]
    expected = (logits.double() / temperature).softmax(-1)
    found = torch.bincount(torch.tensor(tokens), minlength=len(expected)) / len(tokens)
    deviation = (expected * (1 - expected) / len(tokens)).sqrt()
    assert ((found - expected).abs() <= 5 * deviation + 1e-3).all()


def test_completions_belong_to_their_prompts(tmp_path):
    """A policy that repeats the last word of the prompt: each completion says whose it is. Three each, not in twos."""
    tokenizer = build_tokenizer(chat=False)
    model = build_model(tokenizer, num_hidden_layers=1, tie_word_embeddings=True)
    with torch.no_grad():
        # The hidden state is the embedding of the last token, in directions of their own.
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        embeddings = torch.nn.init.orthogonal_(torch.empty(len(tokenizer), 16)) * 10
        model.get_input_embeddings().weight.copy_(embeddings)
    trainer = make_trainer("ipo", tmp_path, model=model, tokenizer=tokenizer, max_new_tokens=4, **CONTINUOUS)
    words = "a b c d e f g h".split()
    best = [tokenizer.convert_tokens_to_ids(word) for word in words]
    prompts = [f"{' '.join(words[:length])}" for length in range(1, 9)]
    _, completions = trainer.generate(prompts, 3)
    assert completions == [[[token] * 4] * 3 for token in best]


def test_it_does_again_what_it_did(tmp_path):
    """From the same random numbers the same tokens, so that a resumed run samples what the judge's cache knows."""
    trainer = make_trainer("ipo", tmp_path, **CONTINUOUS)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append((trainer.generate(PROMPTS, 4)[1], torch.rand(1).item()))
    assert found[0] == found[1]
    assert trainer.generate(PROMPTS, 4)[1] != found[0][0]


@pytest.mark.parametrize(
    "algorithm",
    ["onpo-two", *(pytest.param(name, marks=pytest.mark.slow) for name in ("comal", "nash-md", "nash-ema"))],
)
def test_training_and_evaluation(algorithm, tmp_path):
    """A run that samples so trains, evaluates against the initial policy, and leaves the model as it found it."""
    trainer = make_trainer(
        algorithm,
        tmp_path,
        dataset=prompt_dataset(PROMPTS * 2),
        extra={"eval_dataset": prompt_dataset(PROMPTS)},
        max_steps=3,
        learning_rate=0.01,
        per_device_train_batch_size=2,
        num_generations=3,
        **CONTINUOUS,
    )
    trainer.model.train()
    attention, start = trainer.model.config._attn_implementation, weights(trainer.model)
    trainer.train()
    assert trainer.model.config._attn_implementation == attention and trainer.model.training
    assert any(not torch.equal(a, b) for a, b in zip(start.values(), weights(trainer.model).values(), strict=True))
    first = next(entry for entry in trainer.state.log_history if "policy/kl_reference" in entry)
    assert first["policy/kl_reference"] == 0  # scored as sampled, in round 1
    metrics = trainer.evaluate()
    assert 0 <= metrics["eval_policy/win_rate_reference"] <= 1
    assert trainer.generate(PROMPTS, 2, policy=INITIAL)[1] != trainer.generate(PROMPTS, 2)[1]


def test_a_resumed_run_ends_in_the_same_bits(tmp_path):
    options = CONTINUOUS | {"max_steps": 4, "save_steps": 2, "save_strategy": "steps", "learning_rate": 0.01}
    whole = make_trainer("comal", tmp_path, dataset=prompt_dataset(PROMPTS * 4), **options)
    whole.train()
    resumed = make_trainer("comal", tmp_path, dataset=prompt_dataset(PROMPTS * 4), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for name, weight in weights(whole.model).items():
        assert torch.equal(weight, weights(resumed.model)[name])


def test_a_failure_is_said(tmp_path, monkeypatch):
    """What goes wrong in the engine's thread ends the run, and does not shorten the list of completions."""
    trainer = make_trainer("ipo", tmp_path, **CONTINUOUS)
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(RuntimeError, match="The policy has diverged"):
        trainer.train()
    monkeypatch.setattr(type(trainer.model.model), "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(RuntimeError, match="continuous batching has failed .division by zero"):
        trainer.generate(PROMPTS, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repetition_penalty": 1.1}, "leave `repetition_penalty` out"),
        ({"min_p": 0.1, "generation_kwargs": {"suppress_tokens": [3]}}, "`min_p` and `generation_kwargs` out"),
        ({"use_vllm": True}, "either with `use_vllm` or with"),
        ({"transformers_continuous_batching_config": {"num_block": 3}}, "has no option 'num_block' here: it takes"),
        ({"use_transformers_continuous_batching": False}, "does nothing: set `use_transformers"),
        ({"transformers_continuous_batching_config": {"seed": 3}}, "has no option 'seed' here"),
        ({"ds3_gather_for_generation": False}, "leave `ds3_gather_for_generation` at True"),
    ],
)
def test_what_it_cannot_do_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_trainer("ipo", tmp_path, **CONTINUOUS | options)


@pytest.mark.parametrize(
    ("dtype", "lora"),
    [
        pytest.param(torch.float32, False, id="fp32-full", marks=pytest.mark.slow),
        pytest.param(torch.float32, True, id="fp32-lora", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, False, id="bf16-full"),
        pytest.param(torch.bfloat16, True, id="bf16-lora", marks=pytest.mark.slow),
    ],
)
def test_mixed_precision(dtype, lora, tmp_path):
    """Under autocast (TRL's default), whatever the weights: the fit is autocast, and what is sampled is not."""
    tokenizer = build_tokenizer(chat=False)
    trainer = make_trainer(
        "ipo",
        tmp_path,
        model=build_model(tokenizer).to(dtype),
        tokenizer=tokenizer,
        dataset=prompt_dataset(PROMPTS * 2),
        extra={"eval_dataset": prompt_dataset(PROMPTS)},
        lora=lora,
        bf16=True,
        max_steps=2,
        gradient_checkpointing=True,
        **CONTINUOUS,
    )
    trainer.train()
    assert trainer.state.global_step == 2 and "eval_policy/win_rate_reference" in trainer.evaluate()
    assert lora or vars(trainer.model)["forward"] is not vars(trainer.model)["_original_forward"]


def test_without_options_the_cache_has_room_for_the_rows(tmp_path):
    """On a CPU, where half of what is free would be half of the machine; and the same tokens are drawn every time."""
    trainer = make_trainer("ipo", tmp_path, use_transformers_continuous_batching=True)
    assert continuous._defaults([[1] * 60, [1] * 5], max_new_tokens=5, given={}, device=torch.device("cpu")) == {
        "page_size": 64,
        "num_blocks": 3,  # 65 and 10 tokens
        "max_batch_tokens": 256,
    }
    torch.manual_seed(0)
    first = trainer.generate(PROMPTS, 5)[1]
    torch.manual_seed(0)
    assert trainer.generate(PROMPTS, 5)[1] == first and all(len(rows) == 5 for rows in first)


def test_pages_of_older_versions_are_blocks(monkeypatch):
    monkeypatch.delattr(ContinuousBatchingConfig, "page_size", raising=False)
    sizes = {
        size: continuous._defaults([[1] * 60], max_new_tokens=5, given=given, device=torch.device("cpu"))
        for size, given in ((64, {}), (8, {"block_size": 8}))
    }
    assert {size: options["block_size"] for size, options in sizes.items()} == {64: 64, 8: 8}
    assert {size: options["num_blocks"] for size, options in sizes.items()} == {64: 2, 8: 9}  # for 65 tokens


def test_the_config_reads_it_from_a_command_line(tmp_path):
    args = make_config("ipo", tmp_path, transformers_continuous_batching_config='{"num_blocks": 8}')
    assert args.transformers_continuous_batching_config == {"num_blocks": 8}
