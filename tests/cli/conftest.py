# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""A small model on disk and a file of prompts, as a user has them."""

import importlib.util

import pytest


@pytest.fixture(autouse=True)
def datasets_cache(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))


@pytest.fixture
def model_dir(tmp_path, model, tokenizer) -> str:
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def prompts_file(write_rows) -> str:
    return write_rows([{"prompt": f"{word} {other}", "source": word} for word in "abcd" for other in "abcd"])


@pytest.fixture
def with_deepspeed(monkeypatch):
    """DeepSpeed counts as installed: before a launch only its presence is looked up."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *args: name if name == "deepspeed" else find_spec(name, *args)
    )
