# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Builds wheel and sdist, and uses them as somebody would who has only these.

    python tests/check_release.py

The wheel is built from the sdist. It is installed into an empty environment and run in an empty folder, where nothing
of the repository can be found. Its dependencies are those of the environment that runs this script, gigabytes of them;
whether pip finds them is what `make compat` checks.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
SCRIPT = """\
import importlib.metadata, pathlib, sys
import trl_nash
from trl_nash import COMALConfig, COMALTrainer, load_judge

assert pathlib.Path(trl_nash.__file__).is_relative_to(sys.prefix), trl_nash.__file__
assert importlib.metadata.version("trl-nash") == trl_nash.__version__
for name in trl_nash.__all__:
    getattr(trl_nash, name)
assert load_judge("random")(["p"], ["a"], ["b"])
COMALConfig(output_dir="out", bf16=False, use_cpu=True)
"""
COMMANDS = [
    "--version",
    "--help",
    "env",
    "comal --help",
    "simulate --rounds 5",
    "plan comal --parameters 7B --device H100 --max_steps 10",
]


def run(*command: str | Path, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def data_files(folder: Path) -> set[str]:
    """What the package has beside its modules."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc"))
    return {file.relative_to(ROOT).as_posix() for file in files}


def check_urls() -> None:
    """A release says where it comes from."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    missing = {"Source", "Documentation", "Issues", "Changelog"} - set(project["urls"])
    version = re.search(r'__version__ = "(.*)"', (ROOT / "trl_nash/__init__.py").read_text(encoding="utf-8"))[1]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    base = version.partition(".dev")[0]
    if f"## {base} " not in changes:
        raise SystemExit(f"CHANGELOG.md has no section {base}.")
    if ".dev" not in version and missing:
        raise SystemExit(
            f"{version} is a release: give [project.urls] of pyproject.toml {', '.join(sorted(missing))}."
        )
    if ".dev" not in version and f"## {base} (unreleased)" in changes:
        raise SystemExit(f"{version} is a release: give its section of CHANGELOG.md a date.")


def check_contents(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = {file.relative_to(ROOT).as_posix() for file in (ROOT / "trl_nash").rglob("*.py")}
    expected = source | data_files(ROOT / "trl_nash")
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == expected, f"the wheel differs from the package by {sorted(inside ^ expected)}"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "mkdocs.yml"}
    assert wanted | expected <= names, f"the sdist lacks {sorted((wanted | expected) - names)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0].strip())
    parser.add_argument("--pip_args", type=shlex.split, default=[], help="for every pip install")
    options = parser.parse_args()
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options.pip_args)
    check_urls()
    with tempfile.TemporaryDirectory() as folder:
        dist, tools, empty = (Path(folder) / name for name in ("dist", "tools", "empty"))
        run(sys.executable, "-m", "venv", tools)
        run(tools / "bin/python", *install, "build", "twine", "hatchling")
        run(tools / "bin/python", "-m", "build", "--no-isolation", "--outdir", dist, ROOT)
        (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
        print(f"built {wheel.name} ({wheel.stat().st_size:,} bytes) and {sdist.name} ({sdist.stat().st_size:,} bytes)")
        check_contents(wheel, sdist)
        print(run(tools / "bin/python", "-m", "twine", "check", "--strict", wheel, sdist).strip())

        fresh = Path(folder) / "fresh"
        empty.mkdir()
        run(sys.executable, "-m", "venv", "--without-pip", fresh)
        run(tools / "bin/python", "-m", "pip", "--python", fresh / "bin/python", *install[2:], "--no-deps", wheel)
        packages = run(fresh / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
        # Behind its own packages, so that the wheel is found first and a checkout of this one is not.
        others = [path for path in sys.path if path.endswith("site-packages")] or [sysconfig.get_path("purelib")]
        (Path(packages) / "dependencies.pth").write_text("\n".join(others))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
        run(fresh / "bin/python", "-c", SCRIPT, cwd=empty, env=environment)
        print("imported every public name in an empty environment, from an empty folder")
        for command in COMMANDS:
            run(fresh / "bin/trl-nash", *command.split(), cwd=empty, env=environment)
            print(f"ran trl-nash {command}")
        left = sorted(file.name for file in empty.iterdir())
        assert left == [], f"these commands have left {left}"


if __name__ == "__main__":
    main()
