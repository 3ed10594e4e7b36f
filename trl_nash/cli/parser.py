# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The options of a training command, as one parser that the launcher and every launched process share."""

import argparse
import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

import trl_nash

from ..compat import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser
from .errors import UsageError
from .options import ALGORITHMS, shown
from .output_folder import check_output_folder


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
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print the plan of the run and stop before any model is loaded."},
    )
    overwrite: bool = field(
        default=False,
        metadata={"help": "Give up the checkpoints and the model that an earlier run has left in --output_dir."},
    )


@dataclass
class JudgeArguments:
    """
    Who compares the completions.

    Args:
        judge (`list[str | dict[str, Any]]`, *optional*):
            A key of `trl_nash.JUDGES`, `key:target` (`reward:org/model`, `function:package.module:name`) or a dotted
            path `package.module:name`. Several are a mixture. In YAML each may have arguments of its own:
            `judge: [pairrm, {judge: "openai:model@http://host:port/v1", order: random}]`. Exclusive with
            `reward_model_path`. A list of one becomes that one.
        judge_kwargs (`dict[str, Any]` or `str`, *optional*):
            Keyword arguments of the judge, on the command line as JSON. Those of a mixture are `weights` and `rule`.
    """

    judge: list[str] | None = field(
        default=None,
        metadata={
            "help": "Who compares: reward:org/model, pairwise-lm:org/model, gpm:org/model, pairrm, "
            "openai:model@http://host:port/v1, hf:org/model, ensemble, package.module:name, random; several are "
            "a mixture (docs/guides/judges.md)."
        },
    )
    judge_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Keyword arguments of the judge, as JSON: '{\"temperature\": 0.5}'; of several judges, those of "
            "their mixture: '{\"weights\": [1, 3]}'."
        },
    )

    def __post_init__(self):
        if self.judge == []:
            raise UsageError("judge is an empty list: name at least one judge.")
        if isinstance(self.judge, list) and len(self.judge) == 1:
            self.judge = self.judge[0]
        for name, judge in zip(self.names, self._judges, strict=True):
            if not isinstance(name, str):
                known = dict.fromkeys(judge, "...") if isinstance(judge, dict) else judge  # arguments may be secret
                raise UsageError(
                    f"judge: {shown(known)} names no judge; write a name, or {{judge: NAME, ...}} with its arguments."
                )
            if re.search(r"://([^/]*@|.*\?)", name):
                raise UsageError(
                    f"judge: the URL in {name.partition('://')[0]}://... holds a password or a query, which would be "
                    "printed; put it into the environment variable of the judge's key, such as OPENAI_API_KEY."
                )
        if isinstance(self.judge_kwargs, str):
            try:
                self.judge_kwargs = json.loads(self.judge_kwargs)
            except (ValueError, RecursionError) as error:  # says where, and not what, which may be secret
                raise UsageError(f"--judge_kwargs must be JSON such as '{{\"temperature\": 0.5}}': {error}.") from None
        if self.judge_kwargs is not None and not isinstance(self.judge_kwargs, dict):
            raise UsageError(
                "--judge_kwargs must be a JSON object such as '{\"temperature\": 0.5}', got a "
                f"{type(self.judge_kwargs).__name__}."
            )

    @property
    def names(self) -> list[str]:
        """The name of each judge, without its arguments."""
        return [judge.get("judge") if isinstance(judge, dict) else judge for judge in self._judges]

    @property
    def _judges(self) -> list[Any]:
        if self.judge is None:
            return []
        return self.judge if isinstance(self.judge, list) else [self.judge]


