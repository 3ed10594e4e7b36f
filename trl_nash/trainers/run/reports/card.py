# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a model card says beyond TRL's: what was trained from what, under which judge, how, and what has come of it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard

from ....policies import is_peft_model
from ..settings import settings_of
from .completions import Verdict, printable
from .result import result


if TYPE_CHECKING:
    from ...base import NashTrainer


CARD = "README.md"
_LONGEST_TEXT = 800  # characters of a prompt or an answer
_VERSIONS = "### Framework versions\n\n"


def complete_card(trainer: "NashTrainer") -> None:
    """Completes the card that TRL has written."""
    from .... import __version__

    args, base, adapter = trainer.args, trainer.started_from, is_peft_model(trainer.model)
    file = Path(args.output_dir) / CARD
    card = ModelCard.load(file)
    local = not base or os.path.isdir(base)
    card.data.library_name = "peft" if adapter else "transformers"
    if not local:  # the hub takes ids only
        card.data.base_model = base
        card.data.base_model_relation = "adapter" if adapter else "finetune"
    shown = f"[{base}](https://huggingface.co/{base})"
    if local:
        shown = f"`{Path(base).name}`" if base else "a model of its own"
    # TRL knows the model beneath an adapter, and not the adapter that was trained further.
    for known in ("None", trainer.model.config._name_or_path):
        card.text = card.text.replace(f"[{known}](https://huggingface.co/{known})", shown)
    text = card.text
    text = text.replace('model="None"', f'model="{Path(args.output_dir).name}"')
    text = text.replace(
        "It has been trained using", f"{'An adapter was' if adapter else 'All weights were'} trained, using", 1
    )
    came_of_it = _result(result(trainer.state.log_history), trainer.reporter.answers)
    parts = [came_of_it, _settings(settings_of(trainer)), _command(trainer.command)]
    added = "".join(f"{part}\n\n" for part in parts if part)
    card.text = text.replace(_VERSIONS, f"{added}{_VERSIONS}- trl-nash: {__version__}\n", 1)
    card.save(file)


def _result(said: str | None, answers: Sequence[Verdict]) -> str:
    if said is None:
        return ""
    parts = ["### Result", f"{said} The judge is the one that it was trained with."]
    for answer in answers:
        texts = {"Prompt": answer.prompt, "Start": answer.second, "This model": answer.first}
        parts += [f"{name}:\n\n{_quoted(text)}" for name, text in texts.items()]
    return "\n\n".join(parts)


def _settings(settings: dict[str, str]) -> str:
    rows = "\n".join(f"| `{name}` | {value} |" for name, value in settings.items())
    return f"### Settings\n\n| | |\n|---|---|\n{rows}"


def _command(command: str | None) -> str:
    return f"### Command\n\n```bash\n{command}\n```" if command else ""


def _quoted(text: str) -> str:
    """The text as it is, as a block of code that none of its own can end."""
    text = printable(text)
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} [...]"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
