# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Keeps libraries offline and quiet, and offers the tiny models of `tiny.py` as fixtures."""

import os


for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)

import pytest
import torch
from tiny import CHAT_TEMPLATE, build_model, build_tokenizer  # noqa: F401
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


torch.set_num_threads(1)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def model(tokenizer) -> LlamaForCausalLM:
    return build_model(tokenizer)
