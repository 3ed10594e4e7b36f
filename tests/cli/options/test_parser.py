# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import re
from dataclasses import fields

import pytest
from transformers import TrainingArguments

import trl_nash
from trl_nash.cli.options.checks import check_arguments
from trl_nash.cli.options.judge import JudgeArguments
from trl_nash.cli.options.parser import NashParser
from trl_nash.cli.options.typed import ALGORITHMS
from trl_nash.cli.options.unused import NEVER
from trl_nash.judges import load_judge
from trl_nash.usage import UsageError


REQUIRED = ["--model_name_or_path", "m", "--dataset_name", "d"]


@pytest.fixture(params=ALGORITHMS)
def algorithm(request):
    return request.param


def test_parsing_builds_no_training_arguments(algorithm, monkeypatch):
    # They refuse bf16 on a login node without the hardware.
    monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: pytest.fail("TrainingArguments were built"))
    arguments = NashParser(algorithm).parse_args([*REQUIRED, "--bf16", "--per-device-train-batch-size=3"])
    assert arguments.bf16 is True
    assert arguments.per_device_train_batch_size == 3


@pytest.mark.parametrize("argv", [["--beta", "0.1", "0.05"], ["--beta=0.1"]])
def test_lists_on_the_command_line(argv):
    assert NashParser("comal").parse_args(argv).beta == [float(v) for v in argv[1:]] or [0.1]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("beta", [0.1, 0.05], [0.1, 0.05]),
        ("beta", ["1e-2", 0.05], [0.01, 0.05]),  # YAML reads 1e-2 as a string
        ("beta", 0.1, [0.1]),
        ("learning_rate", "1e-4", 1e-4),
        ("lora_target_modules", "q_proj", ["q_proj"]),
        ("bf16", False, False),
        ("gradient_checkpointing", "false", False),
        ("max_steps", 7, 7),
        ("run_name", 7, "7"),
        ("model_init_kwargs", {"dtype": "bfloat16"}, {"dtype": "bfloat16"}),
        ("report_to", ["wandb", "tensorboard"], ["wandb", "tensorboard"]),
        ("report_to", "wandb", ["wandb"]),
        ("min_p", None, None),
        ("temperature", None, 1.0),  # which takes no null
    ],
)
def test_values_of_a_config_file(name, value, expected):
    parser = NashParser("comal")
    parser.set_defaults_with_config(**{name: value})
    assert getattr(parser.parse_args([]), name) == expected


def test_the_command_line_goes_before_the_config_file():
    parser = NashParser("comal")
    parser.set_defaults_with_config(learning_rate=1e-4, beta=[0.1])
    arguments = parser.parse_args(["--learning_rate", "1e-5"])
    assert (arguments.learning_rate, arguments.beta) == (1e-5, [0.1])


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"learning_rate": "fast"}, "learning_rate: invalid float value: 'fast'."),
        ({"max_steps": 1.5}, "max_steps: invalid int value: 1.5."),
        ({"beta": [0.1, True]}, "beta: invalid float value: True."),
        (
            {"pair_selection": "some"},
            "pair_selection: invalid choice: 'some' (choose from all, iid, random, circular, swiss, elimination, "
            "tournament, best_worst, active).",
        ),
    ],
)
def test_wrong_values_of_a_config_file(values, complaint):
    with pytest.raises(UsageError) as error:
        NashParser("comal").set_defaults_with_config(**values)
    assert str(error.value) == complaint


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--learning_rate", "fast"], "--learning_rate: invalid float value: 'fast'."),
        (["--learning_rate"], "--learning_rate: expected one argument."),
        (["--generation_kwargs", "{a"], "--generation_kwargs: invalid JSON value: '{a'."),
    ],
)
def test_wrong_values_on_the_command_line(argv, complaint):
    with pytest.raises(UsageError) as error:
        NashParser("comal").parse_args(argv)
    assert str(error.value) == complaint


def test_dictionaries_are_json_on_the_command_line():
    argv = ["--generation_kwargs", '{"suppress_tokens": [3]}', "--judge", "random", "--judge_kwargs", '{"seed": 1}']
    arguments = NashParser("comal").parse_args(argv)
    assert arguments.generation_kwargs == {"suppress_tokens": [3]}
    assert JudgeArguments(arguments.judge, arguments.judge_kwargs).judge_kwargs == {"seed": 1}


def options_in(text: str) -> set[str]:
    return set(re.findall(r"^  --(\w+)", text, re.MULTILINE))


def test_every_option_is_in_the_help_of_all_and_the_algorithms_come_first(algorithm):
    """But for those that are always refused."""
    parser = NashParser(algorithm)
    text = parser.format_help(everything=True)
    known = {action.option_strings[0][2:] for action in parser._actions if action.dest not in {"help", *NEVER}}
    assert options_in(text) == known | {"config", "accelerate_config", "num_processes"}
    order = [
        f"\n{parser.algorithm.name}:",
        "--num_generations",
        "--judge_kwargs",
        "--prompt_column",
        "--model_name_or_path MODEL_NAME_OR_PATH",
        "--accelerate_config",
        "--max_new_tokens",
        "--weight_decay",
    ]
    positions = [text.index(part) for part in order]
    assert positions == sorted(positions)


