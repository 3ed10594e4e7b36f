# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
`make compat`: the facts of TRL and transformers that are relied on, in the oldest and the newest versions.

For each of {oldest, newest} TRL x {oldest, newest} transformers, the oldest being pyproject.toml's lower bounds, a
fresh environment is made, the contract and drop-in tests run in it, and it is deleted (about 2 GB). It needs a package
index, some minutes a cell, and no GPU.

    python tests/compat_matrix.py [--json FILE] [--pip_args ARGS] [--torch_spec SPEC]
"""

import argparse
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from pathlib import Path


ROOT = Path(__file__).parents[1]
TESTS = ["tests/test_trl_contract.py", "tests/test_online_dpo_contract.py", "tests/trainers/test_dropin.py"]
PACKAGES = ("trl", "transformers", "torch", "accelerate", "peft", "datasets")
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}


def oldest(package: str) -> str:
    """The lower bound in pyproject.toml."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(found[1] for line in dependencies if (found := re.match(rf"{package}>=([\d.]+)", line)))


def newest(package: str, pip_args: list[str]) -> str:
    """The newest release in the package index."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, *pip_args]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return re.match(rf"{package} \(([^)]+)\)", found)[1]


def cells(versions: dict[str, list[str]]) -> list[tuple[str, str]]:
    """All pairs, without those that are the same twice ("1.16" and "1.16.0")."""
    once = {name: list({v.removesuffix(".0"): v for v in found}.values()) for name, found in versions.items()}
    for name, found in once.items():
        if len(found) < len(versions[name]):
            print(f"The oldest {name} that is supported is the newest: {found[0]}.")
    return list(itertools.product(once["trl"], once["transformers"]))


def run(command: list, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT, **options)


def check(trl: str, transformers: str, torch_spec: str, pip_args: list[str]) -> dict:
    """What the tests find in an environment with these versions."""
    with tempfile.TemporaryDirectory() as folder:
        run([sys.executable, "-m", "venv", folder], check=True)
        python, report = Path(folder) / "bin" / "python", Path(folder) / "report.xml"
        for wanted in (
            [torch_spec],  # first, or the newest comes with all that it brings
            [
                f"trl=={trl}",
                f"transformers=={transformers}",
                "--editable",
                ".[peft,quantization]",
                "pytest",
                "hypothesis",
            ],
        ):
            done = run([python, "-m", "pip", "install", "--quiet", *pip_args, *wanted])
            if done.returncode:
                return {"error": done.stderr.strip().splitlines()[-1]}
        show = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        versions = run([python, "-c", show, *PACKAGES], check=True).stdout.split()
        options = ["-q", "--tb=line", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = run([python, "-m", "pytest", *options, *TESTS], env=os.environ | OFFLINE)
        if not report.exists():
            return {"error": done.stdout.strip().splitlines()[-1]}
        found = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name") for case in found if {child.tag for child in case} & {"failure", "error"}]
    skipped = sum(child.tag == "skipped" for case in found for child in case)
    return {
        "versions": dict(zip(PACKAGES, versions, strict=True)),
        "passed": len(found) - len(failed) - skipped,
        "skipped": skipped,
        "failed": failed,
    }


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, default=ROOT / "compat.json", help="file of results")
    parser.add_argument("--pip_args", type=shlex.split, default=[], help="for every pip install")
    parser.add_argument("--torch_spec", default="torch", help="what pip installs first")
    options = parser.parse_args()
    versions = {name: [oldest(name), newest(name, options.pip_args)] for name in ("trl", "transformers")}
    wanted = cells(versions)
    results, row = [], "{:10} {:13} {:>6} {:>6}  {}"
    print(row.format("TRL", "transformers", "passed", "failed", "facts that do not hold"), flush=True)
    for trl, transformers in wanted:
        found = check(trl, transformers, options.torch_spec, options.pip_args)
        failed = found.get("failed", [])
        said = found.get("error") or ", ".join(failed) or "none"
        print(row.format(trl, transformers, found.get("passed", "-"), len(failed), said), flush=True)
        results.append({"trl": trl, "transformers": transformers} | found)
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return int(any("error" in found or found["failed"] for found in results))


if __name__ == "__main__":
    sys.exit(main())
