# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
`benchmarks/gpu/run.sh` on a CPU: every row runs on tiny sizes, and one that fails or hangs costs nothing but itself.
"""

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from waiting import until

from benchmarks import ROOT
from benchmarks.logprob import acceptance


PATIENT = "6000"  # seconds: other work may take as much of the machine as it likes

# Rows of the test's own, in the driver as it is.
DRIVER = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu.rows import REPORT as FILE, Row
REPORT = 'import json, sys; open(sys.argv[1], "w").write(json.dumps({{"value": 7}}))'
HANG = 'import os, sys, time; open(sys.argv[1], "w").write(str(os.getpid())); time.sleep(3600)'
figures = lambda report: [f"the value is {{report['value']}}"]
measures = Row("measures", ["-c", REPORT, FILE], [], [], 240, figures)
fails = Row("fails", ["-c", "import sys; print('begun', flush=True); sys.exit('as it must')"], [], [], 240, figures)
misses = Row("misses", ["-c", REPORT + "; print('too slow'); sys.exit(3)", FILE], [], [], 240, figures)
half = Row("half", ["-c", "import sys; open(sys.argv[1], 'w').write('{{')", FILE], [], [], 240, figures)
def hangs(file, seconds=1e6):
    return Row("hangs", ["-c", HANG, file], [], [], seconds, figures)
"""


