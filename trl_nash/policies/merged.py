# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The weights that a PEFT model would have with its adapters merged, for an engine that knows no adapters."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def merged_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """
    Yields the weights of a PEFT model with its active adapters merged, by the base model's names and in its order.

    PEFT merges each layer into copies of its weights, and these are yielded: the model's own are never written to. (To
    merge and unmerge in bf16 moves them a little every time.)

    Args:
        model ([`~peft.PeftModel`]): whose weights are whole: under ZeRO-3 and FSDP2, gathered.
    """
    lasting, seen = {id(parameter) for parameter in model.parameters()}, set()
    for name, parameter in _weights(model.get_base_model(), ""):
        if id(parameter) not in seen:  # tied weights are one
            seen |= {id(parameter)} & lasting
            yield name, parameter.data


def has_adapters_off(model: nn.Module) -> bool:
    """Whether the adapters of a model are turned off. Not of all models is it known what that is: they have none."""
    return any(getattr(module, "disable_adapters", False) is True for module in model.modules())


def adapts_tied_embeddings(model: nn.Module) -> bool:
    """Whether an adapter changes embeddings or the head of a model in which these are one weight."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    base = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    tied = getattr(base.config.get_text_config(), "tie_word_embeddings", False)
    return bool(tied) and any(isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for module in ends)


def _weights(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Parameter]]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        on = module.active_adapters and not module.disable_adapters
        yield from _weights(module.modules_to_save[module.active_adapters[0]] if on else module.original_module, path)
    elif isinstance(module, AuxiliaryTrainingWrapper):  # single tokens that are trained
        yield from _weights(module.token_adapter, path)
    elif isinstance(module, BaseTunerLayer):
        with _merged(module):
            yield from _weights(module.base_layer, path)
    else:
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield f"{path}{name}", parameter
        for name, child in module.named_children():
            # Of checkpointing, which wraps layers in place.
            yield from _weights(child, path if name == "_checkpoint_wrapped_module" else f"{path}{name}.")


@contextmanager
def _merged(layer) -> Iterator[None]:
    """Within it the layer's base has copies of its weights, with the active adapters merged into them."""
    if layer.disable_adapters or layer.merged:
        yield
        return
    own = [
        (module, name, parameter, parameter.data)
        for module in layer.get_base_layer().modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    for *_, parameter, data in own:
        parameter.data = data.clone()
    try:
        with torch.no_grad():
            layer.merge()
        yield
    finally:
        for *_, parameter, _ in own:
            parameter.data = parameter.data.clone()  # who has got the merged ones may not have read them yet
        if layer.merged:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of weights that are inaccurate then: they are copies
                layer.unmerge()  # for what a layer notes down while it is merged
        for module, name, parameter, data in own:
            parameter.data = data
            setattr(module, name, parameter)  # some replace it
