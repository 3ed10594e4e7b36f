# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Whether a model is one of PEFT's."""

import sys

from torch import nn


def is_peft_model(model: nn.Module) -> bool:
    """
    Whether a model is one of PEFT's, in wrappers (DDP, DeepSpeed, FSDP) or without.

    It says what accelerate's function of this name says, which parses the metadata of installed packages three times
    a call: with small models, a third of a training's time.
    """
    peft, inner = sys.modules.get("peft"), model  # PEFT has been imported where there is a model of it
    while peft is not None and inner is not None:
        if isinstance(inner, peft.PeftModel):
            return True
        inner = getattr(inner, "module", None)
    return False
