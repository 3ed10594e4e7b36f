# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Sizes that nobody has chosen, and the commands that the tool itself prints: both follow its own advice."""

import os
import shlex
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from tiny import build_model, build_tokenizer

import trl_nash
from trl_nash.cli import main
from trl_nash.cli.options.typed import ALGORITHMS
from trl_nash.cli.training import sizes, train
from trl_nash.cli.training.launching import threads
from trl_nash.demo.language import next_commands
from trl_nash.planning.model import load_sizes
from trl_nash.planning.sizes import FITTED


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    build_model(build_tokenizer()).save_pretrained(folder)
    return str(folder)


def chosen(algorithm: str, folder: str, prompts: int | None = 2000, *options: str):
    """The arguments of a command, after the sizes that it does not name are set."""
    argv = [
        "--model_name_or_path=model",
        "--dataset_name=data",
        "--judge=random",
        "--use_cpu",
        "--output_dir=/nowhere",
    ]
    arguments = train.read_arguments(algorithm, [*argv, *options])
    sizes.choose_sizes(algorithm, arguments, rows(prompts), folder)
    return arguments


def rows(prompts: int | None):
    train = object() if prompts is None else Dataset.from_dict({"prompt": ["a"] * prompts})
    return SimpleNamespace(train=train, evaluation=None)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("prompts", [None, 2000, 16])
def test_a_round_is_fitted_where_the_method_fits_rounds(algorithm, prompts, folder):
    training = chosen(algorithm, folder, prompts).training
    steps = training.steps_per_generation * training.num_iterations // training.gradient_accumulation_steps
    if getattr(trl_nash, ALGORITHMS[algorithm].trainer).assumes_fitted_rounds:
        assert steps >= FITTED and training.prompts_per_round <= (prompts or 128)
        assert training.num_iterations == (1 if prompts != 16 else 5)
    else:
        assert steps == 1 and training.prompts_per_round == training.per_device_train_batch_size
    assert training.generation_chunk == training.prompts_per_round


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--gradient_accumulation_steps=4"], (64, 1, 128)),
        (["--steps_per_generation=2"], (2, 1, 16)),
        (["--generation_batch_size=512"], (64, 1, 128)),
        (["--num_iterations=3"], (16, 3, 128)),
        (["--per_device_generation_batch_size=4"], (16, 1, 4)),
        (["--judge=openai:model@http://localhost:1/v1"], (16, 1, 32)),  # the next call, while it is asked
    ],
    ids=str,
)
def test_what_is_chosen_stays(options, expected, folder):
    training = chosen("comal", folder, 8000, *options).training
    assert (training.steps_per_generation, training.num_iterations, training.generation_chunk) == expected


def test_too_few_prompts_for_a_step_are_refused_as_ever(folder):
    assert chosen("comal", folder, 3).training.prompts_per_round == 8


def test_judges_and_adapters_are_counted(folder):
    options = [f"--reward_model_path={folder}", "--use_peft", "--lora_r=2", "--lora_target_modules=q_proj"]
    argv = ["--model_name_or_path=model", "--dataset_name=data", "--use_cpu", "--output_dir=/nowhere"]
    arguments = train.read_arguments("comal", [*argv, *options])
    run = sizes.choose_sizes("comal", arguments, rows(100), folder)
    assert run.judge_parameters == load_sizes(folder).parameters
    assert run.use_peft and run.lora_target_modules == ("q_proj",)
    further = {"r": 4, "target_modules": ["v_proj"]}
    run = sizes.choose_sizes("comal", arguments, rows(100), folder, further)
    assert run.use_peft and (run.lora_r, run.lora_target_modules) == (4, ("v_proj",))


def test_a_model_of_unknown_sizes_generates_as_it_trains():
    assert chosen("comal", "no/where").training.generation_chunk == 8


# ---- What the tool prints ----


def printed() -> dict[str, str]:
    """The training commands that are shown to a newcomer."""
    lines = main._HELP.replace("\\\n", " ").splitlines()
    found = {f"--help {n}": line for n, line in enumerate(lines) if line.strip().startswith("trl-nash comal ")}
    found |= {name: line for name, line in next_commands("out").items() if "trl-nash comal" in line}
    readme = (train.__file__).rsplit("/", 4)[0] + "/README.md"
    if os.path.exists(readme):  # in a checkout
        with open(readme, encoding="utf-8") as file:
            lines = file.read().replace("\\\n", " ").splitlines()
        found |= {f"README {n}": line for n, line in enumerate(lines) if line.startswith("trl-nash comal --")}
    return found


@pytest.mark.parametrize("command", printed().values(), ids=printed())
def test_printed_commands_follow_the_advice(command, folder, monkeypatch):
    """An output folder, a fitted round, and generation calls of more than the micro-step."""
    monkeypatch.setattr("trl_nash.cli.options.checks.check_file", lambda name: None)  # they name files of a reader
    _, algorithm, *argv = shlex.split(command)
    assert "--output_dir" in argv
    arguments = train.read_arguments(algorithm, [*argv, "--use_cpu"])
    sizes.choose_sizes(algorithm, arguments, rows(2000), folder)
    training = arguments.training
    assert training.optimizer_steps_per_round >= FITTED
    assert training.generation_chunk == 128 > training.per_device_train_batch_size


def test_there_are_printed_commands():
    assert len(printed()) >= 3


# ---- Threads ----


@pytest.fixture
def machine(monkeypatch):
    """A machine of 16 cores, on which nobody has set OMP_NUM_THREADS; returns the numbers that torch was given."""
    given = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv(threads.HANDED, raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(threads, "cores", lambda: 16)
    return given


def model_of(weights: int):
    layer = SimpleNamespace(numel=lambda: weights)
    embedding = SimpleNamespace(numel=lambda: 10**9)
    return SimpleNamespace(named_parameters=lambda: [("layer.weight", layer), ("embed_tokens.weight", embedding)])


@pytest.mark.parametrize(
    "weights, expected", [(4 * 10**5, 1), (3 * 10**7, 1), (106 * 10**6, 5), (36 * 10**7, 16), (7 * 10**9, 16)]
)
def test_a_small_model_gets_few_threads(weights, expected, machine):
    sentence = threads.choose_threads(model_of(weights))
    assert machine == [expected] and sentence.startswith(f"Threads: {expected} of 16, chosen for a model of ")


def test_processes_share_the_cores_that_there_are(machine, monkeypatch):
    """Not those of the machine around a container; what the launcher has shared out is no choice of the user's."""
    monkeypatch.setattr(threads, "cores", lambda: 4)
    monkeypatch.setenv(threads.HANDED, "")  # so that it is restored
    threads.share_cores(2)
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert "Threads: 2 of 2" in threads.choose_threads(model_of(10**9)) and machine == [2]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # as --num_cpu_threads_per_process sets it
    assert threads.choose_threads(model_of(10)) == "Threads: 2, as you set it." and machine == [2]
    threads.share_cores(1)
    assert os.environ["OMP_NUM_THREADS"] == "3"


V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    "files, expected",
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 16),
        ({V1[0]: "300000\n", V1[1]: "100000\n"}, 3),
        ({V1[0]: "10000\n", V1[1]: "100000\n"}, 1),
        ({V1[0]: "-1\n", V1[1]: "100000\n"}, 16),
        ({V1[0]: "300000\n"}, 16),
        ({}, 16),
    ],
    ids=str,
)
def test_a_containers_quota_counts(files, expected, tmp_path, monkeypatch):
    """Of both versions of Linux's control groups, in files as a container finds them."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert threads.cores() == expected
