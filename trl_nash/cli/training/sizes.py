# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sizes of a training command that nobody has chosen."""

from dataclasses import replace
from typing import TYPE_CHECKING

from ...planning.costs import usable
from ...planning.known import UNFITTED
from ...planning.machine import memory_here, strategy_here
from ...planning.model import ModelSizes, load_sizes
from ...planning.run import Run
from ...planning.run.config import run_of
from ...planning.run.judge import judge_of
from ...planning.sizes import fitted_round, generation_batch
from ...usage import UsageError


if TYPE_CHECKING:
    from pathlib import Path

    from ...trainers.run.checkpoints.files import Found


def choose_sizes(
    algorithm: str, arguments, prompts, path: str, adapter: dict | None = None, resumed: "Found | None" = None
) -> Run:
    """
    Sets the sizes that nobody has chosen: a round that is fitted, generation calls that fill the device.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.
        arguments ([`~trl_nash.cli.options.arguments.Arguments`]):
            What the options say. Its `training` is changed.
        prompts ([`~trl_nash.cli.training.data.Prompts`]):
            The data.
        path (`str`):
            The model, or that beneath an adapter.
        adapter (`dict`, *optional*):
            The configuration of the adapter that is trained further.
        resumed ([`~trl_nash.trainers.run.checkpoints.files.Found`], *optional*):
            The checkpoint that the run goes on from, with the rounds that it has.

    Returns:
        [`Run`]: The run in the terms of a plan, but for its length.
    """
    training, chosen, said = arguments.training, arguments.chosen, arguments.judge
    names = said.names or [f"reward:{name}" for name in _listed(training.reward_model_path)]
    run = run_of(
        algorithm,
        training,
        arguments.model,
        judge=judge_of(names, said.judge_kwargs, local_files_only=False),
        adapter=adapter,
        strategy=strategy_here(training),
        evaluation_prompts=count(prompts.evaluation) or 0,
        user=arguments.script.user,
    )
    if algorithm not in UNFITTED and not chosen & {"steps_per_generation", "generation_batch_size"}:
        passes = training.num_iterations if "num_iterations" in chosen else None
        saved = None if resumed is None else _saved_round(run, resumed.checkpoint, passes)
        steps, passes = saved or fitted_round(run, count(prompts.train), passes, training.max_steps)
        training.steps_per_generation, training.num_iterations = steps, passes
        run = replace(run, steps_per_generation=steps, num_iterations=passes)
    if "per_device_generation_batch_size" not in chosen:
        try:
            sizes = load_model_sizes(path, arguments)
        except UsageError:
            return run  # not at hand, or no language model whose parts are known: as it is trained
        call = generation_batch(sizes, run, usable(run, memory_here(training)))
        training.per_device_generation_batch_size = call
        run = replace(run, per_device_generation_batch_size=call)
    return run


def _saved_round(run: Run, checkpoint: "Path", passes: int | None) -> tuple[int, int] | None:
    """`steps_per_generation` and `num_iterations` that make rounds like those of a checkpoint, if there are such."""
    from ...trainers.run.checkpoints.files import round_of

    if (saved := round_of(checkpoint)) is None:
        return None
    steps = saved["prompts"] // (run.per_device_train_batch_size * run.num_processes)
    passes = passes or saved["optimizer steps"] * run.gradient_accumulation_steps // max(1, steps * run.fits_per_round)
    made = replace(run, steps_per_generation=steps, num_iterations=passes)
    same = (made.prompts_per_round, made.optimizer_steps_per_round) == (saved["prompts"], saved["optimizer steps"])
    return (steps, passes) if steps and passes and same else None


def load_model_sizes(path: str, arguments) -> ModelSizes:
    """
    The sizes of the model that is trained.

    Raises:
        UsageError: If they cannot be counted.
    """
    revision, trusted = arguments.model.model_revision, arguments.training.trust_remote_code
    return load_sizes(path, local_files_only=False, revision=revision, trust_remote_code=trusted)


def count(dataset) -> int | None:
    """Rows of a dataset; `None` of a stream, and where there is none."""
    return len(dataset) if hasattr(dataset, "__len__") else None


def _listed(value) -> list:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]
