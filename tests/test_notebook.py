# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The notebook runs from top to bottom, as it is committed: without what it has printed on somebody's machine."""

import json
from pathlib import Path

import pytest


NOTEBOOK = Path(__file__).parents[1] / "examples" / "first_game.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_cells_hold_no_results(cells):
    for cell in cells:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)


def test_cells_run_in_their_order(cells, monkeypatch, tmp_path, capsys):
    """What they come to is asserted in them."""
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    printed = capsys.readouterr().out
    for text in ("Nash policy [0.364 0.273 0.364]", "duality gap, before and after", "It fits"):
        assert text in printed