def start(script: str, output: Path, *options: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER + script, "--rehearse", "--output", str(output), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def rows_of(output: Path) -> dict[str, dict]:
    return {row["row"]: row for row in json.loads(output.read_text())["rows"]}


def has_ended(file: Path) -> bool:
    try:
        os.kill(int(file.read_text()), 0)
    except ProcessLookupError:
        return True
    return False


# ---- All rows ----


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    process = subprocess.run(
        [ROOT / "benchmarks" / "gpu" / "run.sh", "--rehearse", "--budget", PATIENT, "--output", folder / "found.json"],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return folder


@pytest.mark.slow
def test_every_row_is_measured(rehearsal):
    rows = rows_of(rehearsal / "found.json")
    assert {row["status"] for row in rows.values()} == {"measured"}
    assert [*rows] == [
        "GPU tests",
        "kernel",
        "training step",
        "Nash-MD's mixture",
        "prefix sharing",
        "continuous batching",
    ]
    assert " passed" in rows["GPU tests"]["said"]
    kernel = rows["kernel"]["figures"]
    assert sum(line.endswith(": not measured") for line in kernel) == 5  # at a GPU's sizes
    assert any(line.startswith("log-probs of bf16 inputs") and ": met (" in line for line in kernel)
    steps = rows["training step"]["figures"]
    assert [line.split(":")[0] for line in steps] == [
        f"{training} beside {peer}" for training in ("full", "LoRA") for peer in ("OnlineDPOTrainer", "GRPOTrainer")
    ]
    assert "without the mixture" in rows["Nash-MD's mixture"]["figures"][0]
    assert "read once" in rows["prefix sharing"]["figures"][0]
    assert "32 prompts a call" in rows["continuous batching"]["figures"][0]


@pytest.mark.slow
def test_reports_are_kept_and_the_table_says_that_it_is_a_rehearsal(rehearsal):
    report = json.loads((rehearsal / "found.json").read_text())
    assert report["rehearsal"] and report["machine"]["torch"] and "gpu" not in report["machine"]
    assert all(row["command"][0] == "python" and row["seconds"] > 0 for row in report["rows"])
    assert [row["report"]["benchmark"] for row in report["rows"][1:]] == [
        "logprob",
        "training_step",
        "mixture_generation",
        "generation",
        "generation",
    ]
    text = (rehearsal / "found.md").read_text()
    assert "a rehearsal, which measures nothing" in text
    assert all(f"| {row['row']} | measured |" in text for row in report["rows"])


def test_wheels_of_missing_packages_serve_for_the_run(tmp_path):
    wheels, places, output = tmp_path / "wheels", tmp_path / "places", tmp_path / "found.json"
    wheels.mkdir()
    places.mkdir()
    with zipfile.ZipFile(wheels / "missing_here-1.0-py3-none-any.whl", "w") as wheel:
        about = "missing_here-1.0.dist-info"
        wheel.writestr("missing_here.py", "what = 'a package'")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: missing_here\nVersion: 1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    # Of a package that is installed: it is not touched, or it would be found to be no wheel.
    (wheels / "torch-0.1-py3-none-any.whl").write_text("")
    imports = "import missing_here, torch; print(missing_here.what, torch.__version__ != '0.1')"
    process = start(
        f"sys.exit(gpu.main(rows=[Row('imports', ['-c', {imports!r}], [], [], 240, figures)]))",
        output,
        *("--wheels", str(wheels), "--budget", PATIENT),
        TMPDIR=str(places),
    )
    said, _ = process.communicate()
    assert process.returncode == 0, said
    assert rows_of(output)["imports"]["said"] == "a package True"
    assert not [*places.iterdir()]


# ---- Rows that go wrong ----


def test_rows_that_fail_or_hang_cost_only_themselves(tmp_path):
    output, hung = tmp_path / "found.json", tmp_path / "hung"
    process = start(f"sys.exit(gpu.main(rows=[fails, hangs({str(hung)!r}, 5), half, misses, measures]))", output)
    said, _ = process.communicate()
    assert process.returncode == 1, said
    rows = rows_of(output)
    assert {name: row["status"] for name, row in rows.items()} == {
        "fails": "failed",
        "hangs": "out of time",
        "half": "measured",
        "misses": "measured",
        "measures": "measured",
    }
    assert rows["fails"]["log"] == "begun\nas it must" and rows["fails"]["exit_code"] == 1
    assert not hung.exists() or has_ended(hung)
    assert rows["half"]["figures"][0].startswith("its report cannot be read: JSONDecodeError")
    assert rows["misses"]["figures"] == rows["measures"]["figures"] == ["the value is 7"]
    text = output.with_suffix(".md").read_text()
    assert "| the value is 7<br>too slow |" in text and "| as it must |" in text and text in said


def test_what_the_time_does_not_hold_is_skipped(tmp_path):
    script = f"""
gpu.RESERVE, gpu.LEAST = 0.0, 1.0
sys.exit(gpu.main(rows=[hangs({str(tmp_path / "hung")!r}), measures]))
"""
    output = tmp_path / "found.json"
    process = start(script, output, "--budget", "4")
    assert process.wait() == 1
    rows = rows_of(output)
    assert (rows["hangs"]["status"], rows["measures"]["status"]) == ("out of time", "skipped")
    assert rows["measures"]["said"] == "0 s are left"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_what_was_measured(tmp_path, kind):
    output, hung = tmp_path / "found.json", tmp_path / "hung"
    process = start(f"sys.exit(gpu.main(rows=[measures, hangs({str(hung)!r}), fails]))", output, "--budget", PATIENT)
    until(lambda: hung.exists() and hung.read_text())
    process.send_signal(kind)
    process.communicate()
    assert process.returncode == 130
    assert [(row["row"], row["status"]) for row in rows_of(output).values()] == [
        ("measures", "measured"),
        ("hangs", "stopped"),
        ("fails", "skipped"),
    ]
    assert rows_of(output)["measures"]["figures"] == ["the value is 7"]
    assert has_ended(hung)


def test_without_a_gpu_there_is_a_sentence(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--output", tmp_path / "found.json"],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "torch sees no GPU. `--rehearse` runs the same rows on the CPU." in process.stderr
    assert not (tmp_path / "found.json").exists()


# ---- Acceptance ----


def judge(report):
    return [(verdict.verdict, verdict.found) for verdict in acceptance.judge(report)]


def cell(scenario, peer, total, peak=100.0, hidden_size=4096, **different):
    sizes = {"hidden_size": hidden_size, "vocabulary": 128256, "tokens": 8192, "dtype": "bfloat16", "valid": 1.0}
    return {**sizes, "scenario": scenario, "peer": peer, "total_ms": total, "peak_mib": peak} | different


def kernel_report(*results, logp_max=2e-6):
    errors = [{"peer": "trl-nash", "dtype": "bfloat16", "logp_max": logp_max}]
    return {"results": list(results), "errors": errors}


def test_acceptance_goes_by_the_worst_shape_of_those_that_count():
    """Frozen: TRL 40 / 27 = 1.48 and 36 / 30 = 1.2, Liger 51 / 27 = 1.89; full: 56 / 40 = 1.4; scores: 12 / 11.5."""
    report = kernel_report(
        cell("frozen", "trl-nash", 27.0),
        cell("frozen", "TRL", 40.0),
        cell("frozen", "Liger scaled CE", 51.0),
        cell("frozen", "trl-nash", 30.0, hidden_size=3584),
        cell("frozen", "TRL", 36.0, hidden_size=3584),
        cell("frozen", "Liger scaled CE", 60.0, hidden_size=3584),
        cell("frozen", "trl-nash", 10.0, hidden_size=896),  # too narrow, as the next two are short or masked
        cell("frozen", "TRL", 9.0, hidden_size=896),
        cell("frozen", "trl-nash", 10.0, tokens=1024),
        cell("frozen", "trl-nash", 10.0, valid=0.5),
        cell("full", "trl-nash", 40.0, peak=4200.0),
        cell("full", "trl-nash, nothing kept", 50.0, peak=900.0),
        cell("full", "TRL", 56.0, peak=4000.0),
        cell("score", "trl-nash", 12.0),
        cell("score", "TRL", 13.0),
        cell("score", "naive", 11.5),
    )
    assert judge(report) == [
        ("not met", "1.2"),
        ("met", "1.89"),
        ("met", "1.4"),
        ("not met", "1.05"),
        ("met", "1.04"),
        ("met", "2e-06"),
    ]


def test_acceptance_of_what_is_not_there():
    """A peer that is missing or failed is not measured; ours that failed has not met it."""
    report = kernel_report(
        cell("frozen", "trl-nash", 27.0),
        {**cell("frozen", "TRL", 0.0), "error": "out of memory"} | {"total_ms": None},
        {k: v for k, v in cell("full", "trl-nash", 0.0).items() if k not in ("total_ms", "peak_mib")} | {"error": "x"},
        cell("full", "TRL", 56.0),
        logp_max=1e-2,
    )
    assert [verdict for verdict, _ in judge(report)] == [
        "not measured",
        "not measured",
        "not met",
        "not met",
        "not measured",
        "not met",
    ]
