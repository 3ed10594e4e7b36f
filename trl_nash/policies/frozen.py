# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Frozen policies by when they were, at no cost in accelerator memory between rounds.

A frozen policy is the trainable weights as they stood: adapter tensors under PEFT, all weights in full fine-tuning.
They are kept on the CPU, *one shard for each rank*, or one copy for each machine where every rank has all weights, and
are exchanged with the live weights in place while the policy is asked for something. So the same code serves one
device, DDP, ZeRO and FSDP2, and there is never a second model on the device.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import nn

from ..algorithms import AVERAGE, INITIAL, START, Policy
from .files import PolicyFiles
from .memory import (
    Copies,
    MachineMemory,
    OwnMemory,
    fingerprint,
    is_sharded,
    shared_memory_is_possible,
    trainable_weights,
)


_PART = 2**26  # bytes that are exchanged at a time, and held twice on the device

BESIDE_SHARDS = (
    "Under ZeRO-3 and FSDP2 a second policy cannot be run beside the live one. Train an adapter (`peft_config=`), "
    "pass `ref_model=`, or set `mixture_coef=0`."
)


class FrozenPolicies(PolicyFiles):
    """
    The frozen policies of a training run.

    Args:
        live (`Callable[[], torch.nn.Module]`):
            Returns the policy as it is called for training (wrapped by DDP, DeepSpeed or FSDP once it is).
        unwrapped (`Callable[[], torch.nn.Module]`):
            Returns the same model without the wrapper.
        ref_model (`torch.nn.Module`, *optional*):
            An explicit reference: it is `INITIAL`, and no weights are copied for it.
        fresh_adapter (`bool`, *optional*, defaults to `False`):
            Whether the policy is a base model and an adapter that changes nothing yet. Then `INITIAL` is the model
            with its adapters off (never `get_base_model()`, which leaves LoRA layers active).

    Attributes:
        averaged (`int`): rounds whose policies are in `AVERAGE`.
        pinned (`set[Policy]`): policies that are kept whatever fits name.
    """

    def __init__(
        self,
        live: Callable[[], nn.Module],
        unwrapped: Callable[[], nn.Module],
        ref_model: nn.Module | None = None,
        fresh_adapter: bool = False,
    ):
        self._live = live
        self._unwrapped = unwrapped
        self._ref_model = ref_model
        self._adapter_was_fresh = self._fresh_adapter = fresh_adapter
        self._has_begun = False
        self._weights: dict[Policy, Copies] = {}
        self._files = []
        self.averaged = 0
        self.pinned: set[Policy] = set()

    def __contains__(self, policy: Policy) -> bool:
        return policy in self._weights

    def __iter__(self) -> Iterator[Policy]:
        return iter(self._weights)

    def resolve(self, policy: Policy) -> Policy:
        """What a policy is kept as: the start is `INITIAL`, unless that is a model of its own."""
        return INITIAL if policy == START and self._ref_model is None else policy

    def knows(self, policy: Policy) -> bool:
        """Whether a policy can be asked now: the start always can."""
        return self.resolve(policy) == INITIAL or self.resolve(policy) in self

    def _local(self) -> Iterator[tuple[str, torch.Tensor]]:
        return trainable_weights(self._unwrapped())

    @cached_property
    def _memory(self) -> OwnMemory:
        device = next(tensor.device for _, tensor in self._local())
        if is_sharded(self._unwrapped()) or not shared_memory_is_possible():
            return OwnMemory(device)
        return MachineMemory(device)

    def _parts(self) -> Iterator[list[tuple[str, torch.Tensor]]]:
        """The live weights, a few at a time."""
        part, size = [], 0
        for key, tensor in self._local():
            part.append((key, tensor.detach()))
            size += tensor.nbytes
            if size >= _PART:
                yield part
                part, size = [], 0
        yield part

    def start_over(self) -> None:
        """Gives up all policies: a run begins. Where an earlier one has trained the adapter, that is fresh no more."""
        self._weights, self._files, self.averaged, self.pinned = {}, [], 0, set()
        self._fresh_adapter = self._adapter_was_fresh and not self._has_begun
        self._has_begun = True

    @property
    def initial_is_a_copy(self) -> bool:
        """Whether `INITIAL` is a copy of weights, and neither `ref_model` nor the model with its adapters off."""
        return self._ref_model is None and not self._fresh_adapter

    def ensure_initial(self) -> None:
        """Freezes `INITIAL` unless it is at hand already. Called before the first step."""
        if self.initial_is_a_copy and INITIAL not in self:
            self.freeze(INITIAL)

    def freeze(self, policy: Policy) -> None:
        """Keeps the live policy, as it stands, as `policy`."""
        self._weights[policy] = self._copy(dict(self._local()))

    def pin(self, policy: Policy) -> None:
        """Keeps the live policy, as it stands, as `policy`, until a run begins anew."""
        self.pinned.add(policy)
        if policy not in self:
            self.freeze(policy)

    def keep(self, needed: Iterable[Policy], live: Policy) -> None:
        """
        Gives up the policies that are not `needed` any more, and freezes the live one, which is `live`, if it is.
        `INITIAL` is kept for metrics and evaluation even if no fit names it.
        """
        needed = {self.resolve(policy) for policy in needed}
        for policy in set(self) - needed - self.pinned - {INITIAL, AVERAGE}:
            del self._weights[policy]
        live = self.resolve(live)
        if live in needed and live != INITIAL and live not in self:
            self.freeze(live)

    def _copy(self, weights: dict[str, torch.Tensor]) -> Copies:
        copies = self._memory.allocate(weights)
        for key, tensor in self._memory.mine(weights.items()):
            copies[key].copy_(tensor.detach(), non_blocking=True)
        self._memory.wait()
        return copies

    def fingerprint(self) -> list[int]:
        """Numbers that change whenever this rank's part of the live policy does."""
        return fingerprint(self._unwrapped())

    def average(self, round: int, decay: float) -> None:
        """
        Adds the live policy, that of the start of `round`, to `AVERAGE`, unless it is in there already:
        `weights <- decay * weights + (1 - decay) * live weights` in fp32; the first is the average itself.
        """
        if round < self.averaged:
            return
        self.averaged = round + 1
        if AVERAGE not in self:
            live = {key: tensor.detach().float() for key, tensor in self._local()}
            self._weights[AVERAGE] = self._copy(live)
            return
        copies = self._weights[AVERAGE]
        self._files = [(kept, file) for kept, file in self._files if kept() is not copies]  # another one from now on
        self._memory.wait()
        for key, tensor in self._memory.mine(self._local()):
            copies[key].lerp_(tensor.detach().cpu().float(), 1 - decay)
        self._memory.wait()

    def _exchange(self, frozen: Copies) -> None:
        """Swaps live and frozen weights in place, a few tensors at a time; a second call undoes the first, bitwise."""
        for part in self._parts():
            incoming = [frozen[key].to(live.device, non_blocking=True, copy=True) for key, live in part]
            self._memory.wait()  # who shares it has read it too
            for key, live in self._memory.mine(part):
                frozen[key].copy_(live, non_blocking=True)
            for (_, live), tensor in zip(part, incoming, strict=True):
                live.copy_(tensor)
        self._memory.wait()
        # ZeRO-3 keeps small parameters gathered: gather them anew, as its optimizer does after a step.
        gathered = [p for p in self._unwrapped().parameters() if getattr(p, "ds_persist", False)]
        if gathered:
            gathered[0].partition(gathered)
            gathered[0].all_gather(gathered)

    def _in_live_dtype(self, policy: Policy) -> Copies:
        """A kept policy to exchange with. The average, which is kept in fp32, may have to be rounded for it."""
        copies, live = self._weights[policy], dict(self._local())
        if all(copies[key].dtype == tensor.dtype for key, tensor in live.items()):
            return copies
        return self._copy({key: copies[key].to(tensor.dtype) for key, tensor in live.items()})

    @contextmanager
    def active(self, policy: Policy) -> Iterator[nn.Module]:
        """
        Yields the model that *is* `policy` while the context lasts. All processes enter it together.

        Raises:
            `KeyError`: if no such policy was frozen.
        """
        policy = self.resolve(policy)
        if policy in self:
            frozen = self._in_live_dtype(policy)
            self._exchange(frozen)
            try:
                yield self._live()
            finally:
                self._exchange(frozen)
        elif policy == INITIAL and self._ref_model is not None:
            yield self._ref_model
        elif policy == INITIAL and self._fresh_adapter:
            with self._unwrapped().disable_adapter():
                yield self._live()
        else:
            raise KeyError(f"{policy} is not kept: there are {', '.join(map(str, sorted(self)))}.")

    @contextmanager
    def beside(self, policy: Policy) -> Iterator[Callable]:
        """
        Yields a context manager to enter at every token, in which the unwrapped model is `policy`.

        For generation that needs two policies at once. Weights are put on the device once, so full fine-tuning holds a
        second copy there while the context lasts.

        Raises:
            `ValueError`: if the weights are sharded: two policies cannot be gathered at once.
        """
        policy = self.resolve(policy)
        if policy not in self:

            @contextmanager
            def enter():
                if self._ref_model is not None:
                    yield self._ref_model
                else:
                    with self._unwrapped().disable_adapter():
                        yield self._unwrapped()

            yield enter
            return

        model = self._unwrapped()
        if is_sharded(model):
            raise ValueError(BESIDE_SHARDS)
        frozen = self._weights[policy]
        resident = [(p, frozen[key].to(p.device, p.dtype)) for key, p in model.named_parameters() if key in frozen]

        def flip():
            # Pointers change hands, nothing is copied.
            for index, (parameter, weights) in enumerate(resident):
                resident[index] = (parameter, parameter.data)
                parameter.data = weights

        @contextmanager
        def enter():
            flip()
            try:
                yield model
            finally:
                flip()

        yield enter
