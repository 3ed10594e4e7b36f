# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
One test per fact of TRL's OnlineDPOTrainer, where TRL has it: of its constructor, which we call, and the faults of all
the rest, which we replace. When a fault is gone, what is said of it in docs/guides/migration.md may go.
"""

import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from helpers import make_trainer
from peft import LoraConfig
from test_trl_contract import CPU, SHORT, parameters
from tiny import build_model, build_tokenizer
from torch import nn
from transformers import TrainingArguments

from trl_nash import compat
from trl_nash.compat import OnlineDPOConfig, OnlineDPOTrainer


online_dpo = pytest.importorskip("trl.experimental.online_dpo.online_dpo_trainer")
pytestmark = pytest.mark.contract


def count_words(completions, **kwargs):
    return [float(len(text.split())) for text in completions]


def stock_trainer(
    output_dir, model=None, tokenizer=None, prompts=("a b", "c", "d e f", "g"), peft_config=None, **options
):
    """TRL's own OnlineDPOTrainer over the tiny model."""
    tokenizer = tokenizer or build_tokenizer()
    return OnlineDPOTrainer(
        model=model or build_model(tokenizer),
        reward_funcs=count_words,
        args=OnlineDPOConfig(**{"output_dir": str(output_dir)} | CPU | SHORT | options),
        train_dataset=Dataset.from_dict({"prompt": prompts or ["a b", "c", "d e f", "g"]}),
        eval_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
        processing_class=tokenizer,
        peft_config=peft_config,
    )


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """One stock trainer for the facts that do not change it."""
    return stock_trainer(tmp_path_factory.mktemp("stock"))


def test_constructor_arguments_and_their_order():
    """NashTrainer repeats these keywords in this order, which is what makes it a drop-in."""
    assert parameters(OnlineDPOTrainer.__init__) == [
        "self",
        "model",
        "ref_model",
        "reward_funcs",
        "args",
        "data_collator",
        "train_dataset",
        "eval_dataset",
        "processing_class",
        "reward_processing_classes",
        "peft_config",
        "compute_metrics",
        "callbacks",
        "optimizers",
        "preprocess_logits_for_metrics",
    ]


def test_constructor_insists_on_reward_funcs(tmp_path):
    """Without `reward_funcs` the base refuses, which is why it gets a stand-in."""
    tokenizer = build_tokenizer()
    with pytest.raises(ValueError, match="`reward_funcs` must be provided"):
        OnlineDPOTrainer(
            model=build_model(tokenizer),
            args=OnlineDPOConfig(output_dir=str(tmp_path), **CPU),
            train_dataset=Dataset.from_dict({"prompt": ["a"]}),
            processing_class=tokenizer,
        )


def test_constructor_never_calls_a_reward_function(tmp_path):
    """Our stand-in raises when it is called; constructing and training with it never does."""
    with pytest.raises(RuntimeError, match="please report this"):
        compat.unused_reward(prompts=["a"], completions=["b"])
    trainer = make_trainer("ipo", tmp_path, max_steps=1)
    trainer.train()
    assert trainer.reward_funcs == []


def test_reference_copy_is_looked_up_in_the_module(tmp_path, monkeypatch):
    """`create_reference_model` is taken from the trainer's module when the constructor runs, so it can be replaced."""
    made = []
    monkeypatch.setattr(online_dpo, "create_reference_model", lambda model: made.append(model))
    trainer = stock_trainer(tmp_path)
    assert len(made) == 1 and trainer.ref_model is None


def test_no_reference_copy_with_a_peft_config(tmp_path):
    """With `peft_config` the base keeps `ref_model is None`: its reference is the model with adapters off."""
    assert stock_trainer(tmp_path, peft_config=LoraConfig(task_type="CAUSAL_LM")).ref_model is None


def test_base_construction_restores_what_it_replaced():
    """After `base_construction`, also after an error in it, module and arguments are as they were."""
    mine = {
        "gradient_checkpointing": True,
        "model_init_kwargs": {"dtype": "float32"},
        "reward_weights": [1.0, 2.0],
        "use_vllm": True,
    }
    args = SimpleNamespace(**mine)
    original = online_dpo.create_reference_model
    with pytest.raises(KeyError), compat.base_construction(args):
        assert online_dpo.create_reference_model(nn.Linear(1, 1)) is None
        assert not any(vars(args).values())
        raise KeyError
    assert online_dpo.create_reference_model is original
    assert vars(args) == mine


def test_base_refuses_model_init_kwargs_with_a_loaded_model(tmp_path):
    """The base raises for `model_init_kwargs` with a model object, so ours are hidden from it: we load the model."""
    with pytest.raises(ValueError, match="your model is already instantiated"):
        stock_trainer(tmp_path, model_init_kwargs={"dtype": "float32"})


