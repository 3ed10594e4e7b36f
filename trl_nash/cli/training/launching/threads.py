# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
How many threads a process that trains on the CPU computes with.

Each operation waits for its slowest thread. A small model's operations are over before other threads have begun, and
where there are more threads than cores, or others use the cores, it waits for whoever runs instead of them.
"""

import os
from pathlib import Path


HANDED = "TRL_NASH_THREADS"  # environment variable: what the launcher has given OMP_NUM_THREADS by itself
WEIGHTS = 20_000_000  # of the trunk, that are worth a thread
_CGROUPS = Path("/sys/fs/cgroup")  # as a container sees its own
# Microseconds of processor time, and of the period in which it has them: of version 2, and of version 1.
_QUOTAS = (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"))


def share_cores(processes: int) -> None:
    """Launchers give a process one thread, which on the CPU leaves the other cores idle: here, its share of them."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        share = str(max(1, min(torch.get_num_threads(), cores()) // processes))
        os.environ["OMP_NUM_THREADS"] = os.environ[HANDED] = share


def cores() -> int:
    """The cores that this process may use: of its affinity, and of its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in _QUOTAS:
        try:
            quota, period = " ".join((_CGROUPS / file).read_text() for file in files).split()
            if int(quota) > 0:  # version 1 has -1 for none
                return max(1, min(count, round(int(quota) / int(period))))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return count


def choose_threads(model) -> str:
    """
    Has a model computed with as many threads as it is worth, unless the user has set OMP_NUM_THREADS.

    Args:
        model ([`~transformers.PreTrainedModel`]): what is trained on the CPU.

    Returns:
        `str`: A sentence that says how many.
    """
    import torch

    here, given = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    if given is not None and given != os.environ.get(HANDED):
        return f"Threads: {here}, as you set it."
    weights = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    available = min(here, cores())
    threads = min(available, max(1, weights // WEIGHTS))
    torch.set_num_threads(threads)
    return (
        f"Threads: {threads} of {available}, chosen for a model of {weights / 1e6:.1f} million weights without its "
        "embedding (OMP_NUM_THREADS to decide yourself)."
    )
