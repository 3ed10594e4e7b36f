# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Options of optimizers that do nothing with some of them, as transformers hands them over
(`Trainer.get_optimizer_cls_and_kwargs`). The command line asks before it imports torch.
"""

_BETAS = ("adafactor", "adagrad", "adalomo", "galore", "grokadamw", "lomo", "rmsprop", "schedule_free_sgd", "sgd")
# Option: how the names of optimizers begin that do not get it.
_NOT_GIVEN = {
    "adam_beta1": _BETAS,
    "adam_beta2": _BETAS,
    "adam_epsilon": (*_BETAS, "lion", "paged_lion"),
    "optim_args": ("adafactor", "adalomo", "adamw_8bit", "adamw_bnb", "lion", "lomo", "paged_adamw", "paged_lion"),
}
# These begin as optimizers of torchao do, which get it.
_NO_ARGS = ("adamw_torch", "adamw_torch_fused", "adamw_torch_npu_fused", "adamw_torch_xla")


def is_given(option: str, optim: str) -> bool:
    """Whether an optimizer gets an option: `adam_beta1`, `adam_beta2`, `adam_epsilon`, `optim_args` or its modules."""
    if option == "optim_target_modules":
        return optim.startswith(("galore", "apollo"))
    return not optim.startswith(_NOT_GIVEN[option]) and not (option == "optim_args" and optim in _NO_ARGS)
