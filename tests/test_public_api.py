# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What `import trl_nash` gives, and what it does not load."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import trl_nash


NAMES = {
    "__version__",
    "NashConfig",
    "NashTrainer",
    "PairConfig",
    "ONPOConfig",
    "ONPOTrainer",
    "COMALConfig",
    "COMALTrainer",
    "NashMDConfig",
    "NashMDTrainer",
    "EGPOConfig",
    "EGPOTrainer",
    "INPOConfig",
    "INPOTrainer",
    "MNPOConfig",
    "MNPOTrainer",
    "MPOConfig",
    "MPOTrainer",
    "NashMirrorProxConfig",
    "NashMirrorProxTrainer",
    "NashProxConfig",
    "NashProxTrainer",
    "OnlineIPOConfig",
    "OnlineIPOTrainer",
    "SPPOConfig",
    "SPPOTrainer",
    "Abstained",
    "BasePairwiseJudge",
    "CallableJudge",
    "EnsembleJudge",
    "GPMJudge",
    "JUDGES",
    "JudgeError",
    "LengthDebiasedJudge",
    "OpenAIJudge",
    "OpponentPoolCallback",
    "PairRMJudge",
    "PairwiseJudge",
    "PairwiseLMJudge",
    "RandomJudge",
    "RewardJudge",
    "as_reward_func",
    "load_judge",
}
HEAVY = ["torch", "trl", "transformers", "accelerate", "datasets", "peft", "numpy", "pandas", "vllm", "deepspeed"]


def loaded_after(code: str) -> dict:
    """Runs `code` in a fresh interpreter: which heavy packages it loaded, and its seconds of processor time."""
    script = (
        f"import json, sys, time\nstart = time.process_time()\n{code}\nseconds = time.process_time() - start\n"
        f"print(json.dumps({{'loaded': [m for m in {HEAVY} if m in sys.modules], 'seconds': seconds}}))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600)
    return json.loads(result.stdout)


def test_public_names():
    """The package exports the documented names and no others, each of which can be imported."""
    assert set(trl_nash.__all__) == NAMES == set(dir(trl_nash))
    assert [name for name in NAMES if getattr(trl_nash, name, None) is None] == []


def test_type_checkers_see_the_same_names():
    """The imports under TYPE_CHECKING, which never run, are those of the lazy table."""
    tree = ast.parse(Path(trl_nash.__file__).read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING")
    assert {alias.name for node in block.body for alias in node.names} == NAMES - {"__version__"}


def test_unknown_name_is_an_attribute_error():
    """A name that does not exist is an AttributeError that names module and attribute, so `hasattr` works."""
    with pytest.raises(AttributeError, match="module 'trl_nash' has no attribute 'DPOTrainer'"):
        _ = trl_nash.DPOTrainer
    assert not hasattr(trl_nash, "anything")


def test_names_are_the_modules_own():
    """A lazy export is the very object of its module, and the same one every time."""
    from trl_nash.trainers.comal import COMALTrainer

    assert trl_nash.COMALTrainer is COMALTrainer is trl_nash.COMALTrainer


def test_version_is_one_that_pip_can_order():
    """`__version__`, from which the distribution's version is read, is a PEP 440 version."""
    assert str(Version(trl_nash.__version__)) == trl_nash.__version__


def test_package_is_typed():
    """`py.typed` lies beside the package, so that type checkers read its hints."""
    assert (Path(trl_nash.__file__).parent / "py.typed").is_file()


def test_import_loads_neither_torch_nor_trl():
    """`import trl_nash` loads no heavy package, and takes less than a second of the processor."""
    report = loaded_after("import trl_nash; assert trl_nash.__version__; dir(trl_nash)")
    assert report["loaded"] == []
    assert report["seconds"] < 1.0


def test_judges_load_neither_torch_nor_trl():
    """Judges without a model are usable without TRL: they load numpy alone."""
    report = loaded_after(
        "from trl_nash import BasePairwiseJudge, CallableJudge, PairwiseJudge, RandomJudge, load_judge\n"
        "assert load_judge('random')(['p'], ['a'], ['b'])"
    )
    assert report["loaded"] == ["numpy"]


def test_optional_packages_are_not_needed_to_import_a_trainer():
    """The trainers import without peft, bitsandbytes, deepspeed, vllm, openai or matplotlib of their own accord."""
    package = Path(trl_nash.__file__).parent
    optional = {"peft", "bitsandbytes", "deepspeed", "vllm", "openai", "triton", "matplotlib", "wandb", "trackio"}
    triton = package / "kernels" / "triton_folds.py"  # is imported for `backend="triton"` alone
    for file in set(package.rglob("*.py")) - {triton}:
        for node in ast.parse(file.read_text()).body:  # the module's own level: what runs when it is imported
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not optional & {name.split(".")[0] for name in names}, file


def test_the_library_knows_no_command_line():
    package = Path(trl_nash.__file__).parent
    files = [file for file in package.rglob("*.py") if "cli" not in file.relative_to(package).parts]
    assert len(files) > 100
    for file in files:
        assert not re.search(r"^\s*(from|import) (\.+|trl_nash\.)cli\b", file.read_text(), flags=re.MULTILINE), file
