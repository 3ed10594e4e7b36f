# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import logging
import signal
import subprocess
import sys
import warnings
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from accelerate.logging import get_logger

from trl_nash import __version__, compat
from trl_nash.cli import env, errors
from trl_nash.cli.main import main
from trl_nash.cli.options.typed import take_option
from trl_nash.cli.training.launching import launch
from trl_nash.extras import pip_install
from trl_nash.kernels.logprob import _uses_triton


COMMANDS = ("onpo", "comal", "nash-md", "demo", "simulate", "judge", "arena", "plan", "env")


def test_help_lists_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert main([]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["comall"]])
def test_answers_without_importing_torch(argv):
    # Importing torch takes a second and TRL another five; these answers need neither.
    code = (
        "import sys; from trl_nash.cli.main import main; main(sys.argv[1:]); "
        "found = {'torch', 'transformers', 'trl', 'accelerate', 'datasets'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code, *argv], check=True, timeout=600)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize(("typed", "meant"), [("comall", "comal"), ("nashmd", "nash-md"), ("nash_md", "nash-md")])
def test_unknown_command_is_answered_with_the_nearest(capsys, typed, meant):
    assert main([typed]) == 2
    assert f"unknown command {typed}: did you mean {meant}?" in capsys.readouterr().err


def test_unknown_command_far_from_all_lists_them(capsys):
    assert main(["serve"]) == 2
    complaint = capsys.readouterr().err
    assert all(command in complaint for command in COMMANDS)


def test_env_names_versions_and_extras(capsys):
    assert main(["env"]) == 0
    lines = dict(line[2:].split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["trl-nash"] == __version__
    assert lines["trl"][0].isdigit()
    assert lines["accelerators"]
    assert lines["base"].endswith(f"({compat.OnlineDPOTrainer.__module__})")
    assert lines["generation"].startswith("transformers ") and "vLLM" in lines["generation"]
    assert lines["kernel"].split()[0] in ("torch", "triton")
    for extra in ("peft", "deepspeed", "quantization", "vllm", "judges", "kernels", "plots", "wandb", "trackio"):
        found = lines[f"extra {extra}"]
        assert found[-1].isdigit() or found == f"not installed ({pip_install(extra)})"


def test_env_names_the_accelerators(monkeypatch):
    monkeypatch.setattr(env, "_version", lambda package: "2.13.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda index: f"card {index}")
    assert env._accelerators() == "card 0, card 1"


@pytest.mark.parametrize(
    "installed, said",
    [
        (None, "transformers 5.0 (use_vllm needs vLLM <=0.31.0,>=0.22.0)"),
        ("0.24.0+cu129", "transformers 5.0; vLLM 0.24.0+cu129 with use_vllm"),
        ("0.32.0", "transformers 5.0; vLLM 0.32.0 with use_vllm, of which TRL 1.16 supports <=0.31.0,>=0.22.0"),
    ],
)
def test_env_names_the_engine(installed, said, monkeypatch):
    """And whether TRL, which drives it, supports it."""
    versions = {"transformers": "5.0", "trl": "1.16", "vllm": installed}
    monkeypatch.setattr(env, "_version", versions.get)
    monkeypatch.setattr(env, "requires", lambda package: ["peft", 'vllm<=0.31.0,>=0.22.0; extra == "vllm"'])
    assert env._generation() == said


@pytest.mark.parametrize("module, whose", [("trl.experimental.online_dpo", "TRL"), ("trl_nash.x", "trl-nash itself")])
def test_env_names_the_base(module, whose, monkeypatch):
    monkeypatch.setattr(compat, "OnlineDPOTrainer", type("OnlineDPOTrainer", (), {"__module__": module}))
    assert env._base() == f"OnlineDPOTrainer of {whose} ({module})"


def test_env_names_the_kernel(monkeypatch):
    """What `backend="auto"` chooses for tensors on the device."""
    monkeypatch.setattr(env, "_version", lambda package: "1.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert env._kernel() == "torch"
    if find_spec("triton"):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        assert env._kernel() == "triton 1.0"
        on_cuda = SimpleNamespace(is_cuda=True, device="cuda")
        assert _uses_triton("auto", on_cuda, torch.float32)


def test_env_takes_no_options(capsys):
    assert main(["env", "--verbose"]) == 2
    assert "env takes no options" in capsys.readouterr().err
    assert main(["env", "--help"]) == 0


def test_interrupt_exits_130_with_a_sentence(capsys, monkeypatch):
    def interrupted(algorithm, argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "run", interrupted)
    assert main(["comal"]) == 130
    assert capsys.readouterr().err == "trl-nash: interrupted.\n"


def test_faults_of_the_program_keep_their_traceback(monkeypatch):
    def faulty(algorithm, argv):
        raise ZeroDivisionError

    monkeypatch.setattr(launch, "run", faulty)
    with pytest.raises(ZeroDivisionError):
        main(["comal"])


def test_traceback_on_demand(monkeypatch):
    monkeypatch.setenv("TRL_NASH_TRACEBACK", "1")
    with pytest.raises(errors.UsageError):
        main(["comall"])


def caught(function, *args) -> Exception:
    try:
        function(*args)
    except Exception as error:
        return error


def test_a_sentence_of_the_package_is_enough():
    raised_by_the_package = caught(take_option, ["--config"], "config")
    assert errors.is_user_error(raised_by_the_package, starting=False)


def test_a_library_error_is_the_users_only_while_starting():
    raised_by_a_library = caught(int, "x")
    assert errors.is_user_error(raised_by_a_library, starting=True)
    assert not errors.is_user_error(raised_by_a_library, starting=False)
    assert not errors.is_user_error(RuntimeError("CUDA error"), starting=True)


def test_an_operation_that_fails_in_a_line_of_the_package_is_a_fault():
    # `iter(3)` raises a TypeError, and nobody wrote a sentence for the user.
    assert not errors.is_user_error(caught(take_option, 3, "config"), starting=False)


def test_noise_of_libraries_is_left_out_and_other_warnings_are_not():
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        errors.hide_noise()
        warnings.warn("`gradient_checkpointing` is deprecated and will be removed in v6.", FutureWarning)
        warnings.warn("Something else is deprecated.", FutureWarning)
    assert [str(w.message) for w in caught_warnings] == ["Something else is deprecated."]


@pytest.mark.parametrize("processes, said", [(None, "Careful.\n"), ("1", "Careful.\n"), ("2", "[RANK 0] Careful.\n")])
def test_one_process_is_not_numbered(processes, said, capsys, monkeypatch):
    """accelerate's loggers, which are ours, begin with the number of the process."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setattr("logging.lastResort", type(logging.lastResort)(logging.WARNING))
    errors.hide_noise()
    PartialState()
    message, _ = get_logger("trl_nash").process("Careful.", {})
    logging.lastResort.handle(logging.makeLogRecord({"msg": message, "levelno": logging.WARNING}))
    assert capsys.readouterr().err == said


def test_deepspeed_does_not_speak_of_its_device(caplog):
    """It has a logger of its own, which it makes when it is imported."""
    errors.hide_noise()
    logger = logging.getLogger("DeepSpeed")
    logger.addHandler(caplog.handler)
    try:
        for file in ("real_accelerator.py", "engine.py"):
            logger.handle(logging.makeLogRecord({"filename": file, "msg": file, "levelno": logging.WARNING}))
    finally:
        logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"engine.py"}


def test_the_first_process_speaks_at_once_and_the_others_wait(capsys, monkeypatch):
    waits = []
    monkeypatch.setattr(errors.time, "sleep", waits.append)
    monkeypatch.setenv("RANK", "0")
    assert errors.report(ValueError("no such model"), "trl-nash comal") == 1
    assert waits == []
    assert capsys.readouterr().err.startswith("trl-nash comal: no such model\n(TRL_NASH_TRACEBACK=1 ")
    monkeypatch.setenv("RANK", "3")
    stops = []
    monkeypatch.setattr(errors.signal, "signal", lambda *handling: stops.append(handling))
    assert errors.report(caught(take_option, ["--config"], "config")) == 2
    # The launcher's signal ends it without a word, whoever handled signals before.
    assert len(waits) == 1 and stops == [(signal.SIGTERM, signal.SIG_DFL)]
    assert capsys.readouterr().err == "trl-nash (process 3): --config needs a value after it.\n"
