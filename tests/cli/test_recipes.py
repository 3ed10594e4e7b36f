# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Each file in `recipes/`: its commands, what it expects, its sources, and a run on a tiny model of its kind."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tiny import build_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from trl_nash.cli.main import main
from trl_nash.cli.options.typed import ALGORITHMS
from trl_nash.cli.training import train
from trl_nash.cli.training.launching.launch import plan_launch
from trl_nash.planning.model.known import known_config
from trl_nash.planning.words import duration, gib


ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
BOOKKEEPING = {"output_dir", "logging_steps", "save_steps"}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
# A row as the data set has them.
ROWS = {
    "trl-lib/ultrafeedback-prompt": {"prompt": [{"role": "user", "content": "a b"}]},
    "openbmb/UltraFeedback": {"source": "a", "instruction": "a b", "completions": []},
    "RLHFlow/iterative-prompt-v1-iter1-20K": {"context_messages": [{"role": "user", "content": "a b"}]},
    "trl-lib/tldr": {"prompt": "a b", "completion": " c"},
}


@pytest.fixture(params=RECIPES, ids=lambda file: file.stem)
def recipe(request, monkeypatch) -> Path:
    monkeypatch.chdir(ROOT)
    return request.param.relative_to(ROOT)


def commands(recipe: Path) -> tuple[list[str], list[str]]:
    """What the two commands of its head are, behind `trl-nash`."""
    text = recipe.read_text().replace("\\\n#", "")
    plan, run = (line.split() for line in re.findall(r"^#   trl-nash (.*)$", text, flags=re.MULTILINE))
    return plan, run


def test_commands_are_of_this_recipe(recipe, monkeypatch, with_deepspeed, tmp_path):
    plan, run = commands(recipe)
    assert plan[0] == "plan" and plan[1] == run[0] and run[0] in ALGORITHMS
    assert plan[2:4] == run[1:] == ["--config", str(recipe)]
    monkeypatch.setattr("trl_nash.cli.training.launching.processes.visible_devices", lambda: 8)
    file = recipe.resolve()
    monkeypatch.chdir(tmp_path)  # where it makes its output folder
    plan_launch(run[0], ["--config", str(file)])


def test_what_is_expected_is_what_is_planned(recipe, capsys):
    plan, _ = commands(recipe)
    assert main([*plan, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    memory, seconds = found["memory"], sum(found["in_all"]["seconds"].values())
    assert memory["fits"]
    where = " on each device" if found["run"]["num_processes"] > 1 else ""
    expected = f"# Expect: {gib(memory['peak'])} of {gib(memory['limit'])} GiB{where} and {duration(seconds)}:"
    assert expected in recipe.read_text()


def test_the_list_names_each_recipe_and_what_it_expects(recipe):
    amount, time = re.search(
        r"^# Expect: ([\d.]+) of .* and ([\w. ]+):", recipe.read_text(), flags=re.MULTILINE
    ).groups()
    (row,) = [line for line in (ROOT / "recipes" / "README.md").read_text().splitlines() if f"({recipe.name})" in line]
    assert row.endswith(f"| {amount} GiB, {time} |")


@pytest.mark.parametrize(
    "recipe", [file for file in RECIPES if file.stem.endswith("-paper")], ids=lambda file: file.stem
)
def test_settings_of_a_paper_have_a_source(recipe):
    """Each line says which, by a tag that the head explains."""
    text = recipe.read_text()
    tags = set(re.findall(r"\[(\w+)\]", text[text.index("# Sources:") : text.index("model_name_or_path")]))
    assert "paper" in tags and "ours" in tags
    for line in text.splitlines():
        if re.match(r"\w+:", line) and line.partition(":")[0] not in BOOKKEEPING:
            assert set(re.findall(r"# \[(\w+)\]", line)) & tags, line


def test_runs_on_a_tiny_model_of_its_architecture(recipe, monkeypatch, tmp_path, capsys):
    """A dry run, and a round of a few prompts; the judge alone is another one, that needs no model."""
    _, (algorithm, *_) = commands(recipe)
    config = yaml.safe_load(recipe.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    tokenizer = build_tokenizer()
    known = known_config(config["model_name_or_path"])
    heads = {"num_key_value_heads": 1 if known.num_key_value_heads < known.num_attention_heads else 2, "head_dim": 16}
    tied = {"tie_word_embeddings": known.tie_word_embeddings}
    tiny = AutoConfig.for_model(known.model_type, **TINY, **heads, **tied, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(tiny).save_pretrained("model")
    tokenizer.save_pretrained("model")

    step = config["per_device_train_batch_size"] * config["gradient_accumulation_steps"]
    row = ROWS[config["dataset_name"] if "dataset_name" in config else config["datasets"][0]["path"]]
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * (6 * 2 * step + 16))  # six rounds an epoch
    config["datasets" if "datasets" in config else "dataset_name"] = (
        [{"path": "rows.jsonl"}] if "datasets" in config else "rows.jsonl"
    )
    config |= {"model_name_or_path": "model", "max_length": 40, "max_new_tokens": 4, "report_to": "none"}
    config["test_split_size"] = 16
    if algorithm != "nash-md":  # which is on-policy: a round is an optimizer step
        config["generation_batch_size"] = 2 * step
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(config))
    argv = [algorithm, "--config", str(file), "--use_cpu", "True"]
    assert train.main([*argv, "--dry_run"]) == 0
    said = capsys.readouterr().out
    assert config["judge"] in said and f"x {config['num_generations']} completions" in said
    shorter = {"judge": "random", "max_steps": 1, "save_strategy": "no", "test_split_size": 0}
    left_out = ("judge_kwargs", "save_steps", "num_train_epochs")  # which mean nothing then
    file.write_text(yaml.safe_dump({k: v for k, v in (config | shorter).items() if k not in left_out}))
    assert train.main(argv) == 0
    assert "Trained 1 step" in capsys.readouterr().out