class NashParser(TrlParser):
    """
    TRL's parser over the dataclasses of one algorithm, with errors of one sentence and a help of few screens' order.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.

    Raises:
        UsageError: From every method that reads arguments, where argparse prints its usage and exits.
    """

    def __init__(self, algorithm: str):
        self.algorithm = ALGORITHMS[algorithm]
        self.config_class = getattr(trl_nash, self.algorithm.config)
        summary = self.algorithm.summary
        super().__init__(
            [NashScriptArguments, JudgeArguments, self.config_class, ModelConfig, DatasetMixtureConfig],
            prog=f"trl-nash {algorithm}",
            usage="%(prog)s --model_name_or_path MODEL --dataset_name DATA --judge JUDGE [options]",
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        for action in self._actions:
            kind = getattr(action.type, "__name__", None)
            if kind == "dict":  # argparse would call dict() on the typed text
                action.type = _json
            elif kind == "string_to_bool" and action.nargs is None:  # `--bf16` alone, as other switches
                action.nargs, action.const = "?", True

    def error(self, message: str):
        raise UsageError(re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message) + ".")

    def set_defaults_with_config(self, **values) -> list[str]:
        actions = {action.dest: action for action in reversed(self._actions)}  # `--x` comes before its `--no_x`
        values = {name: _convert(actions[name], v) if name in actions else v for name, v in values.items()}
        return super().set_defaults_with_config(**values)

    def format_help(self) -> str:
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for title, actions in self._sections().items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        return formatter.format_help()

    def _sections(self) -> dict[str, list[argparse.Action]]:
        """The options under headings: what is this algorithm's first, what every Trainer has last."""
        own, training = _own_fields(self.config_class), _fields(TrainingArguments)
        judging = [*_fields(JudgeArguments), "reward_model_path", "reward_weights", "missing_eos_penalty"]
        generation = [name for name in _fields(self.config_class) if name not in (*own, *training, *judging)]

        def options(names: list[str]) -> list[argparse.Action]:
            return [action for name in names for action in self._actions if action.dest == name]

        return {
            self.config_class.__name__.removesuffix("Config"): options(own),
            "judge: either --judge or --reward_model_path": options(judging),
            "data": options([*_fields(NashScriptArguments), *_fields(DatasetMixtureConfig)]),
            "model": options(_fields(ModelConfig)),
            "launching (any option of `accelerate launch` works as well)": _launch_options(),
            "generation and online training (TRL)": options(generation),
            "training (transformers.TrainingArguments)": options([name for name in training if name not in own]),
        }


def check_arguments(arguments: argparse.Namespace) -> None:
    """
    Checks what can be checked before any configuration class is built.

    Args:
        arguments (`argparse.Namespace`):
            What [`NashParser`] parsed.

    Raises:
        UsageError: If model, data or judge is missing, a judge and a reward model are both given, or the folder is in
            use.
    """
    if arguments.model_name_or_path is None:
        raise UsageError("say which model to train: --model_name_or_path ORG/NAME or a directory.")
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
    check_output_folder(arguments)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows one spelling of an option. Each also exists with dashes for underscores."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        metavar = self._get_default_metavar_for_optional(action)
        return f"{action.option_strings[0]} {self._format_args(action, metavar)}".rstrip()


def _convert(action: argparse.Action, value: Any) -> Any:
    """The value of a YAML key as the command line would have read it (`1e-4` is a string to YAML)."""
    if action.nargs == "+":
        return [_convert_one(action, item) for item in (value if isinstance(value, list) else [value])]
    return _convert_one(action, value)


def _convert_one(action: argparse.Action, value: Any) -> Any:
    numeric = action.type in (int, float)
    if isinstance(value, dict | list) and (numeric or action.choices is not None):
        raise UsageError(f"{action.dest}: takes one value, not a {type(value).__name__}.")
    if value is None or isinstance(value, dict | list) or (isinstance(value, bool) and not numeric):
        return value
    try:
        converted = action.type(str(value))
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        kind = getattr(action.type, "__name__", "option")
        raise UsageError(f"{action.dest}: invalid {kind} value: {shown(value)}.") from None
    if action.choices is not None and converted not in action.choices:
        choices = ", ".join(map(str, action.choices))
        raise UsageError(f"{action.dest}: invalid choice: {shown(value)} (choose from {choices}).")
    return converted


def _json(text: str) -> Any:
    return json.loads(text)


_json.__name__ = "JSON"  # as argparse calls it in errors


def _fields(config: type) -> list[str]:
    return [item.name for item in dataclasses.fields(config)]


def _own_fields(config: type) -> list[str]:
    """The fields that this package defines or whose default it changes."""
    own = [base for base in config.__mro__ if issubclass(base, trl_nash.NashConfig)]
    names = [name for base in own for name in base.__dict__.get("__annotations__", {})]
    return list(dict.fromkeys(name for name in names if name in _fields(config)))


def _launch_options() -> list[argparse.Action]:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; options typed here go first.")
    parser.add_argument(
        "--accelerate_config",
        metavar="NAME|FILE",
        help="How to distribute: cpu, single_gpu, multi_gpu, zero1, zero2, zero3, fsdp2, or a file that `accelerate "
        "config` wrote.",
    )
    parser.add_argument(
        "--num_processes", metavar="N", help="Processes to start; one for each accelerator by default."
    )
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # the help names the defaults that matter
    return parser._actions
