# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash env`: what a bug report needs to say about the machine."""

import platform
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement
from packaging.version import Version

from trl_nash import __version__

from ..extras import pip_install
from ..usage import UsageError


_PACKAGES = ("trl", "transformers", "torch", "accelerate", "datasets", "huggingface_hub")
_EXTRAS = {
    "peft": "peft",
    "deepspeed": "deepspeed",
    "quantization": "bitsandbytes",
    "vllm": "vllm",
    "judges": "openai",
    "kernels": "triton",
    "plots": "matplotlib",
    "wandb": "wandb",
    "trackio": "trackio",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
}


def run(argv: list[str]) -> int:
    """
    Prints versions, accelerators, what would be used of them, and which extras are installed.

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
        "base": _base(),
        "generation": _generation(),
        "kernel": _kernel(),
    }
    for extra, package in _EXTRAS.items():
        installed = _version(package)
        found = f"{package} {installed}" if installed else f"not installed ({pip_install(extra)})"
        facts[f"extra {extra}"] = found
    print("\n".join(f"- {name}: {fact}" for name, fact in facts.items()))
    return 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _base() -> str:
    """The class that the trainers are built on."""
    try:
        from ..compat import OnlineDPOTrainer
    except ImportError as error:
        return f"none: {error}"
    module = OnlineDPOTrainer.__module__
    return f"OnlineDPOTrainer of {'TRL' if module.partition('.')[0] == 'trl' else 'trl-nash itself'} ({module})"


def _generation() -> str:
    """Who samples: transformers, and vLLM with `use_vllm`."""
    default, installed = f"transformers {_version('transformers')}", _version("vllm")
    supported = next((r.specifier for r in map(Requirement, _requirements("trl")) if r.name == "vllm"), None)
    if installed is None:
        return f"{default} (use_vllm needs vLLM {supported or ''}".rstrip() + ")"
    # A local segment, such as +cu129, is no other release.
    release = Version(Version(installed).base_version)
    if supported is None or release in supported:
        return f"{default}; vLLM {installed} with use_vllm"
    return f"{default}; vLLM {installed} with use_vllm, of which TRL {_version('trl')} supports {supported}"


def _requirements(package: str) -> list[str]:
    try:
        return requires(package) or []
    except PackageNotFoundError:
        return []


def _kernel() -> str:
    """The backend of the output head's log-probs."""
    if (_version("torch") or "").endswith("+cpu") or not find_spec("triton"):
        return "torch"
    import torch

    return f"triton {_version('triton')}" if torch.cuda.is_available() else "torch"


def _accelerators() -> str:
    if (_version("torch") or "").endswith("+cpu"):  # known without the second that importing it takes
        return "none (torch is a CPU build)"
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    if torch.accelerator.is_available():
        return f"{torch.accelerator.device_count()} x {torch.accelerator.current_accelerator().type}"
    return "none"
