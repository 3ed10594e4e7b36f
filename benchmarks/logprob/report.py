# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Tables and figures of what was measured."""

import re
from collections.abc import Sequence
from pathlib import Path

from trl_nash.figures.style import STYLES, WIDTH, figure_settings, title_height, write_title
from trl_nash.figures.svg import save_schemes

from .peers import LIGER, NAIVE, OURS, OURS_WITHOUT_STASH, TORCH, TRL


_STYLES = ("comal", "sppo", "iterative-ipo", "onpo", "online-dpo", "inpo", "egpo", "nash-md")  # lend their colours
LOOKS = {
    peer: (STYLES[style].color, marker)
    for (peer, marker), style in zip(
        {
            OURS: "o",
            OURS_WITHOUT_STASH: "o",
            NAIVE: "s",
            TRL: "^",
            TORCH: "P",
            LIGER: "D",
            "Liger FLCE": "D",
            "cut-cross-entropy": "v",
        }.items(),
        _STYLES,
        strict=True,
    )
}
INPUTS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


def line(result: dict) -> str:
    """One implementation in one cell, for whoever watches."""
    where = (
        f"D {result['hidden_size']:>4} V {result['vocabulary']:>6} N {result['tokens']:>5} {INPUTS[result['dtype']]} "
        f"{result['scenario']:<8} {result['valid']:>4.0%} {result['peer']:<23}"
    )
    if "error" in result:
        return f"{where} {result['error']}"
    ratio = f" {result['time_ratio']:.2f}x" if "time_ratio" in result else ""
    return f"{where} {result['total_ms']:>10.1f} ms {result['peak_mib']:>9.1f} MiB {result['runs']:>3} runs{ratio}"


def tables(report: dict) -> str:
    """What belongs in a page."""
    timings = _cuda_table(report) if report["device"] == "cuda" else _cpu_table(report)
    found = report["machine"]
    where = (
        f"{found['gpu']}, driver {found['driver']}, CUDA {found['cuda']}"
        if report["device"] == "cuda"
        else f"{found['cpu']}, {found['threads']} of {found['cores']} cores used, other work on the machine (load "
        f"average {found['load_average'][0]})"
    )
    versions = ", ".join(f"{name} {found[name]}" for name in ("torch", "triton", "trl") if found[name])
    product, copy = report["ceilings"].values()
    absent = "; ".join(f"{name} ({reason})" for name, reason in report["absent"].items())
    lines = [*timings, "", *_error_table(report), "", f"Measured on: {where}; {versions}."]
    if report["device"] == "cuda":
        lines.append(f"In the same run a large matrix product reached {product:g} TFLOP/s, and a copy {copy:g} TB/s.")
    return "\n".join([*lines, f"Not in this run: {absent}."] if absent else lines)


def _cpu_table(report: dict) -> list[str]:
    results, tokens = report["results"], sorted({result["tokens"] for result in report["results"]})
    peers = [name for name in LOOKS if name != OURS and any(result["peer"] == name for result in results)]
    counts = " / ".join(f"{count:,}" for count in tokens)
    lines = [
        f"Time of the others as a multiple of ours ({report['time']}), and peak memory beyond the inputs in MiB, at "
        f"N = {counts}.",
        "",
        f"| D, V | inputs | what | {' | '.join(f'time: {name}' for name in peers)} | memory: trl-nash | "
        f"{' | '.join(peers)} |",
        "|---" * (4 + 2 * len(peers)) + "|",
    ]
    for key in _keys(results, ("hidden_size", "vocabulary", "dtype", "scenario")):
        cells = {(r["peer"], r["tokens"]): r for r in results if _key(r, key) == key}
        times = [_joined(cells, name, tokens, "time_ratio", ".2f") for name in peers]
        memory = [_joined(cells, name, tokens, "peak_mib", ",.0f") for name in (OURS, *peers)]
        size, vocabulary, dtype, scenario = (value for _, value in key)
        lines.append(
            f"| {size}, {vocabulary:,} | {INPUTS[dtype]} | {scenario} | {' | '.join(times)} | {' | '.join(memory)} |"
        )
    return lines


