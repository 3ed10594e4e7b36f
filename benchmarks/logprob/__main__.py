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
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.measuring import alone, clock, fill, machine, peak, reset_peak

from . import report as pages
from .peers import OURS, OURS_WITHOUT_STASH, load_peers


SHAPES = {
    "cpu": ["256x32000", "896x151936"],
    "cuda": ["896x151936", "2048x151936", "3584x152064", "4096x128256"],
}
TOKENS = {"cpu": [256, 1024, 4096], "cuda": [1024, 8192, 16384, 32768]}
DTYPES = {"cpu": ["float32", "bfloat16"], "cuda": ["bfloat16"]}
SCENARIOS = {"cpu": ["score", "frozen", "full"], "cuda": ["score", "frozen", "full", "frozen+1", "full+1", "full+2"]}
PRODUCTS = {"score": 1, "frozen": 2, "full": 3}  # matrix products of 2 N V D that are needed
CHECKED_ROWS = {"cpu": 64, "cuda": 512}
CHECKED_COLUMNS = 1024
WARM_UP = 5


class Cell(NamedTuple):
    """What is measured at once."""

    hidden_size: int
    vocabulary: int
    tokens: int
    dtype: str
    scenario: str
    valid: float = 1.0  # of the tokens

    @property
    def products(self) -> int:
        name, _, references = self.scenario.partition("+")
        return PRODUCTS[name] + int(references or 0)

    @property
    def flop(self) -> float:
        return 2.0 * self.products * round(self.tokens * self.valid) * self.vocabulary * self.hidden_size


class Data(NamedTuple):
    hidden: Tensor  # (N, D)
    weight: Tensor  # (V, D)
    targets: Tensor  # (N,)
    mask: Tensor  # (N,)
    upstream: Tensor  # (N,) fp32


def make_data(hidden_size: int, vocabulary: int, tokens: int, dtype: str, device: str, valid: float = 1.0) -> Data:
    """Logits with a standard deviation of 5, and targets of log-probs between about -8 and 0."""
    kind = getattr(torch, dtype)
    weight = torch.randn(vocabulary, hidden_size, device=device).mul_(5 / hidden_size**0.5)
    hidden = torch.randn(tokens, hidden_size, device=device)
    targets = torch.randint(vocabulary, (tokens,), device=device)
    rows = weight[targets]
    level = torch.log(torch.tensor(float(vocabulary))) + 5**2 / 2  # of log Σ exp z
    wanted = level + torch.empty(tokens, device=device).uniform_(-8, 8)
    hidden += ((wanted - (hidden * rows).sum(1)) / rows.square().sum(1))[:, None] * rows
    mask = torch.arange(tokens, device=device) % 4 < round(4 * valid)
    return Data(hidden.to(kind), weight.to(kind), targets, mask, torch.randn(tokens, device=device) * mask)


def run(
    peer: Callable, data: Data, scenario: str, tick: Callable
) -> tuple[Tensor, Tensor | None, Tensor | None, list]:
    """Log-probs, gradients of hidden states and weight, and what `tick` says before, between and behind."""
    name, _, references = scenario.partition("+")
    hidden = data.hidden.detach().requires_grad_(name != "score")
    weight = data.weight.detach().requires_grad_(name == "full")
    ticks = [tick()]
    with torch.no_grad():
        for _ in range(int(references or 0)):
            peer(hidden.detach(), weight.detach(), data.targets, data.mask)
    with torch.set_grad_enabled(name != "score"):
        logps = peer(hidden, weight, data.targets, data.mask)
    ticks.append(tick())
    if name != "score":
        logps.backward(data.upstream.to(logps.dtype))
    ticks.append(tick())
    return logps.detach(), hidden.grad, weight.grad, ticks


# ---- Errors ----


def errors(peers: dict[str, Callable], hidden_size: int, vocabulary: int, dtype: str, device: str) -> list[dict]:
    """Each implementation against fp64, on the same rounded inputs, and against itself."""
    data = make_data(hidden_size, vocabulary, CHECKED_ROWS[device], dtype, device)
    columns = torch.cat([data.targets, torch.randint(vocabulary, (CHECKED_COLUMNS,)).to(data.targets)]).unique()
    hidden, weight = data.hidden.double(), data.weight.double()
    p = (hidden @ weight.T).log_softmax(-1)
    logps = p.gather(1, data.targets[:, None])[:, 0]
    slopes = -p.exp_()
    slopes[torch.arange(len(slopes), device=slopes.device), data.targets] += 1
    slopes *= data.upstream.double()[:, None]
    hidden_gradient, weight_gradient = slopes @ weight, slopes[:, columns].T @ hidden
    del p, slopes, weight

    def compare(peer: Callable) -> dict:
        first, second = ([*run(peer, data, "full", float)[:3]] for _ in range(2))
        difference = (first[0].double() - logps).abs()
        rows = (first[1].double() - hidden_gradient).norm(dim=1) / hidden_gradient.norm(dim=1)
        gap = first[2][columns].double() - weight_gradient
        return {
            "logp_max": difference.max().item(),
            "logp_rms": difference.square().mean().sqrt().item(),
            "hidden_gradient": ((first[1].double() - hidden_gradient).norm() / hidden_gradient.norm()).item(),
            "hidden_gradient_worst_row": rows.max().item(),
            "weight_gradient": (gap.norm() / weight_gradient.norm()).item(),
            "repeatable": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
        }

    shape = {"hidden_size": hidden_size, "vocabulary": vocabulary, "dtype": dtype, "rows": CHECKED_ROWS[device]}
    return [{**shape, "peer": name} | attempt(compare, peer) for name, peer in peers.items()]


