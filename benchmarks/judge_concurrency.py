# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
How long 1,000 judgements of a remote judge take: 500 pairs in both orders, from a server on the loopback interface
that thinks for 100 ms about each. With 64 connections it cannot take less than 1.6 s.

The server is a process of its own, so that its work is not the client's. Each run has a new judge with an empty store;
its answers are compared with the server's rule, and it is followed by a run that finds them all in the store.

Then a round of 64 prompts with K = 8 completions, by pairing: its judge calls, the seconds that they take with 64
connections, and the rank correlation of the completions' win rates with those of all pairs, on a judge whose
preferences are those of a reward with noise. Pairs that are drawn (`random`, `active`) are as few as have a
correlation of .95. A judge of groups, which sees the eight at once, is timed only: what it says is not compared.

    python -m benchmarks.judge_concurrency
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

from benchmarks import RESULTS, ROOT


LOOPBACK = ROOT / "tests" / "judges" / "loopback.py"
sys.path.insert(0, str(LOOPBACK.parent))

import numpy as np  # noqa: E402
from loopback import fair  # noqa: E402
from scipy.stats import rankdata  # noqa: E402

from trl_nash import __version__  # noqa: E402
from trl_nash.judges.groups.openai_api import OpenAIGroupJudge  # noqa: E402
from trl_nash.judges.servers.openai_api import OpenAIJudge  # noqa: E402
from trl_nash.rounds.pairings import PAIR_SELECTIONS, Groups, Pairing, pairing_of, win_rates  # noqa: E402


CONNECTIONS = 64  # for which there is a limit
LIMIT = 3.0
PROMPTS, COMPLETIONS = 64, 8  # of the round that pairings are compared on
QUALITY = 0.95  # rank correlation with all pairs
SIZED = ("random", "active")


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


def preferences(prompts: int, seed: int = 0) -> np.ndarray:
    """P(i ≻ j) of the completions of each prompt: rewards with a spread of 2, and noise of .5 on each pair."""
    generator = np.random.default_rng(seed)
    reward = generator.normal(scale=2.0, size=(prompts, COMPLETIONS))
    noise = generator.normal(scale=0.5, size=(prompts, COMPLETIONS, COMPLETIONS))
    odds = reward[:, :, None] - reward[:, None] + (noise - noise.transpose(0, 2, 1)) / np.sqrt(2)
    return 1 / (1 + np.exp(-odds))


def correlation(pairing: Pairing, prompts: int = 1000) -> float:
    """Mean over prompts of Spearman's rank correlation of win rates with those of all pairs."""
    table = preferences(prompts)
    rows = np.arange(prompts)[:, None]

    def rates(pairing: Pairing) -> np.ndarray:
        groups = Groups(prompts, COMPLETIONS)
        found = win_rates(pairing.compare(lambda p: table[rows, p[..., 0], p[..., 1]], groups), COMPLETIONS)
        return np.nan_to_num(found, nan=0.5)  # of a completion that was in no pair nothing is known

    own, reference = (rankdata(rates(each), axis=1) for each in (pairing, pairing_of("all")))
    own, reference = own - own.mean(axis=1, keepdims=True), reference - reference.mean(axis=1, keepdims=True)
    sizes = np.sqrt((own**2).sum(axis=1) * (reference**2).sum(axis=1))
    return float(((own * reference).sum(axis=1) / sizes).mean())


def smallest(selection: str) -> Pairing:
    """A pairing; of those that draw so many pairs that with the fewest that is good enough."""
    if selection not in SIZED:
        return pairing_of(selection)
    every = COMPLETIONS * (COMPLETIONS - 1) // 2
    sizes = (pairing_of(selection, number) for number in range(COMPLETIONS - 1, every + 1))
    return next(pairing for pairing in sizes if correlation(pairing) >= QUALITY)


def measure_pairing(url: str, selection: str, repeats: int) -> dict:
    """A round on the server: each wave is one call of the judge, whose questions are asked side by side."""
    pairing = smallest(selection)
    texts = [[f"answer {k} to {b}" for k in range(COMPLETIONS)] for b in range(PROMPTS)]
    prompts, seconds = [f"prompt {b}" for b in range(PROMPTS)], []
    judge = OpenAIJudge("tiny", base_url=url, mode="logprobs", concurrency=CONNECTIONS, cache=None)
    judge(["warm up"], ["a"], ["b"])
    for seed in range(repeats):
        before, start = judge.usage["requests"], time.perf_counter()
        pairing.compare(lambda p: judge.compare(prompts, texts, p), Groups(PROMPTS, COMPLETIONS, seed=seed))
        seconds.append(time.perf_counter() - start)
        calls = judge.usage["requests"] - before
    return {
        "pairing": selection,
        "pairs_per_prompt": pairing.calls(COMPLETIONS),
        "waves": pairing.waves(COMPLETIONS),
        "calls": calls,
        "seconds": round(statistics.median(seconds), 2),
        "all_seconds": [round(value, 2) for value in seconds],
        "correlation": round(correlation(pairing), 3),
    }


def measure_group(url: str, repeats: int) -> dict:
    """The same round of a judge that sees all completions of a prompt at once, forwards and backwards."""
    texts = [[f"answer {k} to {b}" for k in range(COMPLETIONS)] for b in range(PROMPTS)]
    prompts, seconds = [f"prompt {b}" for b in range(PROMPTS)], []
    judge = OpenAIGroupJudge("tiny", base_url=url, concurrency=CONNECTIONS, cache=None)
    for _ in range(repeats):
        before, start = judge.usage["requests"], time.perf_counter()
        preference = judge.compare(prompts, texts, [(0, 1)] + [(k - 1, k) for k in range(2, COMPLETIONS)])
        seconds.append(time.perf_counter() - start)
        calls = judge.usage["requests"] - before
        assert not np.isnan(preference).any()
    return {
        "pairing": "group judge",
        "waves": 1,
        "calls": calls,
        "seconds": round(statistics.median(seconds), 2),
        "all_seconds": [round(value, 2) for value in seconds],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judgements", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.1, help="seconds")
    parser.add_argument("--connections", nargs="+", type=int, default=[16, 32, CONNECTIONS, 128])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "judge_concurrency.json", help="JSON file")
    options = parser.parse_args()

    command = [sys.executable, str(LOOPBACK), "--latency", str(options.latency)]
    results, pairings = [], []
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
            print(f"\n{'pairing':>12} {'pairs':>6} {'waves':>6} {'calls':>6} {'seconds':>8} {'correlation':>12}")
            for selection in PAIR_SELECTIONS:
                pairings.append(measure_pairing(url, selection, options.repeats))
                print(
                    "{pairing:>12} {pairs_per_prompt:>6} {waves:>6} {calls:>6} {seconds:>8.2f} "
                    "{correlation:>12.3f}".format(**pairings[-1]),
                    flush=True,
                )
            pairings.append(measure_group(url, options.repeats))
            print("{pairing:>12} {0:>6} {waves:>6} {calls:>6} {seconds:>8.2f}".format("", **pairings[-1]))
        finally:
            server.kill()
    report = {
        "benchmark": "judge_concurrency",
        "judgements": options.judgements,
        "latency": options.latency,
        "limit": {"connections": CONNECTIONS, "seconds": LIMIT},
        "machine": machine(),
        "results": results,
        "round": {"prompts": PROMPTS, "num_generations": COMPLETIONS, "connections": CONNECTIONS, "results": pairings},
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    slow = [result for result in results if result["connections"] == CONNECTIONS and result["seconds"] > LIMIT]
    for result in slow:
        print(f"{result['connections']} connections took longer than {LIMIT:g} s.", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
