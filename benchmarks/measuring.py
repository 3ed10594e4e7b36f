# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What the benchmarks of the kernel share: processes of their own, peak memory, the machine, tables in pages."""

import contextlib
import ctypes
import multiprocessing
import os
import platform
import re
import resource
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


MISSED = 3  # exit status: all is measured, and something is past a limit that the benchmark states
PACKAGES = ("torch", "triton", "transformers", "trl", "peft", "liger-kernel", "cut-cross-entropy", "trl-nash")


def alone(function: Callable, *arguments: Any) -> Any:
    """
    The result of `function(*arguments)`, from a process of its own.

    It is forked, so that what is loaded and built already is there at no cost. This process must not have run torch on
    several threads before, which a fork does not survive.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        process.join()
        result = RuntimeError(f"ended with exit code {process.exitcode}: out of memory, if that is -9")
    process.join()
    if isinstance(result, Exception):
        raise result
    return result


def _answer(sender, function: Callable, arguments: tuple) -> None:
    try:
        sender.send(function(*arguments))
    except Exception as error:
        sender.send(RuntimeError(f"{type(error).__name__}: {error}"))


def clock(threads: int) -> tuple[Callable, str]:
    """What to measure seconds with, and its name. The own time of one thread does not grow with other work."""
    return (time.process_time, "processor") if threads == 1 else (time.perf_counter, "wall")


def reset_peak() -> int:
    """Bytes that this process occupies now. [`peak`] counts from here where the system can do that (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # freed memory that the C library kept would be used again, and not counted
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    return _largest()


def peak() -> int:
    """The most bytes that this process has occupied since [`reset_peak`]."""
    return _status("VmHWM") if Path("/proc/self/clear_refs").exists() else _largest()


def _status(key: str) -> int:
    return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def _largest() -> int:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(device: str = "cpu", threads: int | None = None) -> dict:
    """What was measured on; nothing that names a host or a path."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    found = {"cpu": cpu, "cores": os.cpu_count(), "load_average": [round(load, 2) for load in os.getloadavg()]}
    if threads:
        found["threads"] = threads
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
        )
        found |= {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "compute_capability": f"{properties.major}.{properties.minor}",
            "driver": driver.stdout.split("\n")[0].strip(),
            "cuda": torch.version.cuda,
        }
    found["python"] = platform.python_version()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def fill(page: Path, marker: str, text: str) -> None:
    """
    Puts `text` between the two lines `<!-- marker -->` of a page.

    Raises:
        `ValueError`: if the page does not have them.
    """
    line = re.escape(f"<!-- {marker} -->\n")
    content, count = re.subn(
        rf"({line}).*?({line})", lambda m: f"{m[1]}{text}\n{m[2]}", page.read_text(encoding="utf-8"), flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(
            f"{page} has {count} places for the table: put two lines `<!-- {marker} -->` where it belongs."
        )
    page.write_text(content, encoding="utf-8")
