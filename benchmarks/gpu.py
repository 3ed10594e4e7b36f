# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
All that is to be measured on a GPU, in at most eight minutes: `benchmarks/gpu.sh` calls this.

Every row is a process with a limit of its own, so that a failure, a hang or too little memory costs that row. Rows
for which no time is left are skipped. What is measured is written after each row, as JSON and, beside it, as Markdown;
Ctrl-C ends the row that runs, and what was measured stays.

`--rehearse` runs the same rows on a CPU, on models that take seconds.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import acceptance
import torch
from measuring import MISSED, machine


ROOT = Path(__file__).resolve().parents[1]
BUDGET = 480.0  # seconds for everything
RESERVE = 5.0  # of them, to write the results and to end
LEAST = 10.0  # a row is not begun with less; it would only load its packages
REPORT = "{report}"  # in a command: the file that it writes
MEASURED, FAILED, TIMED_OUT, SKIPPED, STOPPED = "measured", "failed", "out of time", "skipped", "stopped"


class Row(NamedTuple):
    """What is measured by one command."""

    name: str
    command: Sequence[str]  # behind the interpreter
    gpu: Sequence[str]  # its options on a GPU
    cpu: Sequence[str]  # and in a rehearsal
    seconds: float  # its limit, where all rows have `BUDGET` together
    figures: Callable[[dict], list[str]]  # lines for the table, from what it wrote so far


# ---- How reports are read ----


def kernel_figures(report: dict) -> list[str]:
    lines = [f"{v.what}: {v.verdict}{f' ({v.found})' if v.found else ''}" for v in acceptance.judge(report)]
    cells = {tuple(result[n] for n in ("hidden_size", "vocabulary", "tokens")) for result in report["results"]}
    failed = [result for result in report["results"] if "error" in result]
    lines.append(f"{len(report['results'])} times at {len(cells)} sizes, of which {len(failed)} failed")
    return lines + [f"not installed: {name} ({reason})" for name, reason in report["absent"].items()]


def step_figures(report: dict) -> list[str]:
    lines = []
    for result in report["results"]:
        start = f"{result['training']} beside {result['peer']}: "
        if "errors" in result:
            lines.append(start + "; ".join(f"{name} failed: {error}" for name, error in result["errors"].items()))
            continue
        ours, theirs = result["seconds"].values()
        lines.append(
            f"{start}{ours:.3f} s to {theirs:.3f} s ({result['time_ratio']:.2f}), peak "
            f"{' to '.join(f'{mib:,}' for mib in result['peak_mib'].values())} MiB ({result['peak_ratio']:.2f})"
        )
    return lines


def mixture_figures(report: dict) -> list[str]:
    return [
        f"{result['policy']}, {result['new_tokens']} tokens: {result['mixture_seconds']:.2f} s to "
        f"{result['plain_seconds']:.2f} s without the mixture ({result['ratio']:.2f})"
        for result in report["results"]
    ]


def generation_figures(report: dict) -> list[str]:
    return [
        f"continuous batching over {name}: {ratio:.2f}"
        for name, ratio in report["continuous_over"].items()
        if name != "continuous batching"
    ]


def no_figures(report: dict) -> list[str]:
    return []


# ---- The rows ----


def _gpu_tests() -> list[str]:
    """Files that have such tests: to collect all others takes a minute, and packages that a machine may not have."""
    return sorted(str(file) for file in ROOT.glob("tests/**/test_*.py") if "mark.gpu" in file.read_text("utf-8"))


