# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What scripts written for OnlineDPOTrainer find of the rewards that they passed."""

import functools

import pytest
import torch
from helpers import make_trainer, prompt_dataset
from tiny import build_model, build_tokenizer
from transformers import LlamaConfig, LlamaForSequenceClassification

from trl_nash import ONPOTrainer, RewardJudge
from trl_nash.compat import OnlineDPOConfig, OnlineDPOTrainer


def count_words(completions, **kwargs):
    return [float(len(text.split())) for text in completions]


def build_reward_model(folder=None):
    tokenizer = build_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForSequenceClassification(config)
    if folder is not None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return model


def both(tmp_path, reward_funcs, **options):
    """The same arguments in TRL's trainer and in ours."""
    pytest.importorskip("trl.experimental.online_dpo")
    args = OnlineDPOConfig(
        str(tmp_path / "out"), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", **options
    )
    for trainer_class in (OnlineDPOTrainer, ONPOTrainer):
        tokenizer = build_tokenizer()
        yield trainer_class(
            model=build_model(tokenizer),
            reward_funcs=list(reward_funcs) if isinstance(reward_funcs, list) else reward_funcs,
            args=args,
            train_dataset=prompt_dataset(),
            processing_class=tokenizer,
        )


@pytest.mark.parametrize("several", [False, True], ids=["one", "several"])
def test_reward_functions_are_those_that_were_passed(several, tmp_path):
    """`reward_funcs`, their names, weights and tokenizers are what TRL's own trainer has for the same arguments."""
    bound = functools.partial(count_words)
    passed = [count_words, bound] if several else count_words
    options = {"reward_weights": [0.25, 3.0]} if several else {}
    theirs, ours = both(tmp_path, passed, **options)
    assert ours.reward_funcs == theirs.reward_funcs == ([count_words, bound] if several else [count_words])
    assert ours.reward_func_names == theirs.reward_func_names == ["count_words"] * (1 + several)
    assert ours.reward_processing_classes == theirs.reward_processing_classes == [None] * (1 + several)
    assert torch.equal(ours.reward_weights, theirs.reward_weights)
    assert ours.reward_weights.dtype == theirs.reward_weights.dtype


def test_reward_models_by_path(tmp_path):
    """A path has become a model, and its tokenizer is there."""
    build_reward_model(tmp_path / "reward")
    theirs, ours = both(tmp_path, [str(tmp_path / "reward"), count_words])
    for trainer in (theirs, ours):
        model, function = trainer.reward_funcs
        assert type(model) is LlamaForSequenceClassification and function is count_words
        tokenizer, nothing = trainer.reward_processing_classes
        assert tokenizer.get_vocab() == build_tokenizer().get_vocab() and nothing is None
    assert ours.reward_func_names == theirs.reward_func_names == ["reward", "count_words"]


def test_reward_model_and_tokenizer_are_the_objects_passed(tmp_path):
    model, tokenizer = build_reward_model(), build_tokenizer()
    extra = {"reward_funcs": model, "reward_processing_classes": tokenizer}
    trainer = make_trainer("ipo", tmp_path, judge=None, extra=extra)
    assert trainer.reward_funcs[0] is model and trainer.reward_processing_classes[0] is tokenizer


@pytest.mark.parametrize("judge", [lambda prompts, first, second: [0.5] * len(prompts), RewardJudge(count_words)])
def test_a_judge_is_no_reward(judge, tmp_path):
    trainer = make_trainer("ipo", tmp_path, judge=judge)
    assert trainer.reward_funcs == trainer.reward_func_names == trainer.reward_processing_classes == []
    assert trainer.reward_weights is None


def test_strings_are_put_together_only_for_models_that_are_passed(tmp_path):
    """A model named by an option is a judge like all others: it reads a string as one turn of the user."""
    build_reward_model(tmp_path / "reward")
    path = str(tmp_path / "reward")
    passed = make_trainer("ipo", tmp_path, judge=None, extra={"reward_funcs": path})
    named = make_trainer("ipo", tmp_path, judge=None, reward_model_path=path)
    assert [trainer.judge.reward_funcs[0].raw_prompts for trainer in (passed, named)] == [True, False]
