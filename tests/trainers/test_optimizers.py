# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Which options an optimizer gets is what transformers makes of them: two values, and whether it would build something
else. The packages of optimizers are stood in for, as none is built.
"""

import importlib.metadata
import sys
from types import ModuleType

import pytest
import torch
import transformers
from transformers import Trainer, TrainingArguments
from transformers.training_args import OptimizerNames

from trl_nash.trainers.checks.optimizers import is_given


PACKAGES = """apollo_torch bitsandbytes bitsandbytes.optim galore_torch grokadamw lomo_optim optimi schedulefree
torch_npu torch_npu.optim torch_xla torch_xla.amp torch_xla.amp.syncfree torchao torchao.optim torchdistx
torchdistx.optimizers""".split()
# Every key that any of them reads.
ARGS = (
    "momentum=0.3,dampening=0.2,eps=0.5,lr_decay=0.1,alpha=0.4,rank=3,update_proj_gap=7,scale=0.6,proj_type=x,proj=y,"
    "scale_type=z,alpha_init=0.2,lamb=3,gamma=0.3,use_kahan_summation=True,momentum_dtype=float64,block_size=128,"
    "weight_lr_power=3,r=0.1,max_lr=0.1"
)
OPTIONS = {
    "adam_beta1": (0.9, 0.8),
    "adam_beta2": (0.99, 0.98),
    "adam_epsilon": (1e-8, 1e-6),
    "optim_args": (None, ARGS),
    "optim_target_modules": ("all-linear", ["q_proj"]),
}


class Recorded:
    """In place of an optimizer: shows what it was to be built with."""

    def __init__(self, *given, **options):
        self.given = given, options

    def __repr__(self):
        return repr(self.given)


@pytest.fixture
def built(monkeypatch, tmp_path):
    """What transformers would build of an optimizer's name and options."""
    for name in PACKAGES:
        package = ModuleType(name)
        package.__getattr__ = lambda _: Recorded
        monkeypatch.setitem(sys.modules, name, package)
    asked = [transformers.trainer, sys.modules.get("transformers.trainer_optimizer")]  # the latter since 5.0
    for module in filter(None, asked):
        for name in vars(module).copy():
            if name.startswith("is_") and name.endswith("_available"):
                monkeypatch.setattr(module, name, lambda *_: True)
    version = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0" if name == "torchao" else version(name))
    model = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(2, 2), "o_proj": torch.nn.Linear(2, 2)})
    args = TrainingArguments(str(tmp_path), use_cpu=True, optim_target_modules="all-linear")

    def build(optim: OptimizerNames, **options) -> str:
        with monkeypatch.context() as patch:
            for name, value in {"optim": optim, **options}.items():
                patch.setattr(args, name, value)
            return repr(Trainer.get_optimizer_cls_and_kwargs(args, model))

    return build


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_given_where_it_changes_what_is_built(option, built):
    one, other = OPTIONS[option]
    found = {optim.value: built(optim, **{option: one}) != built(optim, **{option: other}) for optim in OptimizerNames}
    assert {optim: is_given(option, optim) for optim in found} == found
