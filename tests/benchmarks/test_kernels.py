# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The kernel's benchmark runs from end to end, on shapes that take no time, and its table reaches a page."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import ROOT


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logprob")
    (folder / "page.md").write_text("above\n<!-- logprob benchmark -->\nold\n<!-- logprob benchmark -->\nbelow\n")
    sizes = ["--shapes", "16x300", "--tokens", "64", "--repeats", "1", "--threads", "1", "--device", "cpu"]
    paths = ["--output", folder / "found.json", "--images", folder, "--docs", folder / "page.md"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.logprob", *sizes, *paths],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env=os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1"},
    )
    return json.loads((folder / "found.json").read_text()), folder


def test_every_implementation_is_measured_in_every_cell(outcome):
    report, _ = outcome
    peers = {"trl-nash", "naive", "TRL", "torch"} - {*report["absent"]}
    assert {result["peer"] for result in report["results"]} == peers
    assert len(report["results"]) == 3 * 2 * len(peers)  # scenarios, dtypes
    assert all(result["total_ms"] > 0 and result["peak_mib"] >= 0 for result in report["results"])
    assert "cut-cross-entropy" in report["absent"]


def test_errors_are_those_of_the_algorithms(outcome):
    """In bf16 a rounded logit costs 1e-2 nats, and our logits are not rounded: the oracle can tell."""
    errors = {(error["peer"], error["dtype"]): error for error in outcome[0]["errors"]}
    assert errors["trl-nash", "bfloat16"]["logp_max"] < 5e-5
    assert errors["naive", "bfloat16"]["logp_max"] > 5e-3
    for name in ("hidden_gradient", "weight_gradient"):
        assert all(errors[peer, "float32"][name] < 1e-5 for peer in ("trl-nash", "naive", "TRL"))
    assert errors["trl-nash", "float32"]["repeatable"]


def test_the_page_has_the_table_and_nothing_else_changed(outcome):
    _, folder = outcome
    page = (folder / "page.md").read_text()
    assert page.startswith("above\n<!-- logprob benchmark -->\n") and page.endswith(
        "<!-- logprob benchmark -->\nbelow\n"
    )
    assert "old" not in page and "| 16, 300 | bf16 | full |" in page
    names = {f"kernels-cpu-{what}-{scheme}.svg" for what in ("time", "memory") for scheme in ("light", "dark")}
    assert {file.name for file in folder.glob("*.svg")} == names


def test_products_of_a_cpu(tmp_path):
    """Logits that are rounded to bf16, whole or in parts, are no log-probs; fp32 ones, and rounded gradients, are."""
    (tmp_path / "page.md").write_text("above\n<!-- CPU products -->\n<!-- CPU products -->\n")
    sizes = ["--tokens", "16", "--hidden_size", "64", "--vocabulary", "700", "--columns", "256", "--repeats", "2"]
    paths = ["--output", tmp_path / "found.json", "--docs", tmp_path / "page.md"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.cpu_products", *sizes, *paths, "--threads", "1"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    report = json.loads((tmp_path / "found.json").read_text())
    logits, gradients = ({row["product"]: row for row in report["results"][part]} for part in ("logits", "gradients"))
    assert logits["bf16"]["ratio"] == gradients["bf16"]["ratio"] == 1
    assert logits["fp32"]["error_max"] < 5e-5 < 1e-3 < logits["bf16"]["error_max"]
    assert gradients["fp32"]["error"] < 1e-6 and 1e-4 < gradients["bf16"]["error"] < 4e-3
    assert "| fp32 |" in (tmp_path / "page.md").read_text()
