# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The costs of a run under one strategy put together: whether it fits, and its totals."""

from dataclasses import dataclass, replace
from functools import cached_property

from ..model import ModelSizes
from ..run import Run
from ..run.evaluation import judge_calls, pool_calls, pool_samplings, samplings
from .bytes import GIB
from .flop import Tokens, evaluation_flop, evaluation_tokens, pool_flop, round_flop, tokens
from .memory import Memory, device_memory, memory
from .time import Device, Speed, evaluation_seconds, pool_seconds, round_seconds
from .vllm import least_share


USABLE = 0.9  # the share of a device's memory that tensors get: the rest is the driver's, or in pieces


def usable(run: Run, memory: float) -> int:
    """Bytes that tensors get of a device with so many GiB. On the CPU the processes share them."""
    return int(USABLE * GIB * memory / (run.num_processes if run.strategy == "cpu" else 1))


@dataclass(frozen=True)
class Plan:
    """
    A run of a model on devices.

    Args:
        model ([`ModelSizes`]): what [`load_sizes`], [`sizes_from_config`] or [`sizes_by_hand`] counts.
        run ([`Run`]): the run; [`run_of`] makes one of a trainer's config.
        device ([`Device`]): each of them, as in [`DEVICES`].
        speed ([`Speed`], *optional*): the shares of its peak rates that are reached.
    """

    model: ModelSizes
    run: Run
    device: Device
    speed: Speed = Speed()

    @property
    def limit(self) -> int:
        """Bytes that a device has for tensors."""
        return usable(self.run, self.device.memory)

    @cached_property
    def memory(self) -> Memory:
        return memory(self.model, self.run, self.limit)

    @cached_property
    def _on_device(self) -> Memory:
        return device_memory(self.model, self.run, self.limit)  # which many are asked for, to find one that fits

    @property
    def peak(self) -> int:
        """Bytes of the fullest moment of a device; on the CPU with what else lies there."""
        if self.run.strategy == "cpu":
            return self.memory.peak + sum(self.memory.host.values())
        return self._on_device.peak

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit and self.vllm_share_missing == 0

    @property
    def vllm_share_missing(self) -> float:
        """The `vllm_gpu_memory_utilization` that a colocated engine needs to start, if it has less, else 0."""
        run = self.run
        least = least_share(self.model, run, self.limit) if run.colocates_vllm else 0.0
        return least if least > run.vllm_gpu_memory_utilization else 0.0

    # ---- Totals, of all devices ----

    @property
    def scorings(self) -> float:
        """Scoring passes of a mean round."""
        return self.run.all_scorings / self.run.rounds

    @property
    def tokens_a_round(self) -> Tokens:
        """Tokens of the last round."""
        return tokens(self.model, self.run, self.run.scorings(self.run.rounds - 1))

    @property
    def tokens(self) -> Tokens:
        """Tokens of the run."""
        rounds = tokens(self.model, self.run, self.run.all_scorings / self.run.rounds)
        evaluation = evaluation_tokens(self.model, self.run)
        counts = [self.run.rounds * a + self.run.evaluations * b for a, b in zip(rounds, evaluation, strict=True)]
        counts[0] += self.run.evaluation_prompts * pool_samplings(self.run) * self.run.mean_own
        return Tokens(*map(round, counts))

    @property
    def judge_calls_a_round(self) -> int:
        return self.run.judge_calls_a_round

    @property
    def judge_calls(self) -> int:
        """Judge calls of the run."""
        run = self.run
        evaluation = run.evaluations * judge_calls(run) + pool_calls(run)
        return run.rounds * run.judge_calls_a_round + run.evaluation_prompts * evaluation

    @property
    def user_calls(self) -> int:
        """Questions to the user of the run, at most."""
        run = self.run
        evaluated = run.evaluations * samplings(run) * run.num_generations + pool_samplings(run)
        return run.rounds * run.user_calls_a_round + run.evaluation_prompts * evaluated * (run.turns - 1)

    @cached_property
    def flop(self) -> dict[str, float]:
        """FLOP of the run, by what they are for."""
        parts = round_flop(self.model, self.run, self.scorings)
        return self._in_all(parts, evaluation_flop(self.model, self.run), pool_flop(self.model, self.run))

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds of the run, by what they are for."""
        parts = round_seconds(self.model, self.run, self.device, self.speed, self.scorings)
        measured = self.model, self.run, self.device, self.speed
        return self._in_all(parts, evaluation_seconds(*measured), pool_seconds(*measured))

    def _in_all(self, a_round: dict[str, float], evaluation: float, pool: float) -> dict[str, float]:
        run, costs = self.run, {name: self.run.rounds * cost for name, cost in a_round.items()}
        return costs | ({"evaluation": run.evaluations * evaluation + pool} if run.evaluation_prompts else {})

    def having(self, **changes) -> "Plan":
        """The plan of the run with these changes."""
        return replace(self, run=replace(self.run, **changes))

    def advice(self) -> str | None:
        """What to change so that the run fits, in one sentence; `None` if it does."""
        from ..advice import remedy

        return None if self.fits else remedy(self)
