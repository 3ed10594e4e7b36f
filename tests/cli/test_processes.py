# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import os
import re

import pytest

from trl_nash.cli.training.launching import hardware, processes, threads
from trl_nash.cli.training.launching.processes import accelerate_config_file, complete_launch_options, launch_parser
from trl_nash.extras import pip_install
from trl_nash.trainers.checks import precision
from trl_nash.usage import UsageError


SHIPPED = ("cpu", "single_gpu", "multi_gpu", "multi_node", "zero1", "zero2", "zero3", "fsdp2")


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Sets the number of accelerators that can be seen, on a machine where `accelerate config` never ran."""

    def set_devices(count: int) -> None:
        monkeypatch.setattr(processes, "visible_devices", lambda: count)
        monkeypatch.setattr(hardware, "visible_devices", lambda: count)

    monkeypatch.setattr("accelerate.commands.config.default_config_file", str(tmp_path / "none.yaml"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return set_devices


def launched(*argv: str, **kwargs):
    """What `accelerate launch` reads of the completed options, and the options for the script."""
    launch_args, script_args = complete_launch_options(list(argv), **kwargs)
    return launch_parser().parse_args([*launch_args, "script.py"]), script_args


def test_cpu_starts_one_process(machine):
    machine(0)
    options, script_args = launched()
    assert (options.num_processes, options.num_machines, options.multi_gpu) == (1, 1, False)
    assert options.mixed_precision == "no"
    assert script_args == []  # the script sees for itself that there is no accelerator


@pytest.mark.parametrize("argv", [["--num_processes", "2"], ["--num_processes=2", "--cpu"]])
def test_two_processes_on_the_cpu_are_two(machine, argv):
    # `accelerate launch --cpu --num_processes 2` starts one and says nothing.
    machine(0)
    options, script_args = launched(*argv)
    assert (options.num_processes, options.multi_gpu, options.cpu) == (2, True, False)
    assert script_args == (["--use_cpu=True"] if "--cpu" in argv else [])


def test_cores_are_shared_by_processes_on_the_cpu(machine, monkeypatch):
    machine(0)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv(threads.HANDED, raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    monkeypatch.setattr(threads, "cores", lambda: 8)
    launched("--num_processes", "2")
    assert os.environ.pop("OMP_NUM_THREADS") == os.environ.pop(threads.HANDED) == "4"


def test_one_process_for_each_accelerator(machine):
    machine(8)
    options, _ = launched()
    assert (options.num_processes, options.multi_gpu) == (8, True)
    options, _ = launched("--num_machines", "2", "--main_process_ip", "host", "--main_process_port", "1")
    assert (options.num_processes, options.main_process_port) == (16, 1)
    options, _ = launched("--gpu_ids", "0,3")
    assert options.num_processes == 2


def test_one_process_sees_one_accelerator(machine, monkeypatch):
    machine(8)  # or Trainer would spread the model over all eight with DataParallel
    assert launched("--num_processes", "1")[0].gpu_ids == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6")
    assert launched("--num_processes", "1")[0].gpu_ids == "5"


def test_use_cpu_on_a_machine_with_accelerators(machine):
    machine(8)
    options, script_args = launched("--num_processes", "2", use_cpu=True)
    assert (options.num_processes, options.multi_gpu, script_args) == (2, True, ["--use_cpu=True"])


def test_more_processes_than_accelerators(machine):
    machine(2)
    with pytest.raises(UsageError, match="8 processes need as many accelerators, and 2 can be seen here"):
        launched("--num_processes", "8")


@pytest.mark.parametrize(("devices", "expected"), [(0, 1), (2, 2)])
def test_shipped_configurations_take_the_devices_that_there_are(machine, devices, expected, with_deepspeed):
    machine(devices)
    options, _ = launched("--config_file", accelerate_config_file("zero2"))
    assert (options.num_processes, options.multi_gpu) == (expected, False)
    assert launched("--config_file", accelerate_config_file("single_gpu"))[0].num_processes == 1


def test_a_file_of_the_users_says_how_many(machine, tmp_path):
    machine(4)
    path = tmp_path / "mine.yaml"
    path.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 2\nuse_cpu: false\n"
    )
    assert accelerate_config_file(str(path)) == str(path)
    assert launched("--config_file", str(path))[0].num_processes == 2
    path.write_text("distributed_type: MULTI_CPU\nnum_processes: 3\nuse_cpu: true\n")
    options, script_args = launched("--config_file", str(path))
    assert (options.num_processes, options.multi_gpu, script_args) == (3, True, ["--use_cpu=True"])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_exist(name):
    assert os.path.isfile(accelerate_config_file(name))


def test_unknown_configuration_lists_the_shipped():
    with pytest.raises(
        UsageError, match="--accelerate_config zero9 is neither a file nor one of cpu, fsdp2, multi_gpu"
    ):
        accelerate_config_file("zero9")


def test_fsdp_on_the_cpu_is_refused(machine):
    machine(0)
    with pytest.raises(UsageError, match="FSDP needs accelerators"):
        launched("--config_file", accelerate_config_file("fsdp2"), "--num_processes", "2")


def test_deepspeed_names_its_extra(machine, monkeypatch):
    machine(2)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=re.escape(pip_install("deepspeed"))):
        launched("--config_file", accelerate_config_file("zero3"))


@pytest.mark.parametrize(
    ("precision", "script_args"),
    [("bf16", ["--bf16=True", "--fp16=False"]), ("no", ["--bf16=False", "--fp16=False"])],
)
def test_the_launchers_precision_becomes_the_scripts(machine, precision, script_args):
    machine(1)
    options, found = launched("--mixed_precision", precision)
    assert (options.mixed_precision, found) == ("no", script_args)


def test_fp8_is_refused(machine):
    machine(1)
    with pytest.raises(UsageError, match="fp8 is not supported"):
        launched("--mixed_precision", "fp8")


def test_a_wrong_value_for_the_launcher_is_a_sentence(machine):
    machine(0)
    with pytest.raises(UsageError, match="accelerate launch: argument --num_processes.*invalid int value: 'two'"):
        launched("--num_processes", "two")


@pytest.mark.parametrize(
    ("devices", "best", "argv", "expected"),
    [
        (0, None, [], ["--use_cpu", "True", "--bf16", "False", "--fp16", "False"]),
        (1, "bf16", [], ["--bf16", "True", "--fp16", "False"]),
        (1, "fp16", [], ["--bf16", "False", "--fp16", "True"]),
        (1, "bf16", ["--fp16"], []),
        (1, "bf16", ["--bf16", "False"], []),
        (1, "bf16", ["--use_cpu"], ["--bf16", "False", "--fp16", "False"]),
        (0, None, ["--bf16"], ["--use_cpu", "True"]),
    ],
)
def test_precision_follows_the_hardware_unless_set(machine, monkeypatch, devices, best, argv, expected):
    from trl_nash.cli.options.parser import NashParser

    machine(devices)
    monkeypatch.setattr(precision, "best_precision", lambda use_cpu: "fp32" if use_cpu else best)
    monkeypatch.setattr(hardware, "_device_name", lambda: "an accelerator")
    options, sentence = hardware.hardware_options(NashParser("comal").parse_args(argv))
    assert options == expected
    assert ("as you set it" in sentence) == any("16" in argument for argument in argv)
    assert sentence.startswith("Precision: ") and "\n" not in sentence


@pytest.mark.parametrize(
    ("cuda", "supports_bf16", "mps", "transformers_bf16", "expected"),
    [
        (True, True, False, True, "bf16"),
        (True, False, False, True, "fp16"),  # emulated there, which transformers takes for support
        (False, False, True, True, "fp32"),
        (False, False, False, True, "bf16"),
        (False, False, False, False, "fp32"),
    ],
)
def test_best_precision(monkeypatch, cuda, supports_bf16, mps, transformers_bf16, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: supports_bf16)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: mps)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: cuda or mps or transformers_bf16)
    monkeypatch.setattr(precision, "is_torch_bf16_gpu_available", lambda: transformers_bf16)
    assert precision.best_precision() == expected
    assert precision.best_precision(use_cpu=True) == "fp32"


@pytest.mark.parametrize(("available", "expected"), [(True, 4), (False, 0)])
def test_visible_devices(monkeypatch, available, expected):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: available)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 4)
    assert hardware.visible_devices() == expected
