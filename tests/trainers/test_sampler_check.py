# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What completions are sampled from and where they end is what the trainer says, whoever set it."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from helpers import history, lora_config, make_trainer
from peft import get_peft_model
from tiny import build_model, build_tokenizer
from transformers import GenerationConfig

from trl_nash.trainers.checks.sampling import check_sampler


TOKENIZER = build_tokenizer()
A, B, C, EOS = *TOKENIZER("a b c")["input_ids"], TOKENIZER.eos_token_id
BIASED = {
    "top_k": 5,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.9,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.01,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [A],
    "begin_suppress_tokens": [A],
    "bad_words_ids": [[A, B]],
    "sequence_bias": [[[A, B, C], 2.0]],
    "min_new_tokens": 2,
    "min_length": 8,
    "forced_eos_token_id": EOS,
    "exponential_decay_length_penalty": (2, 1.5),
    "encoder_repetition_penalty": 1.2,
    "encoder_no_repeat_ngram_size": 3,
    "guidance_scale": 1.5,
}
NEUTRAL = {
    "top_k": 50,  # of 21 tokens
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "renormalize_logits": True,
    "remove_invalid_values": True,
    "use_cache": False,
    "exponential_decay_length_penalty": (9, 1.5),  # a completion has 5
}


def named(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "the pairs come from another policy" in r.getMessage()]


def draws(trainer, monkeypatch) -> list[torch.Tensor]:
    """The probabilities that tokens of a generation are drawn from, less those of softmax(logits / T)."""
    logits, differences, multinomial = [], [], torch.multinomial

    def record(probabilities, *args, **kwargs):
        differences.append((probabilities - (logits[-1] / trainer.args.temperature).softmax(-1)).abs().max())
        return multinomial(probabilities, *args, **kwargs)

    model = getattr(trainer.model, "get_base_model", lambda: trainer.model)()
    handle = model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output[:, -1]))
    monkeypatch.setattr(torch, "multinomial", record)
    trainer.generate(["a b a", "b c a b", "a"], 8)
    handle.remove()
    return differences


@pytest.mark.parametrize("whose", ["the trainer's", "the model's"])
@pytest.mark.parametrize("name", BIASED)
def test_what_biases_the_sampler_is_named(name, whose, tmp_path, caplog, monkeypatch):
    """By name and value where it is among `generation_kwargs`; what the model brings along has no part in sampling."""
    value, model, options = BIASED[name], build_model(TOKENIZER), {}
    if whose == "the trainer's":
        options["generation_kwargs"] = {name: value}
    else:
        setattr(model.generation_config, name, value)
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        trainer = make_trainer("ipo", tmp_path, model=model, temperature=0.7, **options)
    if whose == "the model's":
        assert named(caplog) == []
        assert max(draws(trainer, monkeypatch)) < 1e-5
        return
    (message,) = named(caplog)
    assert message.removeprefix("[RANK 0] ").startswith(f"Sampling with {name}={value}: the pairs come from")
    if name not in ("bad_words_ids", "sequence_bias", "guidance_scale", "encoder_no_repeat_ngram_size"):
        assert max(draws(trainer, monkeypatch)) > 1e-3


@pytest.mark.parametrize("whose", ["the trainer's", "the model's"])
@pytest.mark.parametrize("name", NEUTRAL)
def test_what_changes_nothing_is_not_named(name, whose, tmp_path, caplog, monkeypatch):
    """And every token is drawn from softmax(logits / T)."""
    model, options = build_model(TOKENIZER), {}
    if whose == "the trainer's":
        options["generation_kwargs"] = {name: NEUTRAL[name]}
    else:
        setattr(model.generation_config, name, NEUTRAL[name])
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        trainer = make_trainer("ipo", tmp_path, model=model, temperature=0.7, **options)
    assert caplog.records == []
    assert max(draws(trainer, monkeypatch)) < 1e-5


def test_all_biases_are_in_one_warning(tmp_path, caplog):
    model = get_peft_model(build_model(TOKENIZER), lora_config())
    model.get_base_model().generation_config.typical_p = 0.9
    kwargs = {"no_repeat_ngram_size": 3, "suppress_tokens": [A]}
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        make_trainer("ipo", tmp_path, model=model, top_p=0.9, generation_kwargs=kwargs)
    (message,) = named(caplog)
    assert all(part in message for part in ("top_p=0.9,", "no_repeat_ngram_size=3", f"suppress_tokens=[{A}]"))
    assert "typical_p" not in message


def test_a_temperature_that_is_not_the_policys_is_a_bias(caplog):
    """Measured like everything else."""
    args = SimpleNamespace(
        temperature=1.0,
        max_new_tokens=5,
        generation_kwargs=None,
        use_vllm=False,
        use_transformers_continuous_batching=False,
    )
    given = GenerationConfig(do_sample=True, temperature=0.7, top_k=0, eos_token_id=EOS, max_new_tokens=5)
    with caplog.at_level(logging.WARNING, logger="trl_nash"):
        check_sampler(build_model(TOKENIZER), given, args)
        args.temperature = 0.7
        check_sampler(build_model(TOKENIZER), given, args)
    (message,) = named(caplog)
    assert "Sampling with temperature=0.7: " in message


