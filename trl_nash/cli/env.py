# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash env`: what a bug report needs to say about the machine."""

import platform
from importlib.metadata import PackageNotFoundError, version

from trl_nash import __version__

from .errors import UsageError


_PACKAGES = ("trl", "transformers", "torch", "accelerate", "datasets", "huggingface_hub")
_EXTRAS = {
    "peft": "peft",
    "deepspeed": "deepspeed",
    "quantization": "bitsandbytes",
    "vllm": "vllm",
    "judges": "openai",
    "kernels": "triton",
    "plots": "matplotlib",
}


def run(argv: list[str]) -> int:
    """
    Prints versions, accelerators and which extras are installed.

    Args:
        argv (`list[str]`):
            What was typed after `env`: nothing, or `--help`.

    Returns:
        `int`: 0.
    """
    if argv and argv[0] not in ("-h", "--help"):
        raise UsageError(f"env takes no options, got {argv[0]}.")
    if argv:
        print("usage: trl-nash env\n\nPrints versions and available extras, to be copied into a bug report.")
        return 0
    facts = {
        "trl-nash": __version__,
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) or "not installed" for name in _PACKAGES},
        "accelerators": _accelerators(),
    }
    for extra, package in _EXTRAS.items():
        installed = _version(package)
        found = f"{package} {installed}" if installed else f'not installed (pip install "trl-nash[{extra}]")'
        facts[f"extra {extra}"] = found
    print("\n".join(f"- {name}: {fact}" for name, fact in facts.items()))
    return 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _accelerators() -> str:
    if (_version("torch") or "").endswith("+cpu"):  # known without the second that importing it takes
        return "none (torch is a CPU build)"
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    if torch.accelerator.is_available():
        return f"{torch.accelerator.device_count()} x {torch.accelerator.current_accelerator().type}"
    return "none"
