# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Time and error of the matrix products that could make logits and gradients of a bf16 head on a CPU.

Each is asked for a tile of logits h Wᵀ, and for E W of the same tile, summed over the tiles of a vocabulary. In each
repetition every product has its turn, so that a busy machine slows all of them; ratios are to the plain bf16 product.
Errors are against fp64 on the same bf16 inputs: of log-probs in nats, of gradients relative (Frobenius).

    python -m benchmarks.cpu_products --threads 1 --docs docs/background/kernels.md
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.measuring import alone, clock, fill, machine
from trl_nash.kernels.products import has_bf16_instructions, multiply


MARKER = "CPU products"
PARTS = 4  # of the hidden size
PLAIN = "bf16"


@contextmanager
def medium():
    """fp32 products may use bf16 factors: for the whole process, other threads too."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ---- Logits: (n, D) and (c, D) in bf16, to (n, c) ----


def fp32(hidden: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(hidden.float(), weight.float().T)


def fp32_medium(hidden: Tensor, weight: Tensor) -> Tensor:
    with medium():
        return fp32(hidden, weight)


def bf16(hidden: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(hidden, weight.T)


def bf16_and_rest(hidden: Tensor, weight: Tensor) -> Tensor:
    """What the first product has rounded away, rounded itself."""
    first = torch.mm(hidden, weight.T)
    return first.float() + torch.addmm(first, hidden, weight.T, beta=-1)


def bf16_in_parts(hidden: Tensor, weight: Tensor) -> Tensor:
    """Sums over parts of the hidden size in fp32."""
    total = 0.0
    for h, w in zip(hidden.tensor_split(PARTS, 1), weight.tensor_split(PARTS, 1), strict=True):
        total = torch.mm(h, w.T).float() + total
    return total


def with_out_dtype(hidden: Tensor, weight: Tensor) -> Tensor:
    return torch.mm(hidden, weight.T, out_dtype=torch.float32)


LOGITS = {
    "fp32": fp32,
    'fp32, `set_float32_matmul_precision("medium")`': fp32_medium,
    PLAIN: bf16,
    f"bf16, {PARTS} parts of D summed in fp32": bf16_in_parts,
    "bf16, and a second product for what is rounded away": bf16_and_rest,
    "`mm(..., out_dtype=torch.float32)`": with_out_dtype,
}


# ---- Gradients: E (n, c) in fp32 and (c, D) in bf16, added to (n, D) in fp32 ----


def entries_fp32(entries: Tensor, weight: Tensor, out: Tensor) -> None:
    out.addmm_(entries, weight.float())


def entries_medium(entries: Tensor, weight: Tensor, out: Tensor) -> None:
    with medium():
        entries_fp32(entries, weight, out)


def entries_bf16(entries: Tensor, weight: Tensor, out: Tensor) -> None:
    multiply(entries.bfloat16(), weight, out, add=True)


def entries_in_two(entries: Tensor, weight: Tensor, out: Tensor) -> None:
    """E as a sum of two bf16 matrices."""
    first = entries.bfloat16()
    multiply(first, weight, out, add=True)
    multiply((entries - first).bfloat16(), weight, out, add=True)


GRADIENTS = {
    "fp32": entries_fp32,
    'fp32, `set_float32_matmul_precision("medium")`': entries_medium,
    PLAIN: entries_bf16,
    "bf16, E in two parts": entries_in_two,
}


# ---- Measuring ----


def attempt(product: Callable) -> str | None:
    """Why it does not run here."""
    try:
        product()
    except (NotImplementedError, RuntimeError, TypeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:100]
    return None


def measure(options: argparse.Namespace) -> dict[str, list[dict]]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    n, d, v, c = options.tokens, options.hidden_size, options.vocabulary, options.columns
    weight = (torch.randn(v, d) * options.spread / d**0.5).bfloat16()
    hidden = torch.randn(n, d).bfloat16()
    targets = torch.randint(v, (n,))
    tiles = [slice(start, min(start + c, v)) for start in range(0, v, c)]

    true_logits = hidden.double() @ weight.double().T
    anchor = true_logits.gather(1, targets[:, None])
    true_logps = (anchor[:, 0] - true_logits.logsumexp(1)).clone()
    entries = (true_logits - true_logits.logsumexp(1, keepdim=True)).exp_()
    true_gradient, entries = entries @ weight.double(), entries.float()
    del true_logits

    def logp_error(product: Callable) -> dict:
        parts = [product(hidden, weight[tile]).double().logsumexp(1) for tile in tiles]
        error = anchor[:, 0] - torch.stack(parts).logsumexp(0) - true_logps
        return {"error_max": error.abs().max().item(), "error_rms": error.square().mean().sqrt().item()}

    def gradient_error(product: Callable) -> dict:
        out = torch.zeros(n, d)
        for tile in tiles:
            product(entries[:, tile], weight[tile], out)
        rows = (out - true_gradient).norm(dim=1) / true_gradient.norm(dim=1)
        return {"error": ((out - true_gradient).norm() / true_gradient.norm()).item(), "row_max": rows.max().item()}

    tile, one, out = weight[tiles[0]], entries[:, tiles[0]].contiguous(), torch.zeros(n, d)
    return {
        "logits": rows_of(LOGITS, lambda product: product(hidden, tile), logp_error, options),
        "gradients": rows_of(GRADIENTS, lambda product: product(one, tile, out), gradient_error, options),
    }


def rows_of(products: dict[str, Callable], call: Callable, error: Callable, options: argparse.Namespace) -> list[dict]:
    now, _ = clock(options.threads)
    missing = {name: attempt(lambda product=product: call(product)) for name, product in products.items()}
    seconds: dict[str, list[float]] = {name: [] for name in products if missing[name] is None}
    for _ in range(options.repeats):
        for name in seconds:
            start = now()
            call(products[name])
            seconds[name].append(now() - start)
    rows = []
    for name, product in products.items():
        row = {"product": name}
        if missing[name] is not None:
            rows.append(row | {"missing": missing[name]})
            continue
        ratios = [a / b for a, b in zip(seconds[name], seconds[PLAIN], strict=True)]
        row["ratio"] = round(statistics.median(ratios), 3)
        row["quartiles"] = [round(q, 3) for q in statistics.quantiles(ratios, n=4)[::2]]
        rows.append(row | error(product))
    return rows


def table(results: dict[str, list[dict]], found: dict, options: argparse.Namespace) -> str:
    """The results in Markdown."""
    lines = [
        f"A tile of {options.tokens} tokens x {options.columns:,} of {options.vocabulary:,} entries, D = "
        f"{options.hidden_size}, bf16 inputs, {options.threads} of {found['cores']} cores, "
        f"{clock(options.threads)[1]} time, n = {options.repeats}: {found['cpu']}, AVX512-BF16: "
        f"{'yes' if found['bf16_instructions'] else 'no'}, AMX: {'yes' if found['amx'] else 'no'}, "
        f"torch {found['torch']}.",
        "",
        "| logits | time, plain bf16 = 1 (quartiles) | log-prob, max error | rms |",
        "|---|---|---|---|",
    ]
    lines += [line(row, "error_max", "error_rms") for row in results["logits"]]
    lines += ["", "| E W | time, plain bf16 = 1 (quartiles) | error | worst row |", "|---|---|---|---|"]
    lines += [line(row, "error", "row_max") for row in results["gradients"]]
    return "\n".join(lines)


def line(row: dict, *errors: str) -> str:
    if "missing" in row:
        return f"| {row['product']} | not on a CPU | | |"
    low, high = row["quartiles"]
    shown = " | ".join(f"{row[name]:.0e}" for name in errors)
    return f"| {row['product']} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {shown} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--hidden_size", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--columns", type=int, default=4096, help="of a tile")
    parser.add_argument("--spread", type=float, default=5.0, help="standard deviation of the logits")
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS / "cpu_products.json", help="JSON file")
    parser.add_argument("--docs", type=Path, help="page whose table is replaced")
    options = parser.parse_args()
    torch.set_num_threads(1)  # in this process, which is forked
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    found = machine(threads=options.threads) | {
        "bf16_instructions": has_bf16_instructions(),
        "amx": bool(capabilities.get("amx_bf16", False)),
    }
    results = alone(measure, options)
    report = {
        "benchmark": "cpu_products",
        **{
            name: getattr(options, name)
            for name in ("tokens", "hidden_size", "vocabulary", "columns", "spread", "repeats")
        },
        "time": f"{clock(options.threads)[1]} time, as a multiple of the plain bf16 product's in the same repetition",
        "machine": found,
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = table(results, found, options)
    print(text)
    if options.docs:
        fill(options.docs, MARKER, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
