# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""In which precision a policy is loaded and trained, and what is said of it."""

import logging

import pytest
import torch
from helpers import equal, lora_config, make_config, make_trainer, prompt_dataset, weights
from tiny import build_model, build_tokenizer

from trl_nash import COMALConfig, NashConfig, NashTrainer, PairConfig
from trl_nash.trainers.checks.precision import best_precision, movable_share, precision_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint in bfloat16."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), build_tokenizer()
    build_model(tokenizer).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "kwargs, dtype",
    [
        (None, torch.float32),  # as SFTTrainer, DPOTrainer and GRPOTrainer
        ({"dtype": "auto"}, torch.bfloat16),
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": torch.float32}, torch.float32),
        ('{"torch_dtype": "bfloat16"}', torch.bfloat16),
    ],
)
def test_dtype_of_a_path(kwargs, dtype, folder, tmp_path):
    """A path loads in float32 unless `model_init_kwargs` says otherwise, by the option's new or its old name."""
    args = make_config("ipo", tmp_path, model_init_kwargs=kwargs)
    trainer = NashTrainer(str(folder), args=args, train_dataset=prompt_dataset(), judge=lambda p, a, b: [0.5] * len(p))
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {dtype}


def test_the_dtype_of_a_path_is_that_of_trl(folder):
    from trl_nash.compat import create_model_from_path

    assert create_model_from_path(str(folder)).dtype == torch.float32


def test_both_names_of_the_dtype(tmp_path):
    given = {"dtype": "float32", "torch_dtype": "bfloat16"}
    with pytest.raises(ValueError, match="both `dtype` and its old name `torch_dtype`: leave one out"):
        PairConfig(str(tmp_path), use_cpu=True, model_init_kwargs=given)


def test_options_of_the_user_are_left_alone(tmp_path):
    """`model_init_kwargs` is the user's dict, and may be used again."""
    given = {"torch_dtype": "bfloat16"}
    args = PairConfig(str(tmp_path), use_cpu=True, model_init_kwargs=given)
    assert given == {"torch_dtype": "bfloat16"} and args.model_init_kwargs == {"dtype": "bfloat16"}


# ---- What a step can move ----


class Weights(torch.nn.Module):
    def __init__(self, values, dtype):
        super().__init__()
        self.values = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
        self.frozen = torch.nn.Parameter(torch.ones(100, dtype=dtype), requires_grad=False)


@pytest.mark.parametrize(
    "dtype, bits", [(torch.bfloat16, 8), (torch.float16, 11), (torch.float32, 24)], ids=["bf16", "fp16", "fp32"]
)
def test_share_that_a_step_can_move(dtype, bits):
    """Between 1 and 2 numbers of p bits are 2^(1-p) apart: half of that, and a little, moves w up to 2 only."""
    values = [1.25, -1.25, 1.75, 2.5, -5.0, 0.3, 0.0]
    step = 1.01 * 2.0**-bits
    moved = [v - step != v for v in torch.tensor(values, dtype=dtype)]
    assert [bool(m) for m in moved] == [True, True, True, False, False, True, True]
    assert movable_share(Weights(values, dtype), step) == pytest.approx(5 / 7)


def test_large_tensors_are_sampled():
    """Of a million weights a regular sample is looked at: the share is that of all to a few per mille."""
    torch.manual_seed(0)
    model = Weights(torch.randn(1_000_003).tolist(), torch.bfloat16)
    exact = (model.values - 1e-3 != model.values).float().mean().item()
    assert 0.2 < exact < 0.8 and movable_share(model, 1e-3) == pytest.approx(exact, abs=0.01)


def said(caplog, part: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


@pytest.mark.parametrize(
    "dtype, learning_rate, warns",
    [(torch.bfloat16, 5e-7, True), (torch.bfloat16, 1e-2, False), (torch.float32, 5e-7, False)],
)
def test_warning_of_steps_that_are_rounded_away(dtype, learning_rate, warns, tmp_path, caplog):
    """With bfloat16 weights and TRL's default rate hardly a weight can move, and the run says how many, once."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).to(dtype)
    trainer = make_trainer(
        "ipo", tmp_path, model=model, tokenizer=tokenizer, learning_rate=learning_rate, max_steps=2, warmup_steps=1
    )
    start = weights(trainer.model)
    with caplog.at_level(logging.INFO, "trl_nash"):
        trainer.train()
    warnings = said(caplog, "lost in rounding")
    assert len(warnings) == warns
    assert said(caplog, f"trainable weights in {str(dtype).removeprefix('torch.')}")
    if warns:
        share = movable_share(trainer.model, learning_rate)
        assert share < 0.05 and f"{share:.1%} of the trainable weights" in warnings[0]
        end = weights(trainer.model)
        same = sum((start[name] == end[name]).sum() for name in start) / sum(w.numel() for w in start.values())
        assert same > 0.9  # it is true
    else:
        assert not equal(start, weights(trainer.model))


def test_precision_of_an_adapter(tmp_path):
    """The adapter's weights and those of the frozen model are named apart, and what is computed in."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).to(torch.bfloat16)
    trainer = make_trainer("ipo", tmp_path, model=model, tokenizer=tokenizer, peft_config=lora_config())
    assert precision_of(trainer.model, "bf16") == (
        "trainable weights in float32, frozen ones in bfloat16, computed with in bf16"
    )


@pytest.mark.parametrize(
    ("best", "expected"), [("bf16", (True, False)), ("fp16", (False, True)), ("fp32", (False,) * 2)]
)
def test_without_a_choice_the_hardware_decides(best, expected, monkeypatch, tmp_path):
    """As on the command line, whose test names the hardware; an upgraded OnlineDPOConfig keeps what it has."""
    monkeypatch.setattr("trl_nash.trainers.config.best_precision", lambda use_cpu: best)
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    for config_class in (NashConfig, COMALConfig):
        args = config_class(output_dir=str(tmp_path))
        assert (args.bf16, args.fp16) == expected
    assert COMALConfig(output_dir=str(tmp_path), bf16=False).bf16 is False
    assert not COMALConfig(output_dir=str(tmp_path), use_cpu=True, fp16=True).bf16


def test_this_machine_takes_the_defaults(tmp_path):
    args = COMALConfig(output_dir=str(tmp_path))
    assert args.bf16 == (best_precision() == "bf16") and args.fp16 == (best_precision() == "fp16")
