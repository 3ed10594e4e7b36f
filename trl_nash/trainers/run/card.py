# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a model card says beyond TRL's: who judged, and with which settings."""

from dataclasses import fields
from pathlib import Path

from transformers import TrainingArguments

from ...compat import OnlineDPOConfig
from ..config import NashConfig


_ALSO_SHOWN = ["learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "gradient_accumulation_steps"]
_ALSO_SHOWN += ["num_train_epochs", "max_steps", "max_length", "max_new_tokens", "seed"]
_INHERITED = {f.name for f in fields(OnlineDPOConfig)} | {f.name for f in fields(TrainingArguments)}


def settings(args: NashConfig, judge) -> dict[str, str]:
    """The settings that a reader needs to repeat the run. Of the judge only the class: its arguments stay private."""
    own = [f.name for f in fields(args) if f.name not in _INHERITED or f.name in ("beta", "temperature")]
    return {"judge": type(judge).__name__} | {name: str(getattr(args, name)) for name in own + _ALSO_SHOWN}


def append_settings(card: str | Path, args: NashConfig, judge) -> None:
    """Puts a table of settings into a model card, before the framework versions."""
    from ... import __version__

    card = Path(card)
    rows = "\n".join(f"| `{name}` | {value} |" for name, value in settings(args, judge).items())
    table = f"### Settings\n\n| | |\n|---|---|\n{rows}\n\n"
    heading = "### Framework versions\n\n"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace(heading, f"{table}{heading}- trl-nash: {__version__}\n", 1), encoding="utf-8")
