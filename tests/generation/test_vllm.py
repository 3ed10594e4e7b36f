# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
`use_vllm=True`: TRL's own `VLLMGeneration` and `VLLMClient` over a fake of vLLM (`fake_vllm.py`), which samples from
the weights that it was given. Nothing here has seen a GPU.
"""

import os
from unittest.mock import patch

import fake_vllm
import pytest
import torch
from helpers import lora_config, make_config, make_trainer, prompt_dataset
from peft import LoraConfig
from pushed import engine_of
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


MODES = ["colocate", "server"]


# ---- What is asked for, and what comes back ----


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_completions_belong_to_their_prompts(count, mode, vllm, tmp_path):
    """
    A policy that repeats its last token: all K completions of a prompt repeat the prompt's last word, whatever else is
    in the call. (In server mode they were shuffled for months: trl#5514.) An odd K wastes nothing.
    """
    trainer = vllm("ipo", tmp_path, mode, path="copier", num_generations=count)
    prompts = ["a", "b c", "d e f"]
    prompt_ids, completion_ids = trainer.generate(prompts, count)
    encode = trainer._tokenizer
    assert prompt_ids == [encode(prompt)["input_ids"] for prompt in prompts]
    assert completion_ids == [[[ids[-1]] * 4] * count for ids in prompt_ids]
    ((asked, params),) = engine_of(trainer).requests
    if mode == "server":
        assert asked == prompt_ids and params.n == count
    else:  # vLLM makes the same of it
        assert asked == [ids for ids in prompt_ids for _ in range(count)] and params.n == 1


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_fresh_and_their_log_probs_the_policys(mode, vllm, tmp_path):
    """K completions of one prompt differ, and the log-probs that come with them are those of logits / T."""
    trainer = vllm("ipo", tmp_path, mode, temperature=0.7)
    ((prompt,), (completions,)) = trainer.generate(["a b"], 16)
    assert len({tuple(ids) for ids in completions}) > 8
    for ids, logps in zip(completions, trainer.sampler.logps[0], strict=True):
        logits = trainer.model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logps), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", MODES)
def test_how_a_request_is_sampled(mode, vllm, tmp_path):
    """The options reach vLLM, and a completion ends where transformers would end it, not where a file says."""
    given = {"frequency_penalty": 0.1, "stop_token_ids": [7]}
    trainer = vllm("ipo", tmp_path, mode, temperature=0.5, generation_kwargs=given)
    trainer.generate(["a"], 2)
    params = engine_of(trainer).requests[0][1]
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.5, 1.0, 0, 4)
    assert params.frequency_penalty == 0.1
    assert params.ignore_eos and params.stop_token_ids == [trainer._tokenizer.eos_token_id, 7]


def test_the_engine_is_built_from_the_options(vllm, tmp_path):
    vllm(
        "ipo",
        tmp_path,
        num_generations=3,
        per_device_generation_batch_size=5,
        max_length=20,
        vllm_gpu_memory_utilization=0.4,
        vllm_enable_sleep_mode=True,
        vllm_model_impl="transformers",
        trust_remote_code=True,
    )
    (engine,) = fake_vllm.LLM.made  # TRL's own constructor starts none
    expected = {"max_num_seqs": 15, "max_model_len": 20, "enable_sleep_mode": True, "model_impl": "transformers"}
    assert expected.items() <= engine.options.items()


def test_the_generators_are_left_alone(vllm, tmp_path):
    """vLLM seeds torch when it starts, the same in every run: what is drawn afterwards still goes by `seed`."""
    drawn = []
    for seed in (1, 1, 2):
        vllm("ipo", tmp_path, seed=seed)
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("mode", MODES)
def test_conversations_and_long_prompts_reach_the_engine_as_tokens(mode, vllm, tmp_path):
    """Through the chat template, and cut from the left to max_length - max_new_tokens = 10 - 4 tokens."""
    prompt = [{"role": "user", "content": "a b"}]
    tokenizer, dataset = build_tokenizer(), prompt_dataset([prompt] * 4)
    trainer = vllm("ipo", tmp_path, mode, tokenizer=tokenizer, dataset=dataset, max_length=10)
    ((ids,), _) = trainer.generate([prompt], 2)
    text = "user a b <eos> <|im_start|> assistant"
    assert engine_of(trainer).requests[0][0][0] == ids == trainer._tokenizer.convert_tokens_to_ids(text.split())


@pytest.mark.parametrize("mode", MODES)
def test_prompt_begins_with_one_bos(mode, vllm, tmp_path):
    """With a tokenizer that adds BOS, the engine and the loss see the same prompt, with one BOS."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = build_tokenizer(chat=False, bos_token="<bos>")
    bos = tokenizer.convert_tokens_to_ids("<bos>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    trainer = vllm("ipo", tmp_path, mode, tokenizer=tokenizer)
    ((ids,), _) = trainer.generate(["a b"], 2)
    assert (
        engine_of(trainer).requests[0][0][0] == ids == [bos, *tokenizer("a b", add_special_tokens=False)["input_ids"]]
    )


# ---- What cannot work ----


@pytest.mark.parametrize(
    "algorithm, options",
    [("nash-md", {}), ("nash-md", {"mixture_coef": [0.0, 0.5]})],
)
def test_mixtures_are_refused(algorithm, options, tmp_path):
    """vLLM samples from one policy at a time: a schedule that mixes two raises when the config is built."""
    with pytest.raises(ValueError, match="leave `use_vllm` out, or set `mixture_coef` to 0 or 1"):
        make_config(algorithm, tmp_path, use_vllm=True, **options)


@pytest.mark.parametrize("name, value", [("n", 1), ("seed", 3)])
def test_whose_a_completion_is_and_its_noise_are_not_for_vllm_to_say(name, value, vllm, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}={value}` in `generation_kwargs` cannot apply here"):
        vllm("ipo", tmp_path, generation_kwargs={name: value})


def test_a_model_without_files_is_refused(vllm, tmp_path):
    with pytest.raises(ValueError, match="this model has none: load it with `from_pretrained`"):
        vllm("ipo", tmp_path, model=build_model(build_tokenizer()))


@pytest.mark.parametrize(
    "options", [{"target_modules": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}], ids=["lora", "saved"]
)
def test_an_adapter_that_parts_tied_embeddings_is_refused(options, vllm, tmp_path):
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | options)
    with pytest.raises(ValueError, match="which are one weight in this model"):
        vllm("ipo", tmp_path, path="tied", peft_config=config)


def test_weights_that_are_packed_are_refused(vllm, models, tmp_path):
    """PEFT would pack the merged weights anew, with scales that the engine is not told."""
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(models / "llama", quantization_config=nf4)
    with pytest.raises(ValueError, match="packed for this quantisation"):
        vllm("ipo", tmp_path, model=model, peft_config=lora_config())


def test_vllm_that_is_not_installed_is_an_import_error_with_the_pip_line(models, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(models / "llama")
    with pytest.raises(ImportError, match=r"pip install trl\[vllm\]"):
        make_trainer("ipo", tmp_path, use_vllm=True, model=model)


def test_a_server_with_other_log_probs_is_warned_of(vllm, tmp_path, monkeypatch, caplog):
    """A server is started by hand, and may not be told to give log-probs of what it samples from."""
    made = fake_vllm.Server.__init__
    monkeypatch.setattr(fake_vllm.Server, "__init__", lambda server, path: made(server, path, "raw_logprobs"))
    vllm("ipo", tmp_path, "server")
    assert "`--logprobs-mode raw_logprobs`: what it says of its samples is not comparable" in caplog.text


# ---- The fake ----


@pytest.mark.parametrize("version", fake_vllm.VERSIONS)
def test_the_calls_are_those_of_the_released_wheels(version, models, tmp_path):
    """The oldest and the newest vLLM that TRL supports take what TRL and we give them."""
    with fake_vllm.installed(version), patch.dict(os.environ):
        trainer = make_trainer(
            "ipo",
            tmp_path,
            model=AutoModelForCausalLM.from_pretrained(models / "llama"),
            use_vllm=True,
            vllm_enable_sleep_mode=True,
            max_steps=1,
        )
        trainer.train()
        assert fake_vllm.LLM.made[0].engine.pushes == 1


def test_the_fake_refuses_what_the_wheels_refuse(models):
    with fake_vllm.installed():
        with pytest.raises(TypeError):
            fake_vllm.LLM(str(models / "llama"), "generate")  # all but the model are keywords
        with pytest.raises(AssertionError):
            fake_vllm.SamplingParams(max_new_tokens=3)
        engine = fake_vllm.Engine(str(models / "llama"), 0)
        with pytest.raises(KeyError):
            engine.load_weights([("base_model.model.lm_head.weight", torch.zeros(1))])