ROWS = [
    Row(
        "GPU tests",
        ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"],
        ["-m", "gpu and not network", *_gpu_tests()],
        ["-k", "twin and not fold or head", str(ROOT / "tests/kernels/on_device.py")],
        80,
        no_figures,
    ),
    Row(
        "kernel",
        [str(ROOT / "benchmarks/logprob.py"), "--output", REPORT],
        "--device cuda --shapes 3584x152064 4096x128256 896x151936 --tokens 8192 --scenarios score frozen full full+1 "
        "--repeats 10".split(),
        "--device cpu --shapes 16x300 --tokens 64 --scenarios score frozen full --dtypes bfloat16 --repeats 1 "
        "--threads 1".split(),
        150,
        kernel_figures,
    ),
    Row(
        "training step",
        [str(ROOT / "benchmarks/training_step.py"), "--output", REPORT],
        "--device cuda --shape qwen2.5-0.5b --bf16 --optimizer --peers OnlineDPOTrainer GRPOTrainer "
        "--prompt_tokens 128 --new_tokens 512".split(),
        "--device cpu --shape tiny --bf16 --optimizer --peers OnlineDPOTrainer GRPOTrainer --prompts 2 "
        "--prompt_tokens 4 --new_tokens 8 --repeats 1 --threads 1".split(),
        110,
        step_figures,
    ),
    Row(
        "Nash-MD's mixture",
        [str(ROOT / "benchmarks/mixture_generation.py"), "--output", REPORT],
        "--device cuda --shape qwen2.5-0.5b --dtype bfloat16 --prompts 32 --new_tokens 64 --repeats 2 "
        "--policies full lora".split(),
        "--device cpu --shape tiny --prompts 2 --new_tokens 4 --repeats 1 --threads 1 --policies lora".split(),
        60,
        mixture_figures,
    ),
    Row(
        "generation",
        [str(ROOT / "benchmarks/generation.py"), "--output", REPORT],
        "--device cuda --dtype bfloat16 --hidden_size 1024 --layers 16 --prompts 128 --sizes 64 128 "
        "--repeats 2".split(),
        "--device cpu --hidden_size 64 --layers 1 --prompts 8 --new_tokens 4 --mean_tokens 3 --sizes 8 "
        "--repeats 1".split(),
        75,
        generation_figures,
    ),
]


# ---- Running them ----


def run(row: Row, options: Sequence[str], limit: float, folder: Path, environment: dict[str, str]) -> dict:
    """What came of a row. Ctrl-C ends it, and nothing else."""
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
        try:
            process.wait(limit)
            status = MEASURED if process.returncode in (0, MISSED) else FAILED
        except subprocess.TimeoutExpired:
            status = TIMED_OUT
        except KeyboardInterrupt:
            status = STOPPED
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
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


def main(arguments: Sequence[str] | None = None, rows: Sequence[Row] = ROWS) -> int:
    start = time.monotonic()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: no row outlives this process
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, on sizes that take seconds")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all rows; their limits follow")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in rows], help="only these")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks/results/gpu.json", help="JSON file; Markdown lies beside it"
    )
    options = parser.parse_args(arguments)
    device = "cpu" if options.rehearse else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU. `--rehearse` runs the same rows on the CPU.")
    report = {"benchmark": "gpu", "rehearsal": options.rehearse, "machine": machine(device), "rows": []}
    options.output.parent.mkdir(parents=True, exist_ok=True)

    def add(result: dict) -> None:
        report["rows"].append(result)
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        options.output.with_suffix(".md").write_text(table(report), encoding="utf-8")
        print(f"{result['row']}: {result['status']}", *result["figures"], result["said"], sep="\n  ", flush=True)

    stopped = False
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
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
            if stopped or left < LEAST:
                why = "stopped before" if stopped else f"{max(left, 0):.0f} s are left"
                add({"row": row.name, "status": SKIPPED, "figures": [], "said": why})
                continue
            chosen = row.cpu if options.rehearse else row.gpu
            limit = min(row.seconds * options.budget / BUDGET, left)
            result = run(row, chosen, limit, Path(folder), environment)
            stopped = result["status"] == STOPPED
            add(result)
    print(f"\n{table(report)}\n{options.output} and {options.output.with_suffix('.md').name} have all of it.")
    if stopped:
        return 130
    return 0 if all(result["status"] == MEASURED for result in report["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
