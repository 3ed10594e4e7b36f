# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""CPU memory for copies of weights: of one process, or of all processes of a machine together."""

import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


_ALIGNMENT = 64  # bytes
_INTEGERS = {1: torch.uint8, 2: torch.int16}  # by their size in bytes; of what is larger, 4 at a time
_HASHED = {"cpu": 2**16, "other": 2**22}  # elements at a time: what a cache holds, and few kernels


def local_tensor(parameter: nn.Parameter) -> torch.Tensor:
    """This rank's storage of a parameter: its ZeRO-3 partition, its FSDP2 shard, or the whole of it."""
    if hasattr(parameter, "ds_tensor"):
        return parameter.ds_tensor
    if isinstance(parameter.data, DTensor):
        return parameter.data.to_local()
    return parameter.data


def trainable_weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """This rank's part of the trainable weights of an unwrapped model, by their names."""
    # FSDP2 keeps what it used last gathered: back to shards, and gathered anew after an exchange.
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, local_tensor(parameter)


@torch.no_grad()
def fingerprint(model: nn.Module) -> list[int]:
    """
    Numbers that change whenever this rank's part of the trainable weights does, whoever writes to them and how: hashes
    of their bits by place, in which tensors that differ agree by chance alone, at most once in 2**32. (The versions of
    tensors, which torch counts, do not show what is written through `.data`, as here and in DeepSpeed.)
    """
    hashes = [hash_of(tensor) for _, tensor in trainable_weights(model)]
    # One transfer, also where a `device_map` has spread the model.
    return torch.stack([found.to(hashes[0].device) for found in hashes]).tolist() if hashes else []


def hash_of(tensor: torch.Tensor) -> torch.Tensor:
    """A hash of the bits of a tensor, of shape ()."""
    bits = tensor.detach().reshape(-1).view(_INTEGERS.get(tensor.element_size(), torch.int32))
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    multipliers = _multipliers(bits.device)
    for part in bits.split(len(multipliers)):
        # Arithmetic modulo 2**64.
        total = total * 6364136223846793005 + (part.long() * multipliers[: len(part)]).sum()
    return total


@cache
def _multipliers(device: torch.device) -> torch.Tensor:
    size = _HASHED.get(device.type, _HASHED["other"])
    return (torch.randint(2**62, (size,), generator=torch.Generator().manual_seed(0)) * 2 + 1).to(device)


def is_sharded(model: nn.Module) -> bool:
    """Whether a rank holds only a part of some weight (ZeRO-3, FSDP2)."""
    return any(hasattr(p, "ds_tensor") or isinstance(p.data, DTensor) for p in model.parameters())


class Copies(dict[str, torch.Tensor]):
    """Copies of weights by name: a dict that other objects can watch, so that its memory is given back with it."""


class OwnMemory:
    """
    Memory of this process, which is pinned where the weights are on a GPU: copies run while Python goes on.

    Args:
        device (`torch.device`): where the weights are that will be copied.
    """

    def __init__(self, device: torch.device):
        self.device = device

    def allocate(self, like: dict[str, torch.Tensor]) -> Copies:
        """Tensors of the shapes and types of `like`, of any content. All processes call it together."""
        pinned = self.device.type == "cuda"
        return Copies({key: torch.empty_like(t, device="cpu", pin_memory=pinned) for key, t in like.items()})

    def mine(self, items: Iterable) -> Iterable:
        """Those of `items`, which are the same on all processes, that this process is to write."""
        return items

    def wait(self) -> None:
        """Returns when all that was to be written is written, and all that was to be read is read."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class MachineMemory(OwnMemory):
    """
    Memory that the processes of a machine share, for weights of which each of them has the whole (DDP, ZeRO-1 and -2).

    There is one copy, and each process writes a part of it. It has no name in a file system: it is gone with the last
    process that uses it, however that ends, and does not count towards the few megabytes of `/dev/shm` in a container.
    """

    def __init__(self, device: torch.device):
        super().__init__(device)
        self._ranks = _neighbours()[PartialState().process_index]

    def allocate(self, like: dict[str, torch.Tensor]) -> Copies:
        sizes = [-(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT for tensor in like.values()]
        first = PartialState().process_index == self._ranks[0]
        file = None
        if first:
            file = os.memfd_create("trl-nash-policy")
            os.ftruncate(file, sum(sizes))
        path = gather_object([f"/proc/{os.getpid()}/fd/{file}"])[self._ranks[0]]
        whole = torch.from_file(path, shared=True, size=sum(sizes), dtype=torch.uint8)
        self.wait()  # until all have opened it
        if first:
            os.close(file)
        copies = Copies()
        for (key, tensor), part in zip(like.items(), whole.split(sizes), strict=True):
            copies[key] = part[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        if self.device.type == "cuda":
            _pin(whole, copies)
        return copies

    def mine(self, items: Iterable) -> Iterable:
        return list(items)[self._ranks.index(PartialState().process_index) :: len(self._ranks)]

    def wait(self) -> None:
        super().wait()
        PartialState().wait_for_everyone()


def shared_memory_is_possible() -> bool:
    """Whether processes of this run share a machine, and their memory. All processes call it together."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    return max(map(len, _neighbours())) > 1


def _neighbours() -> list[list[int]]:
    """For each process the ranks of those on its machine, in order, or its own alone if they cannot share memory."""
    file, path, place = None, "", None
    # Elsewhere than on Linux, and in some sandboxes, there is no such memory.
    with suppress(AttributeError, OSError):
        file = os.memfd_create("trl-nash-probe")
        # Containers of a machine have one boot and do not see each other's processes.
        place = (Path("/proc/sys/kernel/random/boot_id").read_text(), os.stat("/proc/self/ns/pid").st_ino)
        path = f"/proc/{os.getpid()}/fd/{file}"
    places = gather_object([(place, path)])
    seen = gather_object([[rank for rank, (its, p) in enumerate(places) if its == place and os.access(p, os.W_OK)]])
    if file is not None:
        os.close(file)
    if any(rank not in ranks or seen[other] != ranks for rank, ranks in enumerate(seen) for other in ranks or [rank]):
        return [[rank] for rank in range(len(places))]
    return seen


def _pin(memory: torch.Tensor, owner: Copies) -> None:
    """Lets a GPU copy to and from memory by itself while `owner` lives. Where that is refused, copies are slower."""
    cudart, address = torch.cuda.cudart(), memory.data_ptr()
    if int(cudart.cudaHostRegister(address, memory.nbytes, 0)) == 0:
        weakref.finalize(owner, cudart.cudaHostUnregister, address)
        return
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")  # takes the error with it, which the next kernel would be blamed for
