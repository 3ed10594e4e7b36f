# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a user did wrong is answered with a sentence; only faults of the program show a traceback."""

import linecache
import logging
import os
import signal
import sys
import time
import warnings
from pathlib import Path

from ..usage import UsageError
from .training.reports.trackers import failure_of_tracker


_PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
_USER_ERRORS = (ValueError, TypeError, ImportError, OSError)
_OTHER_RANKS_WAIT = 3.0  # seconds


def is_user_error(error: BaseException, *, starting: bool) -> bool:
    """
    Whether `error` is the user's to repair, so that its message is enough.

    Args:
        error (`BaseException`):
            What was raised.
        starting (`bool`):
            Whether the run was still being set up (reading arguments, data, model): then errors of the libraries
            (no such model, no such data set) count too. Later only those count that this package raises itself.

    Returns:
        `bool`
    """
    if os.environ.get("TRL_NASH_TRACEBACK") == "1":
        return False
    if failure_of_tracker(error) is not None:
        return True
    if _raised_by_package(error):
        return isinstance(error, (*_USER_ERRORS, RuntimeError))  # a run that stops itself raises RuntimeError
    return starting and isinstance(error, _USER_ERRORS)


def report(error: BaseException, program: str = "trl-nash") -> int:
    """
    Prints `error` as a sentence on standard error and returns the exit code: 2 for a [`UsageError`], 1 for others.

    Of several processes rank 0 speaks first. The others usually fail for the same reason and are stopped by the
    launcher while they wait; one that fails alone says so after the wait.
    """
    rank = int(os.environ.get("RANK", 0))
    if rank != 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # from the launcher, once rank 0 has said it: nothing to add
        time.sleep(_OTHER_RANKS_WAIT)
        program = f"{program} (process {rank})"
    hint = "" if _raised_by_package(error) else "\n(TRL_NASH_TRACEBACK=1 shows where it was raised.)"
    print(f"{program}: {failure_of_tracker(error) or error}{hint}", file=sys.stderr, flush=True)
    return 2 if isinstance(error, UsageError) else 1


def hide_noise() -> None:
    """Leaves out what libraries say to one another, and a user can do nothing about."""
    # DeepSpeed, where it is installed, says which device it has found, of which we speak ourselves.
    logging.getLogger("DeepSpeed").addFilter(_is_not_of_deepspeeds_device)
    if logging.lastResort is not None and os.environ.get("WORLD_SIZE", "1") == "1":
        logging.lastResort.addFilter(_without_rank)
    warnings.filterwarnings("ignore", message=r".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # a kernel that it can do without


def _is_not_of_deepspeeds_device(record: logging.LogRecord) -> bool:
    return record.filename != "real_accelerator.py"


def _without_rank(record: logging.LogRecord) -> bool:
    """accelerate's loggers name the process, even where there is one."""
    record.msg = str(record.msg).removeprefix("[RANK 0] ")
    return True


def is_first_process() -> bool:
    """Whether this process speaks for all of a run."""
    return os.environ.get("RANK", "0") == "0"


def _raised_by_package(error: BaseException) -> bool:
    """Whether a `raise` of this package made it, not a library or an operation that failed in a line of ours."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    file = traceback.tb_frame.f_code.co_filename
    return file.startswith(_PACKAGE) and linecache.getline(file, traceback.tb_lineno).lstrip().startswith("raise ")
