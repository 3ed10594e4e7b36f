# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash plan`: memory, tokens, judge calls and time of a run, before a machine is rented for it."""

import argparse
import json
from typing import Any

from ...usage import UsageError, did_you_mean
from ..options.typed import StrictParser, read_config, take_option
from .check import check
from .options import ALGORITHMS, ASSUMED, add_options


_EXAMPLES = """\
examples:
  trl-nash plan comal --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --generation_batch_size 512
  trl-nash plan onpo --parameters 7B --devices 8 --device H100 --strategy ddp zero2 zero3 fsdp2
  trl-nash plan onpo --parameters 8B --use_peft --load_in_4bit --device RTX-4090 --judge openai --judge_rate 20
  trl-nash plan comal --config comal.yaml --devices 4 --device A100-80GB --json
"""


def run(argv: list[str]) -> int:
    """
    Prints what a training run costs.

    Args:
        argv (`list[str]`): the options after `trl-nash plan`.

    Returns:
        `int`: The exit code, 0.

    Raises:
        UsageError: If an option cannot be used, or the model is not at hand.
    """
    options = _parse(argv)
    runs = check(options)
    from ...planning.costs import Plan
    from ...planning.report import print_plans, record
    from ...planning.sizes import generation_batch
    from ...planning.words import remarks_on

    model = load_model(options)
    if options.use_peft and not model.adapted(runs[0].lora_target_modules):
        names = ", ".join(sorted({layer.name for layer in model.linears}))
        raise UsageError(f"--lora_target_modules name no layer of {model.name}: there are {names}, or all-linear.")
    device, speed = hardware(options)
    plans = [Plan(model, one, device, speed) for one in runs]
    if options.per_device_generation_batch_size is None:
        calls = [generation_batch(plan.model, plan.run, plan.limit) for plan in plans]
        plans = [plan.having(per_device_generation_batch_size=call) for plan, call in zip(plans, calls, strict=True)]
    if options.json:
        print(json.dumps([record(plan) for plan in plans], indent=1))
        return 0
    from rich.console import Console

    chosen = {name for name, value in vars(options).items() if value is not None}
    run, total = plans[0].run, options.dataset_size
    prompts = None if total is None else total - run.evaluation_prompts
    remarks = remarks_on(run, chosen, options.max_steps, prompts, run.rounds) | {"hardware": _which(options)}
    print_plans(Console(highlight=False), plans, options.notes, remarks)
    return 0


def _which(options: argparse.Namespace) -> str:
    """The device that is planned for; where nobody has named one it is assumed, whatever this machine has."""
    return f" ({options.device or f'{ASSUMED}, assumed: --device NAME for yours, or cpu'})"


