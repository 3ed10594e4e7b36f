# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What would make a run fit, or, where it fits, faster."""

import math
from collections.abc import Callable, Iterator

from .costs import Plan
from .costs.bytes import GIB, quantised
from .known import DEEPSPEED, SHARDED
from .run import Run
from .sizes import generation_batch
from .words import duration, gib


WORTH = 0.1  # the share of a run's time that is worth a sentence
MOST = 4096  # prompts
HALF = {"dtype": "bfloat16"}
SERVER = {"use_vllm": True, "vllm_mode": "server"}
SERVER_WORDS = "--use_vllm --vllm_mode server, on devices of its own"


def remedy(plan: Plan) -> str:
    """What to change so that the run fits, in one sentence."""
    if share := plan.vllm_share_missing:
        share = math.ceil(100 * share) / 100
        if share < 1 and plan.having(vllm_gpu_memory_utilization=share).fits:
            return f"vLLM has no room for a row beside its weights: use --vllm_gpu_memory_utilization {share:g}."
    words = next((words for words, changes in _changes(plan.run) if plan.having(**changes).fits), None)
    if words is not None:
        return f"It does not fit: use {words}."
    return "It does not fit, nor does any strategy on up to 64 devices: choose devices of more memory."


def _changes(run: Run) -> Iterator[tuple[str, dict]]:
    """Changes that save memory, the ones that change least first."""
    eases: list[tuple[list[str], dict]] = [([], {})]
    if halves(run):
        eases.append((["--dtype bfloat16"], HALF))
    if run.colocates_vllm and not run.vllm_enable_sleep_mode:
        eases.append((["--vllm_enable_sleep_mode"], {"vllm_enable_sleep_mode": True}))
    for size in _halves_of(run.generation_chunk):
        eases.append(([f"--per_device_generation_batch_size {size}"], {"per_device_generation_batch_size": size}))
    if not run.gradient_checkpointing:
        eases.append((["--gradient_checkpointing"], {"gradient_checkpointing": True}))
    smaller = [_micro_batch(run, size) for size in _halves_of(run.per_device_train_batch_size)]
    eases += smaller
    if smaller:
        words, small = smaller[-1]
        if halves(run):
            eases.append((["--dtype bfloat16", *words], small | HALF))
        if not run.gradient_checkpointing:
            eases.append((["--gradient_checkpointing", *words], small | {"gradient_checkpointing": True}))
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
            if name == "zero2" or not (quantised(run) or run.plays_mixture and not run.use_peft)
        ]
    adapters: list[tuple[list[str], dict]] = []
    if not run.use_peft:
        adapters.append((["--use_peft"], {"use_peft": True}))
        if run.dtype == "float32":
            adapters.append((["--use_peft --dtype bfloat16"], {"use_peft": True} | HALF))
    if not run.load_in_4bit and run.strategy not in SHARDED:
        words = ["--load_in_4bit"] if run.use_peft else ["--use_peft --load_in_4bit"]
        adapters.append((words, {"use_peft": True, "load_in_4bit": True, "load_in_8bit": False}))
    here = [kind for kind in kinds if kind[1].get("num_processes", run.num_processes) == run.num_processes]
    beyond = [kind for kind in kinds if kind not in here]
    for group in (here, _with_server(run, here), [*adapters, *beyond], _with_server(run, beyond)):
        for kind_words, kind in group:
            for ease_words, ease in eases:
                if kind or ease:
                    yield " and ".join([*kind_words, *ease_words]), kind | ease


def _halves_of(size: int) -> list[int]:
    """Half of a batch, a quarter and so on, as long as they divide it."""
    return [size >> power for power in range(1, size.bit_length()) if size % (1 << power) == 0] or [1] * (size > 1)


def _micro_batch(run: Run, size: int) -> tuple[list[str], dict]:
    """A smaller micro-batch, with as many more of them, so that a round and an optimizer step keep their prompts."""
    factor = run.per_device_train_batch_size // size
    changes = {
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": factor * run.gradient_accumulation_steps,
        "steps_per_generation": factor * run.steps_per_generation,
        "per_device_generation_batch_size": min(size, run.generation_chunk),
    }
    accumulation = changes["gradient_accumulation_steps"]
    return [f"--per_device_train_batch_size {size} --gradient_accumulation_steps {accumulation}"], changes


def _with_server(run: Run, kinds: list[tuple[list[str], dict]]) -> list[tuple[list[str], dict]]:
    """The sharded ones, sampled elsewhere: there the whole model need not be on each device."""
    if run.use_vllm or run.plays_mixture or quantised(run) or run.use_peft:
        return []
    return [
        ([*words, SERVER_WORDS], kind | SERVER)
        for words, kind in kinds
        if kind.get("strategy", run.strategy) in SHARDED
    ]


def halves(run: Run) -> bool:
    """
    Whether weights could be loaded in 16 bits at no loss: those that are not trained. A step of a trained one is often
    less than its rounding (`trl_nash.trainers.checks.precision`).
    """
    return (
        run.use_peft
        and run.dtype == "float32"
        and run.precision == "bf16"
        and run.strategy not in DEEPSPEED
        and not quantised(run)
    )


def hints(plan: Plan) -> list[str]:
    """What would make a run that fits faster, and how far its batches could grow: a sentence each."""
    if not plan.fits:
        return []
    found, run, now = [], plan.run, sum(plan.seconds.values())
    if halves(run):
        other = plan.having(**HALF)
        saved = (plan.memory.sampling["weights"] - other.memory.sampling["weights"]) / GIB
        then = sum(other.seconds.values())
        found.append(
            f"--dtype bfloat16 takes {saved:.2f} GiB less for weights that are not trained{_in_place_of(then, now)}."
        )
    other = plan.having(gradient_checkpointing=False)
    then = sum(other.seconds.values())
    if run.gradient_checkpointing and other.fits and now - then > WORTH * now:
        # Activations are kept, and where few weights are trained a prompt is read once for its completions.
        room = f"{gib(other.peak)} of {gib(plan.limit)} GiB"
        found.append(f"--gradient_checkpointing False takes {room}{_in_place_of(then, now)}.")
    chunk = generation_batch(plan.model, plan.run, plan.limit)
    then = sum(plan.having(per_device_generation_batch_size=chunk).seconds.values())
    if now - then > WORTH * now:
        found.append(f"--per_device_generation_batch_size {chunk} samples faster{_in_place_of(then, now)}.")
    sizes = largest_batches(plan)
    found.append(f"The largest that fit: {', '.join(f'--{name} {size}' for name, size in sizes.items())}.")
    return found


def _in_place_of(then: float, now: float) -> str:
    return f": {duration(then)} in place of {duration(now)}" if now - then > WORTH * now else ""


def largest_batches(plan: Plan) -> dict[str, int]:
    """The largest micro-batch, and the largest batch of the generator beside it that a round can fill, by option."""
    chunk = plan.run.generation_chunk

    def with_micro_batch(size: int) -> bool:
        # The generator's batch stays what it is.
        return plan.having(per_device_train_batch_size=size, per_device_generation_batch_size=chunk).fits

    def with_chunk(size: int) -> bool:
        return plan.having(per_device_generation_batch_size=size).fits

    a_device = plan.run.prompts_per_round // plan.run.num_processes
    return {
        "per_device_train_batch_size": largest(with_micro_batch, MOST),
        "per_device_generation_batch_size": largest(with_chunk, a_device),
    }


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number up to `most` that fits, where 1 does and no number fits above one that does not."""
    low, high = 1, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
