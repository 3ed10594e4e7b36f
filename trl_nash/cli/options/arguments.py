# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The dataclasses whose fields are the options of a training command. Importing them takes seconds."""

import argparse
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import trl_nash

from ...compat import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser
from .judge import JudgeArguments
from .typed import ALGORITHMS


@dataclass
class NashScriptArguments(ScriptArguments):
    """
    Arguments of the training commands that are not the algorithm's.

    Args:
        dataset_test_split (`str`, *optional*):
            Split of the prompts that are evaluated on. If `None`, some of those to train on are held out.
        prompt_column (`str`, *optional*):
            Column of the dataset that holds the prompts. If `None`, what the rows hold decides
            ([`~trl_nash.data.columns.find_prompt_column`]).
        dry_run (`bool`, *optional*, defaults to `False`):
            Whether to print the plan of the run and stop before any model is loaded.
        overwrite (`bool`, *optional*, defaults to `False`):
            Whether checkpoints and model of an earlier run in `output_dir` are given up.
    """

    dataset_test_split: str | None = field(
        default=None,
        metadata={
            "help": "Split of the prompts on which the policy plays its start at the end. By default 5 %% of the "
            "prompts to train on are held out for it (--test_split_size 0: none)."
        },
    )
    prompt_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of the dataset that holds the prompts. By default the first that holds some of prompt, "
            "messages (or conversations), chosen with rejected where these are dialogues, instruction (with input), "
            "question and input."
        },
    )
    user: str | None = field(
        default=None,
        metadata={
            "help": "Who answers the policy, so that completions are dialogues: openai:model@http://host:port/v1, "
            "initial (the policy as it was), local:PATH, package.module:name (docs/guides/dialogues.md)."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print the plan of the run and stop before any model is loaded."},
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Give up the checkpoints and the model that an earlier run has left in --output_dir."},
    )


class Arguments(NamedTuple):
    """What the options of a training command say."""

    script: NashScriptArguments
    judge: JudgeArguments
    training: Any  # the algorithm's config
    model: ModelConfig
    mixture: DatasetMixtureConfig
    chosen: frozenset[str] = frozenset()  # the options that somebody has chosen


def dataclasses_of(algorithm: str) -> list[type]:
    """The dataclasses of [`Arguments`] for a key of `ALGORITHMS`, in its order."""
    config = getattr(trl_nash, ALGORITHMS[algorithm].config)
    return [NashScriptArguments, JudgeArguments, config, ModelConfig, DatasetMixtureConfig]


def arguments_of(algorithm: str, options: argparse.Namespace, chosen: frozenset[str] = frozenset()) -> Arguments:
    """
    The dataclasses, filled.

    Args:
        algorithm (`str`): a key of `ALGORITHMS`.
        options (`argparse.Namespace`): what [`~trl_nash.cli.options.parser.NashParser`] parsed.
        chosen (`frozenset[str]`, *optional*): those of them that the user gave.

    Raises:
        ValueError: If one of them refuses a value.
    """
    return Arguments(*TrlParser(dataclasses_of(algorithm)).parse_dict(vars(options)), chosen=chosen)