def test_the_first_help_has_what_most_runs_need(algorithm):
    parser = NashParser(algorithm)
    text = parser.format_help()
    found = options_in(text)
    config = getattr(trl_nash, parser.algorithm.config)
    assert set(vars(config)["__annotations__"]) & {field.name for field in fields(config)} <= found
    assert {
        "model_name_or_path",
        "dataset_name",
        "judge",
        "output_dir",
        "learning_rate",
        "use_peft",
        "config",
    } <= found
    assert len(found) <= 32 and found < options_in(parser.format_help(everything=True))
    assert "of an adapter (--use_peft) 0.0001 by default" in " ".join(text.split())
    assert f"`trl-nash {algorithm} --help-all` lists all" in text


def test_old_name_of_dtype():
    for argv in (["--torch_dtype", "bfloat16"], ["--torch-dtype=bfloat16"]):
        assert NashParser("onpo").parse_args(argv).dtype == "bfloat16"


def test_several_trackers_on_the_command_line():
    assert NashParser("onpo").parse_args(["--report_to", "wandb", "tensorboard"]).report_to == ["wandb", "tensorboard"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--dataset_name", "d", "--judge", "random"], "say which model to train: --model_name_or_path"),
        (["--model_name_or_path", "m", "--judge", "random"], "say which prompts to train on: --dataset_name"),
        (REQUIRED, "give either --judge .* or --reward_model_path, neither was given."),
        ([*REQUIRED, "--judge", "random", "--reward_model_path", "r"], "both were given."),
        ([*REQUIRED, "--reward_model_path", "r", "--judge_kwargs", "{}"], "--judge_kwargs belongs to --judge"),
        ([*REQUIRED, "--judge", "random", "--judge_kwargs", "seed=1"], "--judge_kwargs must be JSON"),
        ([*REQUIRED, "--judge", "random", "--judge_kwargs", "[1]"], "--judge_kwargs must be a JSON object"),
    ],
)
def test_what_is_missing_or_contradictory(argv, complaint):
    with pytest.raises(UsageError, match=complaint):
        check_arguments(NashParser("onpo").parse_args(argv))


OPTIONS = {"judge": "random", "seed": 3}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("random", "random"),
        (["random"], "random"),
        (["random", "random:3"], ["random", "random:3"]),
        (["random", OPTIONS], ["random", OPTIONS]),
        (OPTIONS, OPTIONS),
    ],
)
def test_judges_of_a_config_file(value, expected):
    """A name, a list (their mixture), and arguments of each, down to the judges that come of them."""
    parser = NashParser("onpo")
    parser.set_defaults_with_config(judge=value, model_name_or_path="m", dataset_name="d")
    arguments = parser.parse_args([])
    check_arguments(arguments)
    judge = JudgeArguments(arguments.judge).judge
    assert judge == expected
    loaded = load_judge(judge)
    seeds = [member.seed for member in getattr(loaded, "judges", [loaded])]
    names = expected if isinstance(expected, list) else [expected]
    assert seeds == [0 if name == "random" else 3 for name in names]


def test_several_judges_on_the_command_line():
    argv = [*REQUIRED, "--judge", "random", "random:3", "--judge_kwargs", '{"weights": [1, 3]}']
    arguments = NashParser("onpo").parse_args(argv)
    check_arguments(arguments)
    judging = JudgeArguments(arguments.judge, arguments.judge_kwargs)
    judge = load_judge(judging.judge, **judging.judge_kwargs)
    assert [member.seed for member in judge.judges] == [0, 3]
    assert judge.weights.tolist() == [0.25, 0.75]
    with pytest.raises(ValueError, match="takes the arguments judges, weights, rule.*'seed'"):
        load_judge(judging.judge, seed=1)


@pytest.mark.parametrize(
    ("judge", "complaint"),
    [
        ([], "judge is an empty list"),
        ([3, "random"], "judge: 3 names no judge"),
        ([["random"], "random"], r"judge: \['random'\] names no judge"),
        (["random", {"seed": 1}], r"judge: {'seed': '...'} names no judge; write a name, or {judge: NAME"),
        ({"seed": 1}, r"judge: {'seed': '...'} names no judge"),
    ],
)
def test_what_names_no_judge(judge, complaint):
    with pytest.raises(UsageError, match=complaint):
        JudgeArguments(judge=judge)


def test_what_is_complete():
    check_arguments(NashParser("onpo").parse_args([*REQUIRED, "--reward_model_path", "r"]))
    parser = NashParser("onpo")
    parser.set_defaults_with_config(datasets=[{"path": "d"}], model_name_or_path="m", judge="random", judge_kwargs={})
    check_arguments(parser.parse_args([]))
