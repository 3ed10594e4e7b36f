# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The costs of a run under one strategy put together: whether it fits, what would make it fit, and its totals."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from .plan_memory import GIB, Memory, memory
from .plan_model import ModelSizes
from .plan_run import Run
from .plan_time import Device, Speed, Tokens, round_flop, round_seconds, tokens
from .plan_vllm import least_share


USABLE = 0.9  # the share of a device's memory that tensors get: the rest is the driver's, or in pieces


@dataclass(frozen=True)
class Plan:
    """A run of a model on devices."""

    model: ModelSizes
    run: Run
    device: Device
    speed: Speed

    @property
    def limit(self) -> int:
        """Bytes that a device has for tensors. On the CPU the processes share them."""
        share = self.run.num_processes if self.run.strategy == "cpu" else 1
        return int(USABLE * GIB * self.device.memory / share)

    @cached_property
    def memory(self) -> Memory:
        return memory(self.model, self.run, self.limit)

    @property
    def peak(self) -> int:
        """Bytes of the fullest moment of a device; on the CPU with what else lies there."""
        return self.memory.peak + (sum(self.memory.host.values()) if self.run.strategy == "cpu" else 0)

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
        return tokens(self.run, self.run.scorings(self.run.rounds - 1))

    @property
    def tokens(self) -> Tokens:
        generated, _, trained = (count * self.run.rounds for count in tokens(self.run, 0))
        return Tokens(generated, tokens(self.run, self.run.all_scorings).scored, trained)

    @property
    def judge_calls_a_round(self) -> int:
        return self.run.judge_calls * self.run.prompts_per_round

    @cached_property
    def flop(self) -> dict[str, float]:
        """FLOP of the run, by what they are for."""
        return {name: self.run.rounds * flop for name, flop in round_flop(self.model, self.run, self.scorings).items()}

    @cached_property
    def seconds(self) -> dict[str, float]:
        """Seconds of the run, by what they are for."""
        parts = round_seconds(self.model, self.run, self.device, self.speed, self.scorings)
        return {name: self.run.rounds * seconds for name, seconds in parts.items()}

    def advice(self) -> str | None:
        """What to change so that the run fits, in one sentence; `None` if it does."""
        if self.fits:
            return None
        if share := self.vllm_share_missing:
            share = math.ceil(100 * share) / 100
            if share < 1 and replace(self, run=replace(self.run, vllm_gpu_memory_utilization=share)).fits:
                return f"vLLM has no room for a row beside its weights: use --vllm_gpu_memory_utilization {share:g}."
        for words, changes in _changes(self.run):
            if replace(self, run=replace(self.run, **changes)).fits:
                return f"It does not fit: use {words}."
        return "It does not fit, nor does any strategy on up to 64 devices: choose devices of more memory."


def _changes(run: Run) -> Iterator[tuple[str, dict]]:
    """Changes that save memory, the ones that change least first."""
    small = {"per_device_train_batch_size": 1, "per_device_generation_batch_size": 1}
    # As many micro-steps more, so that a round keeps its prompts.
    small["steps_per_generation"] = run.steps_per_generation * run.per_device_train_batch_size
    small_words = "--per_device_train_batch_size 1 with more --gradient_accumulation_steps"
    eases: list[tuple[list[str], dict]] = [([], {})]
    if run.colocates_vllm and not run.vllm_enable_sleep_mode:
        eases.append((["--vllm_enable_sleep_mode"], {"vllm_enable_sleep_mode": True}))
    if run.generation_prompts > 1:
        eases.append((["--per_device_generation_batch_size 1"], {"per_device_generation_batch_size": 1}))
    if not run.gradient_checkpointing:
        eases.append((["--gradient_checkpointing"], {"gradient_checkpointing": True}))
    if run.per_device_train_batch_size > 1:
        eases.append(([small_words], small))
        if not run.gradient_checkpointing:
            eases.append((["--gradient_checkpointing", small_words], small | {"gradient_checkpointing": True}))
    on_cpu = run.strategy == "cpu"
    kinds: list[tuple[list[str], dict]] = [([], {})]
    if not on_cpu:
        counts = [run.num_processes, *(n for n in (2, 4, 8, 16, 32, 64) if n > run.num_processes)]
        kinds += [
            ([f"--strategy {name} over {count} devices"], {"strategy": name, "num_processes": count})
            for count in counts
            if count > 1
            for name in ("zero2", "zero3", "fsdp2")
            # Neither two policies at once nor quantised weights can be sharded.
            if name == "zero2" or not (run.load_in_4bit or run.load_in_8bit or run.plays_mixture and not run.use_peft)
        ]
    adapters: list[tuple[list[str], dict]] = []
    if not run.use_peft:
        adapters.append((["--use_peft"], {"use_peft": True}))
    if not run.load_in_4bit:
        words = ["--load_in_4bit"] if run.use_peft else ["--use_peft --load_in_4bit"]
        adapters.append((words, {"use_peft": True, "load_in_4bit": True, "load_in_8bit": False}))
    here = [kind for kind in kinds if kind[1].get("num_processes", run.num_processes) == run.num_processes]
    beyond = [kind for kind in kinds if kind not in here]
    for group in (here, [*adapters, *beyond]):
        for kind_words, kind in group:
            for ease_words, ease in eases:
                if kind or ease:
                    yield " and ".join([*kind_words, *ease_words]), kind | ease