def _parse(argv: list[str]) -> argparse.Namespace:
    algorithm, argv = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (ALGORITHMS[0], argv)
    if algorithm not in ALGORITHMS:
        hint = did_you_mean(algorithm, ALGORITHMS) or f": there are {', '.join(ALGORITHMS)}."
        raise UsageError(f"unknown algorithm {algorithm}{hint}")
    parser = StrictParser(
        prog="trl-nash plan",
        usage="%(prog)s [onpo|comal|nash-md|iterative-ipo] [options]",
        description="Memory of each device and where it goes, tokens, judge calls, operations and time of a run. "
        "Nothing is\ndownloaded or started. Options are called as in the training commands, whose YAML files are "
        "taken as well.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    file, argv = take_option(argv, "config")
    if file is not None:
        apply_file(parser, file)
    options = parser.parse_args(argv)
    options.algorithm = algorithm
    return options


def apply_file(parser: argparse.ArgumentParser, file: str) -> None:
    """
    Makes a training command's YAML file the defaults of `parser`; what costs nothing is passed over.

    Raises:
        UsageError: If the file has a name that no command knows, or a value of the wrong kind.
    """
    actions = {action.dest: action for action in parser._actions}
    spellings = {name.lstrip("-"): action.dest for action in parser._actions for name in action.option_strings}
    config = read_config(file)
    unknown = [name for name in config if name not in spellings]
    if unknown:
        from ..options.parser import NashParser
        from ..training.launching.processes import launch_parser

        trained = {
            action.dest for parser in map(NashParser, ("onpo", "comal", "nash-md")) for action in parser._actions
        }
        known = {*trained, *(action.dest for action in launch_parser()._actions)}
        for name in unknown:
            if name not in known:
                raise UsageError(f"{file}: unknown option {name}{did_you_mean(str(name), {*known, *spellings})}")
    values = {}
    for name in config.keys() & spellings.keys():
        action, value = actions[spellings[name]], config[name]
        if action.nargs == "+":
            value = value if isinstance(value, list) else [value]
        values[action.dest] = (
            [_converted(file, action, v) for v in value] if action.nargs == "+" else _converted(file, action, value)
        )
    parser.set_defaults(**values)


def _converted(file: str, action: argparse.Action, value: Any) -> Any:
    """A value of a YAML file as the command line would have read it."""
    if value is None or isinstance(value, dict | list):
        return value
    try:
        value = str(value) if action.type is None else action.type(str(value))
    except (TypeError, ValueError, argparse.ArgumentTypeError):
        raise UsageError(f"{file}: {action.dest}: invalid value: {value!r}.") from None
    if action.choices is not None and value not in action.choices:
        raise UsageError(f"{file}: {action.dest}: {value!r} is none of {', '.join(map(str, action.choices))}.")
    return value


def load_model(options: argparse.Namespace):
    """
    The sizes of the model that is planned for.

    Raises:
        UsageError: If it is named twice or not at all, or is not at hand.
    """
    from ...planning.model import BY_HAND, load_sizes, sizes_by_hand

    by_hand = {name: getattr(options, name) for name in BY_HAND}
    typed = [name for name, value in {"parameters": options.parameters, **by_hand}.items() if value is not None]
    if options.model_name_or_path is None or (options.parameters is not None):
        return sizes_by_hand(options.parameters, **by_hand)
    if typed:
        raise UsageError(f"--{typed[0]} describes a model by hand: leave it or --model_name_or_path out.")
    return load_sizes(options.model_name_or_path)


def hardware(options: argparse.Namespace):
    """
    The device, with what was typed in place of its data sheet, and the assumed speeds.

    Raises:
        UsageError: If no such device is known.
    """
    from ...planning.costs.time import DEVICES, Speed
    from ...planning.machine import machine_memory

    names = {name.lower(): name for name in DEVICES}
    name = names.get((options.device or ASSUMED).lower())
    if name is None:
        hint = did_you_mean(options.device.upper(), DEVICES) or f": there are {', '.join(DEVICES)}."
        raise UsageError(f"--device {options.device} is unknown{hint} (Or give --memory, --tflops and --bandwidth.)")
    device = DEVICES[name]
    if name == "cpu":
        device = device._replace(memory=machine_memory())
    typed = {"memory": options.memory, "tflops": options.tflops, "bandwidth": options.bandwidth}
    if options.tflops is not None:
        typed["fp32_tflops"] = options.tflops * device.fp32_tflops / device.tflops
    device = device._replace(**{key: value for key, value in typed.items() if value is not None})
    for key, value in {**device._asdict(), "training_mfu": options.training_mfu}.items():
        if value <= 0:
            raise UsageError(f"--{key} must be positive, got {value:g}.")
    options.notes.append(f"{name}: {device.tflops:g} TFLOP/s in 16 bits and {device.bandwidth:g} GB/s at its peak")
    return device, Speed(
        options.training_mfu,
        options.scoring_mfu,
        options.bandwidth_use,
        options.layer_overhead_ms / 1e3,
        options.judge_rate,
        options.vllm_link,
    )
