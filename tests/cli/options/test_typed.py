# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import argparse
import os

import pytest

from trl_nash.cli.options.typed import read_config, split_options, take_option
from trl_nash.usage import UsageError, did_you_mean


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--learning_rate", "--learning-rate", type=float)
    parser.add_argument("--beta", type=float, nargs="+")
    parser.add_argument("--bf16", nargs="?", const=True)
    parser.add_argument("--gradient_accumulation_steps", type=int)
    return parser


@pytest.fixture
def launcher():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--num_processes", type=int)
    parser.add_argument("--multi_gpu", action="store_true")
    parser.add_argument("--gradient_accumulation_steps", type=int)
    parser.add_argument("training_script")
    return parser


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learing_rate", ": did you mean --learning_rate?"),
        ("learing-rate", ": did you mean --learning_rate?"),
        ("lr", ": did you mean --learning_rate?"),  # another tool's name for it
        ("xyz", ""),
    ],
)
def test_did_you_mean(typed, meant):
    assert did_you_mean(typed, ["beta", "learning-rate", "learning_rate"], "--") == meant


@pytest.mark.parametrize(
    "typed", [["--config", "a.yaml"], ["--config=a.yaml"], ["--config", "b.yaml", "--config=a.yaml"]]
)
def test_take_option(typed):
    assert take_option(["--x", "1", *typed, "--y"], "config") == ("a.yaml", ["--x", "1", "--y"])


def test_take_option_with_dashes():
    assert take_option(["--accelerate-config=zero2"], "accelerate_config") == ("zero2", [])


@pytest.mark.parametrize("typed", [["--config"], ["--config", "--beta"], ["--config="]])
def test_take_option_needs_a_value(typed):
    with pytest.raises(UsageError, match="--config needs a value"):
        take_option(typed, "config")


def test_read_config_sets_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_NASH_TEST_VARIABLE", "before")
    path = tmp_path / "run.yaml"
    path.write_text("env:\n  TRL_NASH_TEST_VARIABLE: 3\nbeta: [0.1, 0.05]\n")
    assert read_config(str(path)) == {"beta": [0.1, 0.05]}
    assert os.environ["TRL_NASH_TEST_VARIABLE"] == "3"


def test_numbers_inside_are_numbers(tmp_path):
    """As in JSON. What is outside is read as its option is, and what is in quotes is text."""
    path = tmp_path / "run.yaml"
    path.write_text(
        "lr_scheduler_kwargs: {min_lr: 1e-7, scale: .5e+3, name: x1e-7}\n"
        "judge: [{judge: random, seed: 3, rate: 1E2, key: '1e-7'}]\n"
        "datasets:\n- {path: a, fraction: 5e-1}\n"
        "learning_rate: 1e-5\nrun_name: 1e5\n"
    )
    assert read_config(str(path)) == {
        "lr_scheduler_kwargs": {"min_lr": 1e-7, "scale": 500.0, "name": "x1e-7"},
        "judge": [{"judge": "random", "seed": 3, "rate": 100.0, "key": "1e-7"}],
        "datasets": [{"path": "a", "fraction": 0.5}],
        "learning_rate": "1e-5",
        "run_name": "1e5",
    }


def test_the_old_name_of_an_option(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("torch_dtype: bfloat16\n")
    assert read_config(str(path)) == {"dtype": "bfloat16"}
    path.write_text("torch_dtype: bfloat16\ndtype: auto\n")
    with pytest.raises(UsageError, match="run.yaml has dtype, and torch_dtype, which is its old name"):
        read_config(str(path))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("beta: [0.1", "is not valid YAML.*line 1"),
        ("- beta", "must hold options"),
        ("env: 3", "`env` must be a mapping"),
    ],
)
def test_read_config_complains(tmp_path, text, complaint):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=complaint) as error:
        read_config(str(path))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_read_config_names_a_missing_file():
    with pytest.raises(UsageError, match="--config nowhere.yaml: No such file"):
        read_config("nowhere.yaml")


def test_split_options(parser, launcher):
    argv = "--num_processes 2 --beta 0.1 0.05 --learning-rate=1e-4 --multi_gpu --bf16 --num_processes=4".split()
    assert split_options(argv, parser, launcher) == (
        ["--beta", "0.1", "0.05", "--learning-rate=1e-4", "--bf16"],
        ["--num_processes", "2", "--multi_gpu", "--num_processes=4"],
    )


def test_what_both_know_belongs_to_the_script(parser, launcher):
    argv = ["--gradient_accumulation_steps", "4"]
    assert split_options(argv, parser, launcher) == (argv, [])


def test_a_negative_number_is_a_value(parser, launcher):
    assert split_options(["--learning_rate", "-1"], parser, launcher)[0] == ["--learning_rate", "-1"]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--learing_rate", "1e-4"], "unknown option --learing_rate: did you mean --learning_rate?"),
        (["--learing_rate=1e-4"], "unknown option --learing_rate: did you mean --learning_rate?"),
        (["--num_proceses", "2"], "unknown option --num_proceses: did you mean --num_processes?"),
        (["--confg", "run.yaml"], "unknown option --confg: did you mean --config?"),
        (["--xyz"], "unknown option --xyz"),
        (["run.yaml"], "unexpected argument 'run.yaml': options are written --name value."),
        (["--learning_rate", "1", "2"], "unexpected argument '2': options are written --name value."),
        (["--multi_gpu", "yes"], "unexpected argument 'yes': options are written --name value."),
    ],
)
def test_split_options_complains(parser, launcher, argv, complaint):
    with pytest.raises(UsageError) as error:
        split_options(argv, parser, launcher)
    assert str(error.value) == complaint


def test_a_misspelt_name_of_other_tools():
    assert did_you_mean("modle_name", ["label_names", "model_name_or_path"], "--") == (
        ": did you mean --model_name_or_path?"
    )
