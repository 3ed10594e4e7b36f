# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The documentation as a site, built once as `make docs` does: strictly, so that a broken link or anchor fails."""

import ast
import dataclasses
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trl_nash
import trl_nash.games
import trl_nash.kernels
from trl_nash.cli.options.typed import ALGORITHMS


pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
ROOT = Path(__file__).parents[1]
# Tables and not classes or functions: their pages say what is in them.
TABLES = {"JUDGES", "GAMES", "PLAYERS", "SOLVERS", "__version__", "DIALOGUES"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, str]:
    return {str(file.relative_to(site)): file.read_text(encoding="utf-8") for file in site.rglob("*.html")}


def test_pages_load_nothing_from_elsewhere(pages, site):
    """No font, script, style or picture of a server: only links that are clicked lead out."""
    loads = re.compile(r'<(?:script|img|iframe)[^>]*\ssrc="?(?:https?:)?//|<link[^>]*\shref="?(?:https?:)?//')
    assert [name for name, page in pages.items() if loads.search(page)] == []
    styles = [file.read_text(encoding="utf-8") for file in site.rglob("*.css")]
    assert styles and not any(re.search(r"url\(.?https?:|@import", style) for style in styles)


def test_every_page_can_be_searched(pages, site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert set(pages) - {"404.html"} <= found


def test_formulas_are_drawn(pages):
    assert "<math" in pages["reference/methods/onpo.html"]
    assert not any("arithmatex" in page for page in pages.values())


def test_every_public_name_has_its_docstring_on_a_page(pages):
    named = set(re.findall(r'id="trl_nash\.[\w.]*?(\w+)"', "".join(pages.values())))
    public = {*trl_nash.__all__, *trl_nash.games.__all__, *trl_nash.kernels.__all__} - TABLES
    assert public - named == set()


def class_named(name: str) -> type:
    """A class of the command line, wherever it is defined."""
    for file in (ROOT / "trl_nash" / "cli").rglob("*.py"):
        names = {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)}
        if name in names:
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            return getattr(importlib.import_module(module), name)
    raise LookupError(name)


def test_options_are_those_of_the_dataclasses(pages):
    """The tables are read from the source; these are the classes themselves."""
    spec = importlib.util.spec_from_file_location("options", ROOT / "docs" / "hooks" / "options.py")
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    read = reader.dataclasses()
    configs = [getattr(trl_nash, algorithm.config) for algorithm in ALGORITHMS.values()]
    page = pages["reference/options.html"]
    arguments = [class_named("NashScriptArguments"), class_named("JudgeArguments")]
    for owner in {*arguments, trl_nash.NashConfig, trl_nash.PairConfig, *configs}:
        own = {name for name, kind in owner.__dict__["__annotations__"].items() if "ClassVar" not in str(kind)}
        fields = {field.name: field for field in dataclasses.fields(owner) if field.name in own}
        rows = {name: default for name, _, default, _ in reader.options(read[owner.__name__])}
        assert set(rows) == set(fields)
        for name, default in rows.items():
            field = fields[name]
            made = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            assert eval(default) == made, f"{owner.__name__}.{name}"
            assert f"--{name}</code>" in page
