# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is said of extras is true: they exist, and the command installs them."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

from trl_nash.extras import pip_install


ROOT = Path(__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TRACKERS = ("wandb", "trackio", "tensorboard", "mlflow")


def test_only_a_release_is_on_an_index():
    assert pip_install("peft", "0.1.0") == 'pip install "trl-nash[peft]"'
    assert pip_install("peft", "0.1.0.dev0") == 'pip install ".[peft]" in a clone of trl-nash'


def test_the_package_names_extras_that_exist_and_in_one_place():
    sources = {file: file.read_text(encoding="utf-8") for file in (ROOT / "trl_nash").rglob("*.py")}
    named = {name for text in sources.values() for name in re.findall(r"pip_install\(['\"](\w+)['\"]", text)}
    assert {"peft", "judges", "plots"} <= named <= set(EXTRAS)
    assert [file.name for file, text in sources.items() if "trl-nash[" in text] == ["extras.py"]


def test_trackers_are_called_as_transformers_calls_them():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(TRACKERS) <= set(INTEGRATION_TO_CALLBACK) & set(EXTRAS)


def test_what_trl_has_too_is_left_to_trl():
    """TRL's own extras decide on versions: a name that both have delegates."""
    theirs = set(importlib.metadata.metadata("trl").get_all("Provides-Extra"))
    ours = {"peft", "deepspeed", "quantization", "vllm"}
    assert ours <= theirs
    assert all(EXTRAS[name] == [f"trl[{name}]"] for name in ours)