def attempt(function: Callable, *arguments) -> dict:
    """Its results, or what went wrong."""
    try:
        return function(*arguments)
    except Exception as error:  # a peer that cannot do a shape is a finding
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}


# ---- A CPU: each run is a process ----


def run_once(peer: Callable, data: Data, scenario: str, threads: int) -> dict:
    torch.set_num_threads(threads)
    few = Data(data.hidden[:8], data.weight[:512], data.targets[:8] % 512, data.mask[:8], data.upstream[:8])
    seconds, _ = clock(threads)
    run(peer, few, scenario, seconds)
    for tensor in data:  # what the system has put aside would be counted when it comes back
        tensor.flatten()[:: 4096 // tensor.itemsize].sum()
    before = reset_peak()
    *_, (start, middle, end) = run(peer, data, scenario, seconds)
    return {"forward": middle - start, "backward": end - middle, "peak_bytes": peak() - before}


def measure_cpu(cell: Cell, peers: dict[str, Callable], options: argparse.Namespace) -> list[dict]:
    """Repeats until `--seconds` are over, at least once."""
    data = make_data(cell.hidden_size, cell.vocabulary, cell.tokens, cell.dtype, "cpu", cell.valid)
    runs: dict[str, list[dict]] = {name: [] for name in peers}
    start = time.monotonic()
    for repetition in range(options.repeats or 30):
        # Longer than the limit only by what one repetition takes.
        if repetition and time.monotonic() - start > options.seconds * repetition / (repetition + 1):
            break
        for name, peer in peers.items():
            runs[name].append(attempt(alone, run_once, peer, data, cell.scenario, options.threads))
    return [summary(cell, name, found) for name, found in runs.items()]


# ---- CUDA ----


def measure_cuda(cell: Cell, peers: dict[str, Callable], options: argparse.Namespace) -> list[dict]:
    data = make_data(cell.hidden_size, cell.vocabulary, cell.tokens, cell.dtype, "cuda", cell.valid)
    runs: dict[str, list[dict]] = {name: [] for name in peers}

    def event():
        found = torch.cuda.Event(enable_timing=True)
        found.record()
        return found

    def run_here(peer: Callable) -> dict:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start, middle, end = run(peer, data, cell.scenario, event)[-1]
        torch.cuda.synchronize()
        return {
            "forward": start.elapsed_time(middle) / 1e3,
            "backward": middle.elapsed_time(end) / 1e3,
            "peak_bytes": torch.cuda.max_memory_allocated() - before,
        }

    for repetition in range(WARM_UP + (options.repeats or 30)):
        for name, peer in peers.items():
            if runs[name] and "error" in runs[name][-1]:
                continue
            found = attempt(run_here, peer)
            if "error" in found:
                torch.cuda.empty_cache()
            if repetition < WARM_UP:  # the first one may have compiled; an error stays
                runs[name] = [found] if "error" in found else []
            else:
                runs[name].append(found)
    return [summary(cell, name, found) for name, found in runs.items()]


def ceilings(device: str, threads: int) -> dict:
    """What the machine can do at all: a large matrix product and a copy."""
    if device == "cpu":
        torch.set_num_threads(threads)
    size, kind = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    a, out = torch.randn(size, size, device=device, dtype=kind), torch.empty(size, size, device=device, dtype=kind)
    block = torch.empty(2**30 if device == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    found = {}
    for name, work, amount in (
        (f"matmul_{size}_{str(kind)[6:]}_tflops", lambda: torch.mm(a, a, out=out), 2 * size**3 / 1e12),
        ("copy_tb_per_second", lambda: target.copy_(block), 2 * len(block) / 1e12),
    ):
        seconds = []
        for _ in range(35 if device == "cuda" else 7):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        found[name] = round(amount / statistics.median(seconds[len(seconds) // 7 :]), 4)
    return found


# ---- All of it ----


def summary(cell: Cell, name: str, runs: list[dict]) -> dict:
    """Medians of one implementation's runs."""
    result = {**cell._asdict(), "peer": name}
    failed = [found["error"] for found in runs if "error" in found]
    if failed:
        return result | {"error": failed[0]}
    totals = [found["forward"] + found["backward"] for found in runs]
    return result | {
        "runs": len(runs),
        "forward_ms": round(1e3 * statistics.median(found["forward"] for found in runs), 3),
        "backward_ms": round(1e3 * statistics.median(found["backward"] for found in runs), 3),
        "total_ms": round(1e3 * statistics.median(totals), 3),
        "all_ms": [round(1e3 * total, 3) for total in totals],
        "peak_mib": round(max(found["peak_bytes"] for found in runs) / 2**20, 1),
        "tflops": round(cell.flop / statistics.median(totals) / 1e12, 4),
    }


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
