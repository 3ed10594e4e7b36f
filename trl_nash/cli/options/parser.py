# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The options of a training command, as one parser that the launcher and every launched process share."""

import argparse
import re
from typing import Any

from ...learning_rates import OF_ADAPTERS
from ...usage import UsageError
from .table import LAUNCHER, Option, options_of
from .typed import ALGORITHMS, ALIASES, shown
from .unused import NEVER


# What the first of the two helps shows, beside the algorithm's own options.
_COMMON = """
model_name_or_path dataset_name judge reward_model_path output_dir num_generations max_new_tokens max_length
generation_batch_size num_iterations per_device_train_batch_size per_device_generation_batch_size learning_rate
num_train_epochs max_steps user max_turns use_peft dtype use_vllm report_to resume_from_checkpoint overwrite dry_run
""".split()
# Where another text than TRL's or transformers' says more.
_HELP = {
    "model_name_or_path": "The model to train: a folder, or ORG/NAME on the hub.",
    "dataset_name": "The prompts: a .jsonl, .parquet, .csv, .tsv or .txt file, a folder, or ORG/NAME on the hub.",
    "reward_model_path": "A reward model in place of --judge: a folder, or ORG/NAME on the hub.",
    "output_dir": "Folder for the model and its checkpoints.",
    "max_new_tokens": "Longest completion, in tokens.",
    "max_length": "Longest prompt with its completion, in tokens; longer prompts are cut from the left.",
    "per_device_train_batch_size": "Prompts in a micro-step on each device.",
    "learning_rate": f"Learning rate at the start; of an adapter (--use_peft) {OF_ADAPTERS:g} by default.",
    "num_train_epochs": "Passes over the prompts.",
    "max_steps": "Optimizer steps of the run, instead of --num_train_epochs.",
    "use_peft": "Train a LoRA adapter, not all weights (--lora_r, --lora_alpha, --lora_target_modules).",
    "dtype": "Type of the weights.",
    "use_vllm": "Sample with vLLM (--vllm_mode colocate or server).",
    "report_to": "Trackers, such as wandb or tensorboard; several are written one after the other.",
    "resume_from_checkpoint": "Go on from a checkpoint: latest, the folder of a run, or one of its checkpoints.",
}
_TITLES = {
    "JudgeArguments": "judge: either --judge or --reward_model_path",
    "data": "data",
    "ModelConfig": "model",
    LAUNCHER: "launching (any option of `accelerate launch` works as well)",
    "OnlineDPOConfig": "generation and online training (TRL)",
    "training": "training (transformers.TrainingArguments)",
}
_SECTION_OF = {
    "NashScriptArguments": "data",
    "ScriptArguments": "data",
    "DatasetMixtureConfig": "data",
    "JudgeArguments": "JudgeArguments",
    "ModelConfig": "ModelConfig",
    "OnlineDPOConfig": "OnlineDPOConfig",
    "_BaseConfig": "training",
    "TrainingArguments": "training",
}
_JUDGING = ("reward_model_path", "reward_weights", "missing_eos_penalty")


class NashParser(argparse.ArgumentParser):
    """
    The options of one algorithm, with errors of one sentence and two helps: what one needs, and everything.

    Args:
        algorithm (`str`):
            A key of `ALGORITHMS`.

    Raises:
        UsageError: From every method that reads arguments, where argparse prints its usage and exits.
    """

    def __init__(self, algorithm: str):
        self.algorithm = ALGORITHMS[algorithm]
        self._options = [_adapted(option) for option in options_of(algorithm)]
        summary = self.algorithm.summary
        super().__init__(
            prog=f"trl-nash {algorithm}",
            usage="%(prog)s --model_name_or_path MODEL --dataset_name DATA --judge JUDGE [options]",
            description=f"{summary[0].upper()}{summary[1:]}.",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--help_all", "--help-all", action="help", dest="help", default=argparse.SUPPRESS)
        for option in self._options:
            option.add_to(self)

    def error(self, message: str):
        raise UsageError(re.sub(r"^argument (--\w+)[^:]*:", r"\1:", message) + ".")

    def set_defaults_with_config(self, **values) -> None:
        """
        Makes the values of a YAML file the defaults, as the command line would have read them. A null that the option
        does not take is as if it were not there.
        """
        actions = {action.dest: action for action in reversed(self._actions)}  # `--x` comes before its `--no_x`
        nullable = {option.dest for option in self._options if option.takes_none}
        self.set_defaults(
            **{
                name: _convert(actions[name], value)
                for name, value in values.items()
                if value is not None or name in nullable
            }
        )

    def format_help(self, everything: bool = False) -> str:
        """
        The help.

        Args:
            everything (`bool`, *optional*, defaults to `False`):
                Whether all options are in it, or those that most runs need. Those that are always refused are in none.
        """
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, [])
        formatter.add_text(self.description)
        for title, actions in self._sections(everything).items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        if not everything:
            formatter.add_text(
                f"`{self.prog} --help-all` lists all {len({option.dest for option in self._options} - NEVER)} options."
            )
        return formatter.format_help()

    def _sections(self, everything: bool) -> dict[str, list[argparse.Action]]:
        """The options under headings: what is this algorithm's first, what every Trainer has last."""
        own = self.algorithm.name
        sections = {title: [] for title in (own, *_TITLES.values())}
        actions = {action.option_strings[0]: action for action in self._actions}
        for option in self._options:
            if option.dest in NEVER or not (everything or option.is_own or option.dest in _COMMON):
                continue
            section = "JudgeArguments" if option.dest in _JUDGING else _SECTION_OF.get(option.owner)
            section = None if option.dest == "user" else section  # beside `max_turns`
            sections[_TITLES.get(section, own)].append(actions[option.names[0]])
        sections[own].sort(key=lambda action: not self._is_own[action.dest])
        sections[_TITLES[LAUNCHER]] = _launch_options()
        return sections

    @property
    def _is_own(self) -> dict[str, bool]:
        return {option.dest: option.is_own for option in self._options}


def _adapted(option: Option) -> Option:
    """Where we say more, or take more, than the dataclass."""
    aliases = [alias for alias, name in ALIASES.items() if name == option.dest]
    names = option.names + [f"--{spelling}" for alias in aliases for spelling in (alias, alias.replace("_", "-"))]
    several = option.dest == "report_to"  # which the dataclass has as one or a list
    return option._replace(
        names=names, help=_HELP.get(option.dest, option.help), nargs="+" if several else option.nargs
    )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows one spelling of an option, which also exists with dashes, and defaults that say something."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        metavar = self._get_default_metavar_for_optional(action)
        return f"{action.option_strings[0]} {self._format_args(action, metavar)}".rstrip()

    def _get_help_string(self, action: argparse.Action) -> str:
        silent = action.default in (None, []) or (action.nargs in (0, "?") and action.default is False)
        return action.help if silent else super()._get_help_string(action)


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