def test_base_refuses_reward_weights_for_other_rewards(tmp_path):
    """The base counts `reward_weights` against its own reward functions, so ours are hidden from it."""
    with pytest.raises(ValueError, match="Number of reward weights"):
        stock_trainer(tmp_path, reward_weights=[1.0, 2.0])


def test_tokenizer_is_underscore_tokenizer(stock):
    """`_tokenizer` is the text tokenizer, with a pad token."""
    assert stock._tokenizer is stock.processing_class and stock._tokenizer.pad_token_id is not None


def test_eos_token_ids_lists_the_tokenizers_and_the_models(tmp_path):
    """`eos_token_ids` holds the tokenizer's end of sequence and those of the model's generation config."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.generation_config.eos_token_id = [7, 9]
    assert stock_trainer(tmp_path, model=model, tokenizer=tokenizer).eos_token_ids == [tokenizer.eos_token_id, 7, 9]


# ---- Faults that we replace: still there ----


@contextmanager
def fixed_samples(trainer, completions: list[list[int]], width: int):
    """Makes the stock trainer "sample" these completions for the prompt "a", padded to `width` tokens."""
    pad = trainer._tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in completions])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in completions])
    prompt = torch.full((len(completions), 1), 5)
    trainer._generate = lambda *args: (prompt, torch.ones_like(prompt), ids, mask, None)
    yield trainer
    del trainer._generate


def stock_grad_norm(output_dir, accumulation: int) -> float:
    trainer = stock_trainer(
        output_dir,
        prompts=["a"] * 8,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        logging_steps=1,
        learning_rate=0.0,
    )
    with fixed_samples(trainer, [[6, 7, 1], [8, 1], [9, 1], [6, 6, 6]], width=3):
        trainer.train()
    return trainer.state.log_history[0]["grad_norm"]


def test_fault_accumulation_sums_gradients(tmp_path):
    """On identical micro-batches the stock gradient norm is 1, 2 and 4 times as large for accumulation 1, 2 and 4."""
    norms = [stock_grad_norm(tmp_path / str(n), n) for n in (1, 2, 4)]
    assert norms[0] > 1e-3 and [norm / norms[0] for norm in norms] == pytest.approx([1.0, 2.0, 4.0], rel=1e-4)


def test_fault_no_kv_cache_with_gradient_checkpointing(tmp_path):
    """Gradient checkpointing, TRL's default, gives up the KV cache in generation."""
    assert stock_trainer(tmp_path, gradient_checkpointing=True).generation_config.use_cache is False


def test_fault_evaluation_raises(stock):
    """The stock trainer cannot evaluate (trl#2228)."""
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        stock.evaluate()


def test_fault_padding_counts_in_metrics(tmp_path):
    """The same 4-token completions have another "entropy" when they are padded to 16 tokens."""
    trainer = stock_trainer(tmp_path)
    for width in (4, 16):
        with fixed_samples(trainer, [[6, 7, 8, 1]] * 4, width):
            trainer.training_step(trainer.model, {"prompt": ["a", "a"]})
    narrow, wide = trainer.stats["objective/entropy"]
    assert wide > 1.5 * narrow


def test_fault_list_valued_beta_crashes(tmp_path):
    """A schedule `beta=[.1, .2]` is indexed with the fractional epoch (trl#6801)."""
    trainer = stock_trainer(tmp_path, beta=[0.1, 0.2])
    trainer.state.epoch = 0.5
    with pytest.raises(TypeError):
        _ = trainer.beta


def test_fault_zero3_refuses_the_reference_copy(model, monkeypatch):
    """Under ZeRO-3 `create_reference_model`, which we never call, raises (trl#2532)."""
    monkeypatch.setattr(sys.modules["trl.experimental.utils"], "is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ValueError, match="not compatible with `create_reference_model"):
        online_dpo.create_reference_model(model)


def test_fault_bf16_by_default(tmp_path, monkeypatch):
    """`bf16` is on by default, which ends a run on hardware without it; our command line chooses instead."""
    assert OnlineDPOConfig(output_dir=str(tmp_path), use_cpu=True).bf16 is True
    monkeypatch.setattr(sys.modules[TrainingArguments.__module__], "is_torch_bf16_gpu_available", lambda: False)
    with pytest.raises(ValueError, match="doesn't support bf16/gpu"):
        OnlineDPOConfig(output_dir=str(tmp_path))


def test_online_dpo_starts_vllm_if_its_arguments_say_so(tmp_path):
    """Without vLLM it raises: with `base_construction` it is not asked to."""
    with pytest.raises(ImportError, match=r"pip install trl\[vllm\]"):
        stock_trainer(tmp_path, use_vllm=True)
    assert OnlineDPOConfig(output_dir=str(tmp_path), **CPU).vllm_mode == "colocate"
