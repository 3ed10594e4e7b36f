# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is wrong with the options of a training command, said before anything starts and before torch is imported."""

import argparse
import importlib.util
import os
import re
from collections.abc import Iterable

from ...data.columns import find_prompt_column
from ...data.files import check_file, first_row, is_file
from ...extras import pip_install
from ...trainers.checks.refused import check_refused
from ...trainers.checks.values import check_values
from ...usage import UsageError
from ..training.output_folder import DEFAULT, check_output_folder
from ..training.reports.trackers import check_trackers
from .judge import JudgeArguments
from .unused import check_unused


# What an option needs, and how one gets it.
_PACKAGES = {
    "use_peft": ("peft", pip_install("peft")),
    "load_in_4bit": ("bitsandbytes", pip_install("quantization")),
    "load_in_8bit": ("bitsandbytes", pip_install("quantization")),
    "use_vllm": ("vllm", pip_install("vllm")),
    "use_liger_kernel": ("liger_kernel", "pip install liger-kernel"),
}


def check(arguments: argparse.Namespace, given: Iterable[str]) -> None:
    """
    Checks all that can be checked before any configuration class is built.

    Args:
        arguments (`argparse.Namespace`):
            What [`~trl_nash.cli.options.parser.NashParser`] parsed.
        given (`Iterable[str]`):
            The options among them that were typed, or in the YAML file.

    Raises:
        UsageError: In a sentence, if anything is missing, out of range, or would do nothing.
    """
    check_arguments(arguments)
    try:
        check_values(arguments)
        check_refused(arguments)
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_unused(arguments, list(given))
    check_trackers(arguments.report_to)
    check_output_folder(arguments)
    for name, (package, install) in _PACKAGES.items():
        if getattr(arguments, name) and importlib.util.find_spec(package) is None:
            raise UsageError(f"--{name}: {package} is not installed: {install}")
    _check_checkpoint(arguments)
    _check_data(arguments)
    _check_judge(arguments)


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Checks what every run needs.

    Args:
        arguments (`argparse.Namespace`):
            What [`~trl_nash.cli.options.parser.NashParser`] parsed.

    Raises:
        UsageError: If model, data or judge is missing, or a judge and a reward model are both given.
    """
    path = arguments.model_name_or_path
    if path is None:
        raise UsageError("say which model to train: --model_name_or_path ORG/NAME or a directory.")
    if path.startswith((".", "/", "~")) and not os.path.isdir(path):
        raise UsageError(f"--model_name_or_path {path}: there is no such directory.")
    if arguments.dataset_name is None and not arguments.datasets:
        raise UsageError(
            "say which prompts to train on: --dataset_name ORG/NAME or a .jsonl, .parquet, .csv or .txt file."
        )
    if (arguments.judge is None) == (arguments.reward_model_path is None):
        found = "neither was" if arguments.judge is None else "both were"
        raise UsageError(
            f"give either --judge (reward:org/model, package.module:name, ...) or --reward_model_path, {found} given."
        )
    if arguments.judge_kwargs is not None and arguments.judge is None:
        raise UsageError("--judge_kwargs belongs to --judge; with --reward_model_path use the options of the config.")
    JudgeArguments(arguments.judge, arguments.judge_kwargs)
    if arguments.user is not None and re.search(r"://([^/]*@|.*\?)", arguments.user):
        raise UsageError(
            f"user: the URL in {arguments.user.partition('://')[0]}://... holds a password or a query, which would be "
            "printed; put the key into the environment variable OPENAI_API_KEY."
        )


def _check_checkpoint(arguments: argparse.Namespace) -> None:
    if arguments.resume_from_checkpoint:
        from ...trainers.run.checkpoints.files import find_checkpoint

        try:
            find_checkpoint(arguments.resume_from_checkpoint, arguments.output_dir or DEFAULT)
        except ValueError as error:
            raise UsageError(str(error)) from None


def _check_data(arguments: argparse.Namespace) -> None:
    """Files of prompts, as far as it is seen by their first rows."""
    option, items = "--dataset_name", [{"path": arguments.dataset_name, "split": arguments.dataset_train_split}]
    if arguments.datasets:
        option, items = "datasets:", [item for item in arguments.datasets if isinstance(item, dict)]
    for item in items:
        name = item.get("path")
        if isinstance(name, str) and is_file(name):
            try:
                check_file(name)
            except (OSError, ValueError, ImportError) as error:
                raise UsageError(f"{option} {error}") from None
            if "[" not in str(item.get("split")):  # or it may begin with another row
                _check_prompt_column(name, item.get("columns"), arguments.prompt_column)


def _check_prompt_column(name: str, columns: list[str] | None, wanted: str | None) -> None:
    row = first_row(name)
    if row is not None:
        try:
            find_prompt_column({key: row.get(key) for key in columns or row}, wanted, name)
        except ValueError as error:
            raise UsageError(str(error)) from None


def _check_judge(arguments: argparse.Namespace) -> None:
    from ...judges import check_name  # with numpy

    for name in JudgeArguments(arguments.judge, arguments.judge_kwargs).names:
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(str(error)) from None
