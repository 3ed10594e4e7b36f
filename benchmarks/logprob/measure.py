# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What is measured of an implementation in a cell: time and peak memory, and its errors."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.measuring import alone, clock, peak, reset_peak


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
