# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Frozen policies in checkpoints: each rank's shards as safetensors, and unchanged ones written once."""

import os
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import torch

from ..algorithms import INITIAL, Policy
from .memory import Copies, is_sharded, trainable_weights


class PolicyFiles:
    """Writes and reads frozen policies. Part of [`FrozenPolicies`], which holds them."""

    _weights: dict[Policy, Copies]
    # Which policy was last saved where; one that is given up is not kept for it.
    _files: list[tuple["weakref.ref[Copies]", Path]]

    def save(self, folder: str | Path, rank: int, policies: Iterable[Policy] | None = None) -> None:
        """
        Writes this rank's frozen policies, or some of them, below `folder`; whole weights are written by rank 0 alone.
        """
        from safetensors.torch import save_file

        if rank != 0 and not is_sharded(self._unwrapped()):
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        files = []
        chosen = list(self._weights) if policies is None else list(policies)
        for policy in chosen:
            weights = self._weights[policy]
            file = self._file(folder, policy, rank)
            file.unlink(missing_ok=True)  # it may be a link to another checkpoint's
            try:
                # Saved before and unchanged since: one file in several checkpoints, until the last of them is deleted.
                os.link(next(earlier for kept, earlier in self._files if kept() is weights), file)
            except (StopIteration, OSError):  # new; or deleted, or no links on this file system
                save_file({key: tensor.contiguous() for key, tensor in weights.items()}, file)
            files.append((weakref.ref(weights), file))
        if policies is None:  # else it is no checkpoint, which stays as it is
            self._files = files

    def load(self, folder: str | Path, rank: int, policies: Iterable[Policy], processes: int | None = None) -> None:
        """
        Restores `policies`, which [`save`] wrote. If `processes` is another number than saved them, FSDP2's shards are
        cut anew; ZeRO-3's cannot be.

        Raises:
            `ValueError`: if files are missing, or are not of this model.
        """
        from safetensors.torch import load_file

        expected = {key: tensor.shape for key, tensor in self._local()}
        if not is_sharded(self._unwrapped()):
            rank, processes = 0, 1
        self._weights, self._files = {}, []
        for policy in policies:
            first = self._file(folder, policy, 0)
            if not first.is_file():
                raise ValueError(f"{first} is missing: copy the whole checkpoint to every machine, or start anew.")
            parts = sorted(Path(folder).glob(f"{policy}-*.safetensors"))
            file = self._file(folder, policy, rank)
            as_saved = processes in (None, len(parts))
            weights = load_file(file) if as_saved else self._rows(parts, rank, processes)
            if {key: tensor.shape for key, tensor in weights.items()} != expected:
                raise ValueError(
                    f"{first} does not fit this model: its trainable weights have other names or shapes. Resume with "
                    "the model, adapter, sharding and number of processes that the checkpoint was saved with."
                )
            self._weights[policy] = copies = self._copy(weights)
            if as_saved:
                self._files.append((weakref.ref(copies), file))
        self._fresh_adapter = self._adapter_was_fresh and INITIAL not in self

    @staticmethod
    def _rows(parts: list[Path], rank: int, processes: int) -> dict[str, torch.Tensor]:
        """This rank's rows of weights whose rows lie in several files in order, shared out as FSDP2 does."""
        from safetensors import safe_open

        weights = {}
        with ExitStack() as stack:
            files = [stack.enter_context(safe_open(part, "pt")) for part in parts]
            for key in files[0].keys():  # noqa: SIM118
                whole = torch.cat([file.get_tensor(key) for file in files])
                rows = -(-len(whole) // processes)
                weights[key] = whole[rank * rows : (rank + 1) * rows].clone()
        return weights

    @staticmethod
    def _file(folder: str | Path, policy: Policy, rank: int) -> Path:
        return Path(folder) / f"{policy}-{rank:05d}.safetensors"


@torch.no_grad()
def load_frozen(model: torch.nn.Module, file: Path) -> None:
    """
    Has the trainable weights of a model be those of a frozen policy that [`FrozenPolicies.save`] wrote.

    Args:
        model (`torch.nn.Module`): the policy, or what it has become, whole.
        file (`Path`): rank 0's. Where weights were sharded, those of the other ranks lie beside it.

    Raises:
        `ValueError`: if the files are not of this model, or of ZeRO-3, whose shards have lost their shapes.
    """
    parts = sorted(file.parent.glob(f"{file.name.rpartition('-')[0]}-*.safetensors"))
    weights, live = PolicyFiles._rows(parts, 0, 1), dict(trainable_weights(model))
    if {key: tensor.shape for key, tensor in weights.items()} != {key: tensor.shape for key, tensor in live.items()}:
        raise ValueError(
            f"{file} does not fit the model above it: its trainable weights have other names or shapes. Shards of "
            "ZeRO-3 can be read by their run only."
        )
    for key, tensor in live.items():
        tensor.copy_(weights[key])
