# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Whether a model is one of PEFT's is said as accelerate says it, without what that costs."""

import importlib.metadata

import accelerate.utils
import pytest
from peft import LoraConfig, get_peft_model
from torch.nn import DataParallel

from trl_nash.policies import is_peft_model


@pytest.mark.parametrize("wrap", [lambda model: model, DataParallel], ids=["bare", "wrapped"])
@pytest.mark.parametrize("adapted", [False, True])
def test_as_accelerate_says(adapted, wrap, model, monkeypatch):
    if adapted:
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    model = wrap(model)
    assert accelerate.utils.is_peft_model(model) is adapted
    monkeypatch.delattr(importlib.metadata, "metadata")  # which takes milliseconds to parse
    assert is_peft_model(model) is adapted
