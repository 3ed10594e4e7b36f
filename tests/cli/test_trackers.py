# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import sys

import pytest
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from trl_nash.cli import errors
from trl_nash.cli.training.reports.trackers import TRACKERS, check_trackers, failure_of_tracker, trackers_of
from trl_nash.usage import UsageError


def test_the_trackers_are_those_of_transformers():
    assert TRACKERS.keys() == INTEGRATION_TO_CALLBACK.keys()


@pytest.mark.parametrize(
    "report_to, names", [(None, []), ("none", []), (["none"], []), ("wandb", ["wandb"]), (["a", "b"], ["a", "b"])]
)
def test_names(report_to, names):
    assert trackers_of(report_to) == names


def test_what_is_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name == "tensorboardX" else None)
    for report_to in ("none", "all", ["all"], "tensorboard", ["tensorboard"], None):
        check_trackers(report_to)
    with pytest.raises(UsageError, match="^--report_to wandb: it is not installed. pip install wandb, or write"):
        check_trackers(["tensorboard", "wandb"])
    with pytest.raises(UsageError, match="^--report_to tensorbord is no tracker: did you mean tensorboard"):
        check_trackers("tensorbord")


def raised(function, *args) -> Exception:
    try:
        function(*args)
    except Exception as error:
        return error


def test_a_tracker_that_cannot_be_imported_is_the_culprit(tmp_path, monkeypatch):
    """TRL imports it, asked or not, and says something else."""
    package = tmp_path / "swanlab"
    package.mkdir()
    (package / "__init__.py").write_text("from . import inner\n")
    (package / "inner.py").write_text("import what_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)

    def import_lazily():
        try:
            import swanlab  # noqa: F401
        except ImportError as error:
            raise RuntimeError("Failed to import trl.trainer.grpo_trainer") from error

    error = raised(import_lazily)
    said = failure_of_tracker(error)
    assert said == (
        "the tracker swanlab is installed and cannot be imported: No module named 'what_it_needs'. Mend it, or `pip "
        "uninstall swanlab`."
    )
    assert errors.is_user_error(error, starting=False)
    assert "swanlab" not in sys.modules


def test_a_tracker_that_fails_is_the_culprit(capsys):
    """In its package, or in transformers' callback."""
    namespace = {"__name__": "wandb.sdk.login"}
    exec("def setup():\n    raise KeyError('no key')", namespace)
    error = raised(namespace["setup"])
    assert errors.is_user_error(error, starting=False)
    assert errors.report(error, "trl-nash comal") == 1
    assert "trl-nash comal: the tracker wandb failed: 'no key'. Mend it" in capsys.readouterr().err
    missing = next(name for name, packages in TRACKERS.items() if not any(map(find, packages)) and packages)
    assert failure_of_tracker(raised(INTEGRATION_TO_CALLBACK[missing])).startswith(f"the tracker {missing} failed: ")


def find(package: str):
    from importlib.util import find_spec

    return find_spec(package)


def test_other_errors_are_no_trackers():
    assert failure_of_tracker(raised(int, "x")) is None
    assert failure_of_tracker(ValueError()) is None
