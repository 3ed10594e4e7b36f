# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from trl_nash.cli.main import main
from trl_nash.cli.training.launching import launch, processes
from trl_nash.usage import UsageError


RUN = ["--model_name_or_path", "m", "--dataset_name", "d", "--judge", "random"]


@pytest.fixture(autouse=True)
def cpu_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "visible_devices", lambda: 0)
    monkeypatch.setattr("accelerate.commands.config.default_config_file", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def config_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return str(path)

    return write


def read(launch_args: list[str]):
    return processes.launch_parser().parse_args([*launch_args, "script.py"])


def test_options_go_where_they_are_known():
    launch_args, script_args = launch.plan_launch("comal", [*RUN, "--num_processes", "2", "--beta", "0.1", "0.05"])
    assert script_args == [*RUN, "--beta", "0.1", "0.05"]
    assert read(launch_args).num_processes == 2


@pytest.mark.parametrize("form", [["--accelerate_config", "zero2"], ["--accelerate_config=zero2"]])
def test_accelerate_config_by_name(form, with_deepspeed):
    launch_args, script_args = launch.plan_launch("comal", [*RUN, *form])
    assert script_args == RUN
    assert os.path.basename(read(launch_args).config_file) == "zero2.yaml"


def test_config_file_holds_options_of_both(config_file, monkeypatch):
    monkeypatch.setenv("TRL_NASH_TEST_VARIABLE", "before")
    path = config_file(
        "env: {TRL_NASH_TEST_VARIABLE: after}\nmodel_name_or_path: m\ndataset_name: d\njudge: random\n"
        "learning_rate: 1e-4\nnum_processes: 3\nmulti_gpu: true\naccelerate_config: multi_gpu\n"
    )
    launch_args, script_args = launch.plan_launch("comal", [f"--config={path}", "--num_processes", "2"])
    assert script_args == ["--config", path]
    options = read(launch_args)
    assert (options.num_processes, options.multi_gpu) == (2, True)  # what is typed goes before the file
    assert os.path.basename(options.config_file) == "multi_gpu.yaml"
    assert os.environ["TRL_NASH_TEST_VARIABLE"] == "after"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("learing_rate: 1e-4", "unknown option learing_rate: did you mean learning_rate?"),
        ("num_proceses: 2", "unknown option num_proceses: did you mean num_processes?"),
        ("learning_rate: fast", "learning_rate: invalid float value: 'fast'."),
    ],
)
def test_mistakes_in_a_config_file_name_file_and_key(config_file, text, complaint):
    path = config_file(text)
    with pytest.raises(UsageError) as error:
        launch.plan_launch("comal", [*RUN, "--config", path])
    assert str(error.value) == f"{path}: {complaint}"


def test_a_typo_ends_before_anything_starts(capsys, monkeypatch):
    monkeypatch.setattr(launch, "launch", lambda *args: pytest.fail("something was launched"))
    assert main(["comal", *RUN, "--learing_rate", "1e-4"]) == 2
    assert capsys.readouterr().err == "trl-nash: unknown option --learing_rate: did you mean --learning_rate?\n"


def test_help_starts_nothing(capsys, monkeypatch):
    monkeypatch.setattr(launch, "launch", lambda *args: pytest.fail("something was launched"))
    assert main(["comal", *RUN, "--help"]) == 0
    assert "--reference_rounds" in capsys.readouterr().out


def test_the_algorithm_and_its_options_reach_the_training_module(monkeypatch):
    started = []
    monkeypatch.setattr("accelerate.commands.launch.launch_command", started.append)
    assert main(["nash-md", *RUN, "--mixture_coef", "0.5"]) == 0
    assert (started[0].module, started[0].training_script) == (True, "trl_nash.cli.training.train")
    assert started[0].training_script_args == ["nash-md", *RUN, "--mixture_coef", "0.5"]


def failed_child(exitcode: int) -> ChildFailedError:
    failure = SimpleNamespace(timestamp=1, exitcode=exitcode, local_rank=1)
    error = ChildFailedError.__new__(ChildFailedError)
    error.failures = {1: failure, 0: SimpleNamespace(timestamp=2, exitcode=-signal.SIGTERM, local_rank=0)}
    return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (subprocess.CalledProcessError(1, "python"), 1, ""),
        (subprocess.CalledProcessError(130, "python"), 130, ""),
        (subprocess.CalledProcessError(-signal.SIGKILL, "python"), 137, "ended by SIGKILL, as when memory runs out"),
        (failed_child(1), 1, ""),
        (failed_child(-signal.SIGSEGV), 139, "training process 1 was ended by SIGSEGV."),
        (SignalException("", signal.SIGINT), 130, ""),
        (ValueError("no such file"), 1, "no such file"),
    ],
)
def test_exit_codes(capsys, monkeypatch, error, code, said):
    def fail(arguments):
        raise error

    monkeypatch.setattr("accelerate.commands.launch.launch_command", fail)
    handler = signal.getsignal(signal.SIGINT)
    assert launch.launch([], ["comal"]) == code
    output = "".join(capsys.readouterr())
    assert said in output if said else output == ""
    assert signal.getsignal(signal.SIGINT) is handler


JUDGE = """
import atexit, gc, hashlib, os

def shorter(prompts, first, second):
    return [float(len(a) < len(b)) if len(a) != len(b) else 0.5 for a, b in zip(first, second)]

def note():
    import torch
    from transformers import LlamaForCausalLM

    for thing in gc.get_objects():
        if type(thing) is LlamaForCausalLM:
            weights = b"".join(parameter.detach().numpy().tobytes() for parameter in thing.parameters())
            with open(f"rank{os.environ['RANK']}", "w") as file:
                file.write(f"{os.environ['WORLD_SIZE']} {hashlib.sha256(weights).hexdigest()}")

atexit.register(note)
"""


def test_two_real_processes_end_with_the_same_weights(tmp_path, model_dir, prompts_file):
    (tmp_path / "my_judge.py").write_text(JUDGE)
    command = [sys.executable, "-m", "trl_nash.cli.main", "comal", "--num_processes=2"]
    options = {
        "model_name_or_path": model_dir,
        "dataset_name": prompts_file,
        "judge": "my_judge:shorter",
        "output_dir": "out",
        "max_steps": "2",
        "max_new_tokens": "4",
        "max_length": "32",
        "per_device_train_batch_size": "2",
        "learning_rate": "0.01",
        "test_split_size": "0.25",
        "report_to": "none",
    }
    paths = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    done = subprocess.run(
        [*command, *(f"--{name}={value}" for name, value in options.items())],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "2 processes" in done.stdout
    assert "gainst the start it wins" in done.stdout and "n = 4 prompts" in done.stdout
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trl-nash comal --num_processes=2 " in card and "my_judge:shorter" in card
    notes = [(tmp_path / f"rank{rank}").read_text().split() for rank in (0, 1)]
    assert notes[0] == notes[1]
    assert notes[0][0] == "2"
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "README.md").is_file()
