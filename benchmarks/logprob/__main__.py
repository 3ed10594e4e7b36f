# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Time, peak memory and error of the fused kernel, beside every other implementation that is installed.

    python -m benchmarks.logprob --docs docs/background/kernels.md

What is measured, of N tokens: log-probs alone ("score"), with the gradient of the hidden states ("frozen": LoRA), and
with that of the head as well ("full"); on CUDA also next to 1 and 2 references, and with half or a quarter of the
tokens behind the mask. In each repetition every implementation has its turn, so that a busy machine slows all of them.
On a CPU each turn is a process of its own, which also gives the peak of its resident memory; with `--threads 1` its
time is processor time, which other work on the machine does not lengthen. On CUDA times come from device events, after
a warm-up, and the peak from torch's allocator. Errors are those of fresh data, against fp64.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks import RESULTS
from benchmarks.measuring import alone, clock, fill, machine

from . import report as pages
from .measure import Cell, attempt, ceilings, errors, make_data, measure_cpu, measure_cuda, run
from .peers import OURS, OURS_WITHOUT_STASH, load_peers


SHAPES = {
    "cpu": ["256x32000", "896x151936"],
    "cuda": ["896x151936", "2048x151936", "3584x152064", "4096x128256"],
}
TOKENS = {"cpu": [256, 1024, 4096], "cuda": [1024, 8192, 16384, 32768]}
DTYPES = {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}
SCENARIOS = {"cpu": ["score", "frozen", "full"], "cuda": ["score", "frozen", "full", "frozen+1", "full+1", "full+2"]}


def cells(options: argparse.Namespace) -> list[Cell]:
    """From small to large, so that a run that is cut short has the most to show."""
    found = []
    for tokens in options.tokens:
        for shape in options.shapes:
            hidden_size, vocabulary = map(int, shape.split("x"))
            for dtype in options.dtypes:
                for scenario in options.scenarios:
                    found.append(Cell(hidden_size, vocabulary, tokens, dtype, scenario))
                    if options.device == "cuda" and scenario == "frozen":
                        found += [found[-1]._replace(valid=valid) for valid in (0.5, 0.25)]
    return sorted(found, key=lambda cell: cell.tokens * cell.vocabulary * cell.hidden_size)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.logprob", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--shapes", nargs="+", help="D x V: " + "; ".join(f"{d}: {s}" for d, s in SHAPES.items()))
    parser.add_argument("--tokens", nargs="+", type=int, help=f"N: {TOKENS}")
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "bfloat16", "float16"], help="of the inputs")
    parser.add_argument("--scenarios", nargs="+", help=f"{SCENARIOS}")
    parser.add_argument("--repeats", type=int, help="at most, on a CPU; 30 if left out")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the repetitions of a cell, on a CPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on a CPU")
    parser.add_argument("--output", type=Path, help="JSON file; benchmarks/results/logprob_DEVICE.json if left out")
    parser.add_argument("--images", type=Path, help="folder for kernels-DEVICE-time and -memory, light and dark (SVG)")
    parser.add_argument("--docs", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    for name, defaults in (("shapes", SHAPES), ("tokens", TOKENS), ("dtypes", DTYPES), ("scenarios", SCENARIOS)):
        setattr(options, name, getattr(options, name) or defaults[options.device])
    options.output = options.output or RESULTS / f"logprob_{options.device}.json"
    return options


def main() -> int:
    options = parse()
    cuda = options.device == "cuda"
    if not cuda:
        torch.set_num_threads(1)  # in this process, which is forked
    isolated = (lambda function, *arguments: function(*arguments)) if cuda else alone
    peers, absent = load_peers(options.device)
    report = {
        "benchmark": "logprob",
        "device": options.device,
        "machine": machine(options.device, threads=None if cuda else options.threads),
        "memory": "torch's allocator" if cuda else "resident set of a process of its own, its peak reset before",
        "time": "device events" if cuda else f"{clock(options.threads)[1]} time",
        "absent": absent,
        "ceilings": isolated(ceilings, options.device, options.threads),
        "errors": [],
        "results": [],
    }
    few = make_data(16, 64, 4, "float32", options.device)
    for peer in peers.values():  # what they import when they are first called, every fork has then
        attempt(run, peer, few, "full", time.perf_counter)
    print(json.dumps(report["machine"]), json.dumps(report["ceilings"]), sep="\n")
    for name, reason in absent.items():
        print(f"absent: {name}: {reason}")
    for shape in options.shapes:
        for dtype in options.dtypes:
            found = isolated(errors, peers, *map(int, shape.split("x")), dtype, options.device)
            report["errors"] += found
            for error in found:
                print(json.dumps(error), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for cell in cells(options):
        # Without a trained head there is nothing to keep.
        chosen = {n: p for n, p in peers.items() if n != OURS_WITHOUT_STASH or cell.scenario.startswith("full")}
        found = (measure_cuda if cuda else measure_cpu)(cell, chosen, options)
        ours = next(result for result in found if result["peer"] == OURS)
        for result in found:
            # Turn by turn where both had theirs: what slows the machine falls out.
            if "error" not in result and "error" not in ours:
                ratios = [a / b for a, b in zip(result["all_ms"], ours["all_ms"], strict=True)]
                result["time_ratio"] = round(statistics.median(ratios), 3)
                result["time_ratio_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
            print(pages.line(result), flush=True)
        report["results"] += found
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    report["machine"]["load_average_at_the_end"] = [round(load, 2) for load in os.getloadavg()]
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    text = pages.tables(report)
    print(text)
    if options.docs:
        fill(options.docs, "logprob benchmark" + (" on CUDA" if cuda else ""), text)
    if options.images:
        pages.save_figures(report, options.images)
    return 0


if __name__ == "__main__":
    sys.exit(main())