# ---- Whose a completion is, and where it ends ----


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("num_return_sequences", 2, "set `num_generations`"),
        ("n", 4, "set `num_generations`"),
        ("max_length", 9, "set `max_new_tokens`"),
        ("stop_strings", ["b"], "ends with an end-of-sequence token"),
        ("max_time", 0.1, "cannot depend on the clock"),
        ("return_dict_in_generate", True, "it is tokens that are sampled"),
    ],
)
def test_options_that_end_or_deal_out_completions_are_refused(name, value, message, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}=.*` in `generation_kwargs` cannot apply here: .*{message}"):
        make_trainer("ipo", tmp_path, generation_kwargs={name: value})


# By the type of the default, where there is one: whatever it is, it must not get through.
OF_THE_MODEL = BIASED | {
    "max_length": 3,
    "max_new_tokens": 2,
    "max_time": 1e-9,
    "num_return_sequences": 2,
    "num_beams": 3,
    "do_sample": False,
    "return_dict_in_generate": True,
    "stop_strings": ["b"],
    "temperature": 0.3,
    "top_h": 0.5,
    "prompt_lookup_num_tokens": 2,
    "cache_implementation": "static",
    "cache_config": {"backend": "quanto"},
    "watermarking_config": {"bias": 9.0},
    "forced_bos_token_id": A,
    "eos_token_id": [A, B, C],
    "pad_token_id": A,
    "token_healing": True,
    "penalty_alpha": 0.6,
    "dola_layers": "low",
    "force_words_ids": [[A]],
    "num_beam_groups": 3,
    "use_cache": False,
    "prefill_chunk_size": 1,
}


def test_nothing_of_the_models_own_generation_config_gets_through(tmp_path):
    """Field by field of transformers' own list: from the same random numbers the same tokens, and nothing is said."""
    model = build_model(TOKENIZER)
    trainer = make_trainer("ipo", tmp_path, model=model, temperature=0.7)
    own = model.generation_config

    def sample():
        torch.manual_seed(0)
        return trainer.generate(["a b a", "b c a b", "a"], 4)

    expected = sample()
    for name, default in vars(GenerationConfig()).items():
        if name.startswith("_"):
            continue
        model.generation_config = copy.deepcopy(own)
        setattr(model.generation_config, name, OF_THE_MODEL.get(name, True if default is None else default))
        before = vars(model.generation_config).copy()
        assert sample() == expected, name
        assert vars(model.generation_config) == before, name  # and it is saved as it was


@pytest.mark.parametrize("name", ["suppress_tokens", "max_time", "stop_strings", "num_beams", "cache_implementation"])
def test_it_would_get_through_without_care(name):
    """`generate` fills up what it is given with the model's own: other tokens, or an error."""
    model = build_model(TOKENIZER)
    ids, given = torch.tensor([[A, B, A]] * 9), GenerationConfig(do_sample=True, max_new_tokens=5, eos_token_id=EOS)

    def sample():
        torch.manual_seed(0)
        return model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=given).tolist()

    expected = sample()
    setattr(model.generation_config, name, OF_THE_MODEL[name])
    if name in ("stop_strings",):
        with pytest.raises(ValueError, match="tokenizer"):
            sample()
    elif name == "cache_implementation":
        assert model._prepare_generation_config(given)[0].cache_implementation == "static"
    else:
        assert sample() != expected


def test_kwargs_that_do_not_sample_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`generation_kwargs` asks for assisted_generation, but pairs are sampled"):
        make_trainer("ipo", tmp_path, generation_kwargs={"prompt_lookup_num_tokens": 2})


def test_another_length_is_set_where_it_counts(tmp_path):
    with pytest.raises(ValueError, match="Set `max_new_tokens` itself, not in `generation_kwargs`"):
        make_trainer("ipo", tmp_path, generation_kwargs={"max_new_tokens": 3})
    make_trainer("ipo", tmp_path, generation_kwargs={"max_new_tokens": 5, "num_return_sequences": 1})


@pytest.mark.parametrize("ends", [B, [B, C]], ids=str)
@pytest.mark.parametrize("algorithm", ["ipo", "nash-md"])
def test_an_eos_token_of_ones_own_ends_a_completion_everywhere(algorithm, ends, tmp_path):
    """
    `eos_token_id` in `generation_kwargs`: completions end with it, whoever sampled them, nothing behind it is trained
    on or shown to the judge, one that has it is not clipped, and <eos> is a token like others.
    """
    seen = []

    def judge(prompts, first, second):
        seen.extend(first + second)
        return [0.5] * len(prompts)

    judge.symmetric = True
    trainer = make_trainer(
        algorithm,
        tmp_path,
        judge=judge,
        generation_kwargs={"eos_token_id": ends},
        num_generations=8,
        max_steps=1,
        max_new_tokens=11,
    )
    ends = {ends} if isinstance(ends, int) else set(ends)
    assert set(trainer.eos_token_ids) == ends
    batches, score = [], trainer.score
    trainer.score = lambda model, batch: (batches.append(batch), score(model, batch))[1]
    trainer.train()
    rows = [row[row != -100].tolist() for batch in batches for row in batch.labels]
    assert any(row[-1] in ends for row in rows) and any(EOS in row for row in rows)
    assert not any(ends & set(row[:-1]) for row in rows)
    words = TOKENIZER.convert_ids_to_tokens(sorted(ends))
    assert all(not set(words) & set(text.split()[:-1]) for text in seen)
    clipped = sum(row[-1] not in ends for row in rows[: len(batches[0].labels)]) / len(batches[0].labels)
    assert history(trainer, "completions/clipped_ratio") == [pytest.approx(clipped)]


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    model = build_model(TOKENIZER)
    model.generation_config.eos_token_id = None
    with pytest.raises(ValueError, match="No token ends a completion: set `processing_class.eos_token`"):
        make_trainer("ipo", tmp_path, model=model, tokenizer=tokenizer)


def test_the_models_own_eos_tokens_end_a_completion_too(tmp_path):
    model = build_model(TOKENIZER)
    model.generation_config.eos_token_id = [EOS, B]
    assert set(make_trainer("ipo", tmp_path, model=model).eos_token_ids) == {EOS, B}
