# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
How long 1,000 judgements of a remote judge take: 500 pairs in both orders, from a server on the loopback interface
that thinks for 100 ms about each. With 64 connections it cannot take less than 1.6 s.

The server is a process of its own, so that its work is not the client's. Each run has a new judge with an empty store;
its answers are compared with the server's rule, and it is followed by a run that finds them all in the store.

    python benchmarks/judge_concurrency.py
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path


LOOPBACK = Path(__file__).resolve().parents[1] / "tests" / "judges" / "loopback.py"
sys.path.insert(0, str(LOOPBACK.parent))

from loopback import fair  # noqa: E402

from trl_nash import __version__  # noqa: E402
from trl_nash.judges.openai_api import OpenAIJudge  # noqa: E402


CONNECTIONS = 64  # for which there is a limit
LIMIT = 3.0


def machine() -> dict:
    """What was measured on; nothing that names a host or a path."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "openai": version("openai"),
        "trl-nash": __version__,
    }


def measure(url: str, connections: int, judgements: int, repeats: int) -> dict:
    """Medians over repeats, after one with few questions to warm up."""
    pairs = judgements // 2
    prompts, first, second = ["Say hi."] * pairs, [f"a{i}" for i in range(pairs)], [f"b{i}" for i in range(pairs)]
    seconds, cached = [], []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats + 1):
            count = pairs if repeat else 10
            judge = OpenAIJudge(
                "tiny", base_url=url, mode="logprobs", concurrency=connections, cache=f"{folder}/{repeat}.sqlite"
            )
            for times in (seconds, cached):
                start = time.perf_counter()
                answers = judge(prompts[:count], first[:count], second[:count])
                times.append(time.perf_counter() - start)
            for answer, a, b in zip(answers, first, second, strict=False):
                assert math.isclose(answer, fair(a, b), abs_tol=1e-9)
            assert judge.usage["requests"] == 2 * count + 1  # and the one that finds out what the server can
    return {
        "connections": connections,
        "seconds": round(statistics.median(seconds[1:]), 3),
        "all_seconds": [round(value, 3) for value in seconds[1:]],
        "seconds_from_the_store": round(statistics.median(cached[1:]), 3),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judgements", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds")
    parser.add_argument("--connections", nargs="+", type=int, default=[16, 32, CONNECTIONS, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "judge_concurrency.json", help="JSON file"
    )
    options = parser.parse_args()

    command = [sys.executable, str(LOOPBACK), "--latency", str(options.latency)]
    results = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = server.stdout.readline().strip()
            print(f"{'connections':>11} {'seconds':>8} {'at least':>9} {'from the store':>15}")
            for connections in options.connections:
                result = measure(url, connections, options.judgements, options.repeats)
                result["at_least"] = round(math.ceil(options.judgements / connections) * options.latency, 3)
                results.append(result)
                print(
                    f"{connections:>11} {result['seconds']:>8.2f} {result['at_least']:>9.2f} "
                    f"{result['seconds_from_the_store']:>15.3f}",
                    flush=True,
                )
        finally:
            server.kill()
    report = {
        "benchmark": "judge_concurrency",
        "judgements": options.judgements,
        "latency": options.latency,
        "limit": {"connections": CONNECTIONS, "seconds": LIMIT},
        "machine": machine(),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    slow = [result for result in results if result["connections"] == CONNECTIONS and result["seconds"] > LIMIT]
    for result in slow:
        print(f"{result['connections']} connections took longer than {LIMIT:g} s.", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
