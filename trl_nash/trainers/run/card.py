# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a model card says beyond TRL's: what was trained from what, under which judge, how, and what has come of it."""

import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from huggingface_hub import ModelCard
from transformers import TrainingArguments

from ...compat import OnlineDPOConfig
from ..config import NashConfig
from .completions import Verdict, printable


CARD = "README.md"
_ALSO_SHOWN = ["learning_rate", "lr_scheduler_type", "per_device_train_batch_size", "gradient_accumulation_steps"]
_ALSO_SHOWN += ["num_train_epochs", "max_steps", "max_length", "max_new_tokens", "seed"]
_INHERITED = {f.name for f in fields(OnlineDPOConfig)} | {f.name for f in fields(TrainingArguments)}
_LONGEST_TEXT = 800  # characters of a prompt or an answer
_VERSIONS = "### Framework versions\n\n"


def complete_card(
    file: Path,
    args: NashConfig,
    *,
    base: str,
    adapter: bool,
    judge: str,
    result: str | None,
    answers: Sequence[Verdict],
    command: str | None,
) -> None:
    """
    Completes the card that TRL has written.

    Args:
        file (`Path`): the card.
        args ([`NashConfig`]): the settings.
        base (`str`): the model that the run started from, a hub id, a folder, or nothing where it was built by hand.
        adapter (`bool`): whether an adapter was trained.
        judge (`str`): [`~PairwiseJudge.description`] of the judge. Its arguments may be secret, and stay out.
        result (`str`, *optional*): how the policy did against its start.
        answers (`Sequence[Verdict]`): of the policy and of the start.
        command (`str`, *optional*): that started the run.
    """
    from ... import __version__

    card = ModelCard.load(file)
    local = not base or os.path.isdir(base)
    card.data.library_name = "peft" if adapter else "transformers"
    if not local:  # the hub takes ids only
        card.data.base_model = base
        card.data.base_model_relation = "adapter" if adapter else "finetune"
    shown = f"`{Path(base).name}`" if base and local else "a model of its own"
    text = card.text.replace("[None](https://huggingface.co/None)", shown)
    text = text.replace('model="None"', f'model="{Path(args.output_dir).name}"')
    text = text.replace(
        "It has been trained using", f"{'An adapter was' if adapter else 'All weights were'} trained, using", 1
    )
    parts = [_result(result, answers), _settings(args, judge), _command(command)]
    added = "".join(f"{part}\n\n" for part in parts if part)
    card.text = text.replace(_VERSIONS, f"{added}{_VERSIONS}- trl-nash: {__version__}\n", 1)
    card.save(file)


def _result(result: str | None, answers: Sequence[Verdict]) -> str:
    if result is None:
        return ""
    parts = ["### Result", result + " The judge is the one that it was trained with."]
    for answer in answers:
        texts = {"Prompt": answer.prompt, "Start": answer.second, "This model": answer.first}
        parts += [f"{name}:\n\n{_quoted(text)}" for name, text in texts.items()]
    return "\n\n".join(parts)


def _settings(args: NashConfig, judge: str) -> str:
    own = [f.name for f in fields(args) if f.name not in _INHERITED or f.name in ("beta", "temperature")]
    values = {"judge": judge} | {name: getattr(args, name) for name in own + _ALSO_SHOWN}
    rows = "\n".join(f"| `{name}` | {value} |" for name, value in values.items())
    return f"### Settings\n\n| | |\n|---|---|\n{rows}"


def _command(command: str | None) -> str:
    return f"### Command\n\n```bash\n{command}\n```" if command else ""


def _quoted(text: str) -> str:
    """The text as it is, as a block of code that none of its own can end."""
    text = printable(text)
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} [...]"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
