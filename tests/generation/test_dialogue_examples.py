# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The examples of dialogues that take a model from disk, with tiny ones."""

import re
import runpy
import sys
from pathlib import Path

import torch
from dialogues import byte_tokenizer
from tiny import build_model
from trl.chat_template_utils import qwen2_5_chat_template


EXAMPLES = Path(__file__).parents[2] / "examples"
CALL = '<tool_call>\n{"name": "multiply", "arguments": {"a": 6, "b": 7}}\n</tool_call>'


def saved(tokenizer, folder: Path, *words: str) -> str:
    """A model that says these words, all alike, and little else."""
    tokenizer.add_tokens(list(words))
    model = build_model(tokenizer, max_position_embeddings=2048)
    said = tokenizer.convert_tokens_to_ids([*words, tokenizer.eos_token])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ids = torch.randint(len(tokenizer), (4, 64), generator=torch.Generator().manual_seed(0))
    for _ in range(60):
        optimizer.zero_grad()
        (-model(input_ids=ids).logits.log_softmax(-1)[..., said].mean()).backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_user(tmp_path, monkeypatch, capsys):
    """The model asks back by chance, and is told."""
    model = saved(byte_tokenizer(qwen2_5_chat_template), tmp_path, "For whom?", "A cook book.", "A music box.")
    monkeypatch.setattr(sys, "argv", ["dialogue_user.py", "--model", model, "--rounds", "1", "--max_length", "1024"])
    trainer = runpy.run_path(str(EXAMPLES / "dialogue_user.py"), run_name="__main__")["trainer"]
    shown = capsys.readouterr().out
    assert re.search(r"win rate against the start [01]\.\d\d ± 0\.\d\d \(95 %, n = \d+\)", shown)
    assert "User: It is for " in shown.replace("\\n", "\n")
    assert any(entry.get("rollouts/turns", 1) > 1 for entry in trainer.state.log_history)


def test_a_tool(tmp_path, monkeypatch, capsys):
    """A call is one token: no model that calls tools is small enough for a test."""
    model = saved(byte_tokenizer(qwen2_5_chat_template), tmp_path, CALL, "It is 42.")
    line = f"--model {model} --rounds 2 --max_new_tokens 4 --sums 6*7 6*7 6*7 6*7"
    monkeypatch.setattr(sys, "argv", ["dialogue_tool.py", *line.split()])
    trainer = runpy.run_path(str(EXAMPLES / "dialogue_tool.py"), run_name="__main__")["trainer"]
    logged = [entry for entry in trainer.state.log_history if "rollouts/tool_calls" in entry]
    assert max(entry["rollouts/tool_calls"] for entry in logged) > 0
    shown = capsys.readouterr().out
    assert re.search(r"calls a dialogue; win rate [01]\.\d\d", shown) and 'Tool "multiply": 42' in shown.replace(
        "\\", ""
    )
