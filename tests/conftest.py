# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Keeps libraries offline and quiet, and offers the tiny models of `tiny.py` as fixtures.

Hypothesis takes the same examples in every run, as long as it may need; `FUZZ=slow` takes 20 times as many.
"""

import atexit
import gc
import json
import os
import signal
from pathlib import Path


# A shell that starts tests in the background has them ignore Ctrl-C, and all that they start: here it is tested.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)

import pytest
import torch
from hypothesis import HealthCheck, settings
from tiny import CHAT_TEMPLATE, build_model, build_tokenizer  # noqa: F401
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast


torch.set_num_threads(1)

settings.register_profile(
    "quick",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile("slow", settings.get_profile("quick"), max_examples=1200)
settings.load_profile(os.environ.get("FUZZ", "quick"))


# Where files of few tests that take long lie: one that began last would leave the other processes idle.
FIRST = ("scale", "benchmarks", "trainers", "planning", "kernels", "judges", "generation")


def pytest_collection_modifyitems(items):
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.relative_to(Path(__file__).parent).parts[0], len(places)))


def pytest_collection_finish():
    """accelerate collects garbage whenever training starts: what is imported, and the tests, need not be looked at."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # or Triton takes what is left at the end for a leak


@pytest.fixture(autouse=True)
def signal_handlers():
    """A command that a test runs in this process leaves its handlers, or Ctrl-C ignored: not to the next test."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture
def model(tokenizer) -> LlamaForCausalLM:
    return build_model(tokenizer)


@pytest.fixture
def write_rows(tmp_path):
    """Writes rows as JSONL and returns the file's name."""

    def write(rows: list[dict], name: str = "prompts.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write
