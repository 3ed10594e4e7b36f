# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`--report_to`: trackers that are not there, and trackers that fail."""

import importlib.util

from ....usage import UsageError, did_you_mean


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
_CALLBACKS = "transformers.integrations.integration_utils"


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


def failure_of_tracker(error: BaseException) -> str | None:
    """
    What there is to say if a tracker is behind `error`, `None` if none is. TRL imports those that are installed, asked
    or not, so that a broken one breaks everything; others fail where training begins (no key, no server).
    """
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    for link in reversed(chain):
        traceback = link.__traceback__
        while traceback is not None:
            if (name := _tracker_in(traceback.tb_frame)) is not None:
                return _failed(name, link)
            traceback = traceback.tb_next
    return None


def _tracker_in(frame) -> str | None:
    """The tracker to whose package, or callback, a frame belongs."""
    module = str(frame.f_globals.get("__name__"))
    for name, packages in TRACKERS.items():
        if module.partition(".")[0] in packages:
            return name
    if module != _CALLBACKS:
        return None
    kind = type(frame.f_locals.get("self"))
    return next((name for name, known in frame.f_globals["INTEGRATION_TO_CALLBACK"].items() if known is kind), None)


def _failed(name: str, error: BaseException) -> str:
    said = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
    if isinstance(error, ImportError):
        return (
            f"the tracker {name} is installed and cannot be imported: {said}. Mend it, or `pip uninstall "
            f"{TRACKERS[name][0]}`."
        )
    return f"the tracker {name} failed: {said}. Mend it, leave it out of --report_to, {_NONE}."
