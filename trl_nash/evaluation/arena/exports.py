# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Answers in the files that AlpacaEval and Arena-Hard read, for numbers that are comparable with published ones."""

import hashlib
import json
from pathlib import Path
from typing import Any

from ...data.columns import as_turn
from ...judges.questions.template import as_text
from ..judgements import as_lines
from .contestants import Contestant
from .result import ArenaResult


def write_alpaca_eval(result: ArenaResult, contestants: list[Contestant], folder: Path) -> list[Path]:
    """
    A file of `model_outputs` for each policy: `alpaca_eval --model_outputs FILE`. An instruction is the prompt's text;
    of a dialogue, all of it.

    Args:
        result ([`ArenaResult`]): the answers.
        contestants (`list[Contestant]`): the policies, in the order of `result`.
        folder (`Path`): is made if there is none.
    """
    files = []
    for place, contestant in enumerate(contestants):
        rows = [
            {
                "dataset": row.columns.get("dataset") or "trl-nash",
                "instruction": as_text(row.prompt),
                "output": row.completions[place],
                "generator": contestant.name,
            }
            for row in result.rows
            if row.completions[place] is not None
        ]
        text = json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        files.append(_write(folder / f"{contestant.file_name}.json", text))
    return files


def write_arena_hard(result: ArenaResult, contestants: list[Contestant], folder: Path) -> list[Path]:
    """
    A file of each policy for Arena-Hard's folder `model_answer`. Questions are known there by their `uid`, which the
    file of prompts must have; other prompts get one of their own.

    Args:
        result ([`ArenaResult`]): the answers.
        contestants (`list[Contestant]`): the policies, in the order of `result`.
        folder (`Path`): is made if there is none.
    """
    files = []
    for place, contestant in enumerate(contestants):
        rows: list[dict[str, Any]] = []
        for row in result.rows:
            if (text := row.completions[place]) is None:
                continue
            uid = str(row.columns.get("uid") or _hash(as_text(row.prompt)))
            turns = [{"role": turn["role"], "content": turn.get("content")} for turn in as_turn(row.prompt)]
            messages = [*turns, {"role": "assistant", "content": {"answer": text}}]
            ans_id = _hash(f"{uid} {contestant.name} {text}")
            rows.append({"uid": uid, "ans_id": ans_id, "model": contestant.file_name, "messages": messages})
        files.append(_write(folder / f"{contestant.file_name}.jsonl", as_lines(rows)))
    return files


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file
