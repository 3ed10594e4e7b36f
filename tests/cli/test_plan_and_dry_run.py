# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""`trl-nash plan X` and `trl-nash X --dry_run` are two ways to ask the same."""

import re

import pytest
from tiny import build_model, build_tokenizer

from trl_nash.cli.main import main
from trl_nash.cli.training import train


PROMPTS = 500
PROMPT_LENGTH = 7  # of "a b" in the template


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[str, str]:
    folder, tokenizer = tmp_path_factory.mktemp("given"), build_tokenizer()
    build_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "prompts.jsonl").write_text('{"prompt": "a b"}\n' * PROMPTS)
    return str(folder / "model"), str(folder / "prompts.jsonl")


def figures(printed: str) -> dict[str, str]:
    """What a plan says of the run, whichever command has printed it."""
    text = re.sub(r" +", " ", printed)
    found = {name: re.search(rf"^ ?{name} (.*?) ?$", text, flags=re.MULTILINE)[1] for name in ("round", "generate")}
    found["steps"] = re.search(r"^ ?steps ([\d,]+ rounds?, [\d,]+ optimizer steps?)", text, flags=re.MULTILINE)[1]
    patterns = {
        "calls": r"judged ([\d,]+) calls|judge calls [\d,]+ ([\d,]+)",
        "memory": r"memory ([\d.< ]+ of [\d.]+) GiB|It fits: ([\d.< ]+ of [\d.]+) GiB",
        "hours": r"time ([\d.]+ \w+), if|together [\d.e+]+ ([\d.]+ \w+)",
    }
    for name, pattern in patterns.items():
        found[name] = next(filter(None, re.search(pattern, text).groups()))
    return found


@pytest.mark.parametrize(
    "algorithm, options, said",
    [
        ("comal", "--judge openai:model@http://localhost:1/v1 --num_train_epochs 2", "4 rounds, 116 optimizer steps"),
        ("onpo", "--fits two --max_steps 12 --use_peft --lora_r 4 --judge random", "1 round, 12 optimizer steps"),
        (
            "nash-md",
            "--per_device_train_batch_size 4 --gradient_accumulation_steps 2 --num_generations 3 --dtype bfloat16 "
            "--eval_strategy steps --eval_steps 20 --test_split_size 0.1 --reward_model_path nowhere/reward-2B",
            "168 rounds, 168 optimizer steps",
        ),
    ],
    ids=["comal", "onpo", "nash-md"],
)
def test_plan_and_dry_run_say_the_same(algorithm, options, said, given, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    model, prompts = given
    shared = ["--model_name_or_path", model, "--max_length", "24", "--max_new_tokens", "8", *options.split()]
    there = ["--dataset_name", prompts, "--output_dir", "/nowhere", "--use_cpu", "--bf16", "False", "--dry_run"]
    assert train.main([algorithm, *shared, *there]) == 0
    dry = figures(capsys.readouterr().out)
    known = ["--dataset_size", str(PROMPTS), "--prompt_length", str(PROMPT_LENGTH), "--device", "cpu"]
    assert main(["plan", algorithm, *shared, *known]) == 0
    assert figures(capsys.readouterr().out) == dry and dry["steps"] == said


def test_both_say_how_many_prompts_every_epoch_leaves_out(given, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "350")
    model, _ = given
    (tmp_path / "few.jsonl").write_text('{"prompt": "a b"}\n' * 15)
    shared = ["--model_name_or_path", model, "--max_length", "24", "--max_new_tokens", "8", "--judge", "random"]
    there = [f"--dataset_name={tmp_path / 'few.jsonl'}", "--output_dir=/nowhere", "--use_cpu", "--dry_run"]
    assert train.main(["comal", *shared, *there]) == 0
    said = "7 of the 15 prompts fill no round, and every epoch leaves so many out"
    assert said in capsys.readouterr().out
    assert main(["plan", "comal", *shared, "--dataset_size", "15", "--device", "cpu"]) == 0
    assert said in capsys.readouterr().out
