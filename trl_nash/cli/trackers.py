# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`--report_to`: trackers that are not there, and trackers that fail."""

import importlib.util

from ..usage import UsageError, did_you_mean


# What transformers can report to, and the packages of which one is needed for it.
TRACKERS = {
    "azure_ml": ("azureml",),
    "clearml": ("clearml",),
    "codecarbon": ("codecarbon",),
    "comet_ml": ("comet_ml",),
    "dagshub": ("dagshub",),
    "dvclive": ("dvclive",),
    "flyte": ("flytekit",),
    "kubeflow": (),
    "mlflow": ("mlflow",),
    "neptune": ("neptune",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
_NONE = "or write --report_to none"


def trackers_of(report_to: str | list[str] | None) -> list[str]:
    """The names in `--report_to`, without `none`."""
    names = report_to if isinstance(report_to, list) else [report_to]
    return [name for name in names if name not in (None, "none")]


def check_trackers(report_to: str | list[str] | None) -> None:
    """
    Refuses trackers that nobody knows and that are not installed. Nothing of them is imported.

    Raises:
        UsageError: If there is one.
    """
    names = trackers_of(report_to)
    for name in names:
        if name == "all" and len(names) == 1:
            continue
        if name not in TRACKERS:
            hint = did_you_mean(name, TRACKERS) or f": there are {', '.join(TRACKERS)}."
            raise UsageError(f"--report_to {name} is no tracker{hint}")
        packages = TRACKERS[name]
        if packages and not any(importlib.util.find_spec(package) for package in packages):
            raise UsageError(f"--report_to {name}: it is not installed. pip install {packages[0]}, {_NONE}.")


def load_trackers(report_to: list[str]) -> None:
    """
    Imports the trackers, which is when one that is installed but broken shows, before anything is loaded.

    Raises:
        UsageError: If one fails, with its name and what it says.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    for name in report_to:
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except Exception as error:
            raise UsageError(_failed(name, error)) from error


def failure_of_tracker(error: BaseException) -> str | None:
    """What there is to say if a tracker has raised `error` (no key, no server), `None` if none has."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    traceback = error.__traceback__
    while traceback is not None:
        callback = traceback.tb_frame.f_locals.get("self")
        for name, kind in INTEGRATION_TO_CALLBACK.items():
            if type(callback) is kind:
                return _failed(name, error)
        traceback = traceback.tb_next
    return None


def _failed(name: str, error: BaseException) -> str:
    said = " ".join(str(error).split()) or type(error).__name__
    return f"the tracker of --report_to {name} failed: {said.rstrip('.')}. Mend it, leave it out, {_NONE}."
