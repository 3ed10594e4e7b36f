# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Trainers over a fake of vLLM."""

import os
from contextlib import ExitStack
from unittest.mock import patch

import fake_vllm
import pytest
from helpers import build_copier, make_trainer
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Folders with tiny models, by name: vLLM starts from files."""
    tokenizer = build_tokenizer()
    folder = tmp_path_factory.mktemp("models")
    for name, model in {
        "llama": build_model(tokenizer),
        "other": build_model(tokenizer, seed=5),
        "copier": build_copier(tokenizer),
        "tied": build_model(tokenizer, tie_word_embeddings=True),
    }.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def vllm(models):
    """A way to build trainers over the fake; `engine_of` finds what they sample with."""
    with ExitStack() as stack:
        stack.enter_context(fake_vllm.installed())

        def build(algorithm, output_dir, mode="colocate", path="llama", **options):
            if mode == "server":
                pytest.importorskip("requests")
                server = stack.enter_context(fake_vllm.Server(str(models / path)))
                options["vllm_server_base_url"] = server.url
            if algorithm == "self-play":
                algorithm, options = "nash-md", {"mixture_coef": 0.0} | options
            options = {"max_new_tokens": 4, "vllm_mode": mode, "use_vllm": True} | options
            options.setdefault("model", AutoModelForCausalLM.from_pretrained(models / path))
            with patch.dict(os.environ):  # TRL writes RANK and its kin there, and accelerate reads them
                return make_trainer(algorithm, output_dir, **options)

        yield build
