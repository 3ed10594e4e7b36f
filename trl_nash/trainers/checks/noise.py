# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What draws random numbers in a forward: dropout that is no module, noise of a router, a router that samples."""

import types
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


def random_state(device: torch.device) -> list[bytes]:
    """Of the generators that a forward on `device` may draw from: it changes with every number."""
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return [state.numpy().tobytes() for state in states]


def drawing(forward: Callable, device: torch.device) -> list[nn.Module]:
    """The modules that draw random numbers in a forward, without those of which only parts do."""
    found, entered = [], []

    def enter(module, args):
        entered.append([random_state(device), False])

    def leave(module, args, output):
        before, explained = entered.pop()
        if random_state(device) == before:
            return
        if not explained:
            found.append(module)
        if entered:
            entered[-1][1] = True

    with register_module_forward_pre_hook(enter), register_module_forward_hook(leave):
        forward()
    return found


def silence(model: nn.Module, forward: Callable, device: torch.device) -> list[str]:
    """
    Has what draws random numbers in training mode stay in evaluation mode, and returns the names of these modules.

    Args:
        model (`torch.nn.Module`): a model in training mode.
        forward (`Callable`): a forward of it or of a model around it.
        device (`torch.device`): where it draws random numbers.
    """
    names: list[str] = []
    while True:
        random = drawing(forward, device)
        # The mode of the whole model counts elsewhere; and what draws in evaluation mode too cannot be silenced.
        found = {name: m for name, m in model.named_modules() if m in random and m is not model and m.training}
        if not found:
            return names
        names += found
        for module in found.values():
            stay_in_evaluation(module)


def stay_in_evaluation(module: nn.Module) -> None:
    """Puts a module, without those in it, in evaluation mode for good."""

    def train(self, mode: bool = True):
        for child in self.children():
            child.train(mode)
        return self

    module.training = False
    module.train = types.MethodType(train, module)
