# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
All that is to be measured on a GPU, in at most eight minutes: `benchmarks/gpu/run.sh` calls this.

Every row is a process with a limit of its own, so that a failure, a hang or too little memory costs that row. Rows
for which no time is left are skipped. What is measured is written after each row, as JSON and, beside it, as Markdown;
Ctrl-C ends the row that runs, and what was measured stays.

`--rehearse` runs the same rows on a CPU, on models that take seconds.
"""

import argparse
import contextlib
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import RESULTS, ROOT
from benchmarks.measuring import MISSED, machine

from .rows import REPORT, ROWS, Row


BUDGET = 470.0  # seconds for everything; Python takes some before and after
RESERVE = 5.0  # of them, to write the results and to end
TICK = 0.1  # between two looks at a row
LEAST = 10.0  # a row is not begun with less; it would only load its packages
MEASURED, FAILED, TIMED_OUT, SKIPPED, STOPPED = "measured", "failed", "out of time", "skipped", "stopped"


def install(wheels: Path, site: Path) -> None:
    """
    Installs what is missing into a folder, from a folder of wheels and nowhere else.

    Raises:
        `subprocess.CalledProcessError`: if pip cannot; it has said why.
    """
    missing = []
    for name in sorted(wheel.name.split("-")[0] for wheel in wheels.glob("*.whl")):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
        options = ["--find-links", str(wheels), "--no-deps", "--no-compile", "--target", str(site)]
        subprocess.run([*pip, *options, *missing], check=True)
        sys.path.append(str(site))  # where `machine` looks for versions


def run(
    row: Row, options: Sequence[str], limit: float, folder: Path, environment: dict[str, str], stop: threading.Event
) -> dict:
    """What came of a row, which `stop` ends."""
    file, log = folder / "report.json", folder / "log"
    file.unlink(missing_ok=True)
    command = [str(file) if part == REPORT else part for part in [*row.command, *options]]
    start = time.monotonic()
    with log.open("w") as output:
        # In a session of its own, so that whatever it starts can be ended with it.
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        while process.poll() is None and not stop.is_set() and time.monotonic() - start < limit:
            stop.wait(TICK)
        if process.returncode is not None:
            status = MEASURED if process.returncode in (0, MISSED) else FAILED
        else:
            status = STOPPED if stop.is_set() else TIMED_OUT
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver that hangs does not let it go
            process.wait(RESERVE)
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    result = {
        "row": row.name,
        "command": ["python", *(part.replace(f"{ROOT}/", "") for part in [*row.command, *options])],
        "limit": round(limit, 1),
        "seconds": round(time.monotonic() - start, 1),
        "status": status,
        "exit_code": process.returncode,
        "figures": [],
        "said": lines[-1][:300] if lines else "",
        "report": None,
    }
    if status != MEASURED:
        result["log"] = "\n".join(lines)[-8000:]
    if file.exists():
        try:
            result["report"] = json.loads(file.read_text())
            result["figures"] = row.figures(result["report"])
        except Exception as error:  # written by half when it was ended, or by a version that this one does not know
            result["figures"] = [f"its report cannot be read: {type(error).__name__}: {error}"]
    return result


def table(report: dict) -> str:
    """The results in Markdown."""
    found = report["machine"]
    where = found.get("gpu", f"{found['cpu']}: a rehearsal, which measures nothing")
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "transformers", "trl", "peft"))
    lines = [f"{where}; {versions}.", "", "| row | status | seconds | |", "|---|---|---|---|"]
    for result in report["rows"]:
        # The last line it printed, where that is all there is, or where it ended by saying what is wrong.
        is_told = not result["figures"] or result["status"] != MEASURED or result["exit_code"] == MISSED
        said = result["figures"] + [result["said"]] * is_told
        seconds = f"{result['seconds']:.0f} of {result['limit']:.0f}" if "limit" in result else ""
        text = "<br>".join(line.replace("|", "\\|") for line in said)
        lines.append(f"| {result['row']} | {result['status']} | {seconds} | {text} |")
    return "\n".join(lines) + "\n"


def parse(arguments: Sequence[str] | None, rows: Sequence[Row]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wheels", type=Path, help="folder; wheels whose package is missing serve for this run")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, on sizes that take seconds")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all rows; their limits follow")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in rows], help="only these")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json", help="JSON file; Markdown lies beside it")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("torch sees no GPU. `--rehearse` runs the same rows on the CPU.")
    if options.wheels is not None and not options.wheels.is_dir():
        parser.error(f"--wheels: there is no folder {options.wheels}.")
    return options


def main(arguments: Sequence[str] | None = None, rows: Sequence[Row] = ROWS) -> int:
    start = time.monotonic()
    options = parse(arguments, rows)
    # An exception could come while a row's process is being made, which would then be lost and outlive this one.
    stop = threading.Event()
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, lambda *_: stop.set())
    device = "cpu" if options.rehearse else "cuda"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    report = {"benchmark": "gpu", "rehearsal": options.rehearse, "rows": []}

    def add(result: dict) -> None:
        report["rows"].append(result)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        options.output.with_suffix(".md").write_text(table(report), encoding="utf-8")
        print(f"{result['row']}: {result['status']}", *result["figures"], result["said"], sep="\n  ", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        if options.wheels is not None:
            install(options.wheels, site)
        report["machine"] = machine(device)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(site), os.environ.get("PYTHONPATH")])),
            "TMPDIR": folder,  # what an ended row leaves behind goes with the folder
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRL_EXPERIMENTAL_SILENCE": "1",
        }
        if options.rehearse:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "1"}
        for row in rows:
            left = options.budget - RESERVE - (time.monotonic() - start)
            if options.rows and row.name not in options.rows:
                continue
            if stop.is_set() or left < LEAST:
                why = "stopped before" if stop.is_set() else f"{max(left, 0):.0f} s are left"
                add({"row": row.name, "status": SKIPPED, "figures": [], "said": why})
                continue
            chosen = row.cpu if options.rehearse else row.gpu
            limit = min(row.seconds * options.budget / BUDGET, left)
            add(run(row, chosen, limit, Path(folder), environment, stop))
    print(f"\n{table(report)}\n{options.output} and {options.output.with_suffix('.md').name} have all of it.")
    if stop.is_set():
        return 130
    return 0 if all(result["status"] == MEASURED for result in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
