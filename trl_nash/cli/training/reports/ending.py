# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""How a run ends before its time: what is said, and with which exit status."""

import signal
import sys

from ...errors import is_first_process
from ..launching.stop_signals import StopSignals


def report_stop(algorithm: str, trainer, how: str, signals: StopSignals) -> int:
    """Says how a run was stopped and goes on; the exit status."""
    if is_first_process():
        print(f"trl-nash {algorithm}: {how} {how_to_resume(trainer)}", file=sys.stderr, flush=True)
    return 128 + (signals.number or signal.SIGTERM)


def how_to_resume(trainer) -> str:
    """What to add to the command for a run that ends before its time."""
    if trainer is None:
        return "Nothing was trained yet."
    from ....trainers.run.checkpoints.files import complete_checkpoints

    if trainer.args.save_only_model:
        return "--save_only_model keeps nothing to resume from: start from a saved model with --model_name_or_path."
    complete, _ = complete_checkpoints(trainer.args.output_dir)
    if not complete:
        return "There is no checkpoint yet (--save_steps says how often one is written)."
    return f"Add --resume_from_checkpoint {complete[-1]} to the same command to continue from its last checkpoint."


def leave_process_group() -> None:
    """The last thing that a process does with the others."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # or gloo may abort when the interpreter exits