def _cuda_table(report: dict) -> list[str]:
    results = report["results"]
    peers = [name for name in LOOKS if any(result["peer"] == name for result in results)]
    ceiling = next(value for name, value in report["ceilings"].items() if name.startswith("matmul"))
    lines = [
        "Milliseconds (peak memory beyond the inputs in MiB), medians. The floor is the time of the needed matrix "
        f"products at {ceiling:.0f} TFLOP/s; the last two columns are trl-nash's.",
        "",
        f"| D, V | N | valid | what | {' | '.join(peers)} | TFLOP/s | floor / time |",
        "|---" * (6 + len(peers)) + "|",
    ]
    for key in _keys(results, ("hidden_size", "vocabulary", "tokens", "valid", "scenario")):
        cells = {r["peer"]: r for r in results if _key(r, key) == key}
        shown = []
        for name in peers:
            cell = cells.get(name)
            shown.append(
                ""
                if cell is None
                else "failed"
                if "error" in cell
                else f"{cell['total_ms']:.2f} ({cell['peak_mib']:,.0f})"
            )
        ours = cells[OURS].get("tflops")
        reached = ["", ""] if ours is None else [f"{ours:.0f}", f"{ours / ceiling:.0%}"]
        size, vocabulary, tokens, valid, scenario = (value for _, value in key)
        lines.append(
            f"| {size}, {vocabulary:,} | {tokens:,} | {valid:.0%} | {scenario} | {' | '.join([*shown, *reached])} |"
        )
    return lines


def _error_table(report: dict) -> list[str]:
    lines = [
        "Errors against fp64 on the same inputs: of log-probs in nats, of gradients relative (Frobenius).",
        "",
        "| D, V | inputs | | log-prob, max | rms | hidden states | worst row | head | twice the same |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for error in report["errors"]:
        if "error" in error:
            values = [f"failed: {error['error']}", *[""] * 5]
        else:
            names = "logp_max logp_rms hidden_gradient hidden_gradient_worst_row weight_gradient".split()
            values = [f"{error[name]:.0e}" for name in names] + ["yes" if error["repeatable"] else "no"]
        lines.append(
            f"| {error['hidden_size']}, {error['vocabulary']:,} | {INPUTS[error['dtype']]} | {error['peer']} | "
            f"{' | '.join(values)} |"
        )
    return lines


def save_figures(report: dict, folder: Path) -> None:
    """Time and peak memory against N: a row for each scenario, a column for each shape."""
    for name, field, label in (
        ("time", "total_ms", "Time of the head, milliseconds"),
        ("memory", "peak_mib", "Peak memory of the head, MiB"),
    ):
        save_schemes(folder, f"kernels-{report['device']}-{name}", _figure(report, field, label))


def _figure(report: dict, field: str, label: str):
    results = [result for result in report["results"] if result["valid"] == 1 and "error" not in result]
    dtype = results[0]["dtype"]
    results = [result for result in results if result["dtype"] == dtype]
    shapes = _keys(results, ("hidden_size", "vocabulary"))
    scenarios = [key[0][1] for key in _keys(results, ("scenario",))]
    title = f"{label}\n{report['device'].upper()}, {INPUTS[dtype]} inputs; lower is better"
    with figure_settings() as matplotlib:
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 1.9 * len(scenarios) + 1.2))
        grid = figure.subplots(len(scenarios), len(shapes), sharex=True, sharey="col", squeeze=False)
        for row, scenario in zip(grid, scenarios, strict=True):
            for axes, shape in zip(row, shapes, strict=True):
                for peer, (color, marker) in LOOKS.items():
                    cells = [
                        r
                        for r in results
                        if _key(r, shape) == shape and (r["scenario"], r["peer"]) == (scenario, peer)
                    ]
                    if cells:
                        cells.sort(key=lambda r: r["tokens"])
                        x, y = ([r[name] for r in cells] for name in ("tokens", field))
                        axes.plot(x, y, color=color, marker=marker, markersize=4, linewidth=1.4, label=peer)
                axes.set_xscale("log", base=2)
                axes.set_yscale("log")
                axes.set_xticks(sorted({r["tokens"] for r in results}))
                axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
                axes.grid(True)
                axes.set_title(f"{scenario}, D {shape[0][1]}, V {shape[1][1]:,}", fontsize=9)
        for axes in grid[-1]:
            axes.set_xlabel("N tokens")
        top = 1 - title_height(title, figure.get_figheight())
        handles = {h.get_label(): h for axes in grid.flat for h in axes.get_lines()}
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="upper left",
            bbox_to_anchor=(0, top),
            ncols=min(len(handles), 4),
            frameon=False,
        )
        lines = -(-len(handles) // 4)
        figure.tight_layout(rect=(0, 0, 1, top - 0.24 * lines / figure.get_figheight()))
        write_title(figure, title)
    return figure


def _key(result: dict, like: Sequence[tuple]) -> tuple:
    return tuple((name, result[name]) for name, _ in like)


def _keys(results: list[dict], names: Sequence[str]) -> list[tuple]:
    """The values of `names` that occur, each once; shapes by size, all else as it was measured."""
    found = list(dict.fromkeys(tuple((name, result[name]) for name in names) for result in results))
    return sorted(found, key=lambda key: [value for name, value in key if re.match("hidden|vocab|tokens", name)])


def _joined(cells: dict, peer: str, tokens: list[int], field: str, form: str) -> str:
    found = [cells.get((peer, count), {}).get(field) for count in tokens]
    return " / ".join("-" if value is None else format(value, form) for value in found)
