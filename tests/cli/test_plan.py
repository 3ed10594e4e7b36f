# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The command `trl-nash plan`. test_plan_counts.py and test_plan_measured.py are about what it says."""

import json
import subprocess
import sys

import pytest
from transformers import Qwen2Config

from trl_nash.cli.main import main
from trl_nash.cli.plan.options import STRATEGY_OF
from trl_nash.planning.model import sizes_from_config
from trl_nash.planning.model.known import KNOWN, known_config, short


CONFIG = Qwen2Config(
    vocab_size=500,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=160,
    num_key_value_heads=2,
)


def planned(*argv: str, capsys) -> list[dict]:
    assert main(["plan", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_help_needs_no_torch():
    code = (
        "import sys; from trl_nash.cli.main import main\n"
        "try: main(['plan', '--help'])\nexcept SystemExit: pass\n"
        "main(['plan', '--parameters', '7B', '--json'])\n"
        "found = {'torch', 'transformers', 'trl', 'accelerate', 'datasets'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, capture_output=True)


def test_prints_tables(capsys):
    argv = (
        "plan onpo --parameters 7B --devices 8 --strategy ddp zero3 --judge openai:model --generation_batch_size 512"
    )
    assert main(argv.split()) == 0
    printed = capsys.readouterr().out
    for text in ("7,000,", "ddp", "zero3", "does not fit", "optimizer states", "tokens generated", "35%", "all 8"):
        assert text in printed
    assert main(["plan", "--parameters", "1B", "--use_peft", "--device", "cpu", "--memory", "16GB"]) == 0
    assert "It fits" in capsys.readouterr().out
    assert main("plan comal --parameters 1B --device H100 --rounds 10".split()) == 0
    (scored,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("tokens scored")]
    assert all(number.replace(",", "").isdigit() for number in scored.split()[2:])


@pytest.mark.parametrize(
    ("typed", "hardware"),
    [
        ([], "1 x 80 GiB (H100, assumed: --device NAME for yours, or cpu)"),
        (["--device", "L4"], "1 x 24 GiB (L4)"),
        (["--accelerate_config", "cpu", "--memory", "8GiB"], "1 x 8 GiB (cpu)"),
    ],
)
def test_the_first_lines_say_which_device_is_planned_for(typed, hardware, capsys):
    assert main(["plan", "--parameters", "1B", *typed]) == 0
    assert hardware in "".join(capsys.readouterr().out.splitlines()[:3])


@pytest.mark.parametrize("model", ["directory", "file"])
def test_reads_a_local_model(model, tmp_path, capsys):
    CONFIG.save_pretrained(tmp_path)
    path = tmp_path if model == "directory" else tmp_path / "config.json"
    (found,) = planned("--model_name_or_path", str(path), capsys=capsys)
    assert found["model"]["parameters"] == sizes_from_config(CONFIG, "").parameters


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.names)
def test_known_models_have_the_parameters_of_their_pages(known):
    for name in known.names.split():
        assert sizes_from_config(known_config(name), name).parameters == known.parameters


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b"),
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b-v0.3"),
        ("google/gemma-2-9b-it", "gemma-2-9b"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "smollm2-135m"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"),
        ("RLHFlow/LLaMA3-SFT", "llama-3-sft"),
    ],
)
def test_models_are_known_by_the_names_on_the_hub(name, known):
    assert short(name) == known and known_config(name) is not None


def test_a_known_model_is_planned_without_a_hub(capsys):
    (found,) = planned("--model_name_or_path", "Qwen/Qwen2.5-7B-Instruct", capsys=capsys)
    assert found["model"] == {"name": "Qwen/Qwen2.5-7B-Instruct", "parameters": 7_615_616_512}


def test_takes_a_training_commands_yaml(tmp_path, capsys):
    file = tmp_path / "comal.yaml"
    file.write_text(
        "accelerate_config: zero2\nnum_processes: 4\ndataset_name: org/data\njudge: reward:org/model\n"
        "learning_rate: 5e-7\nbeta: [0.1]\nuse_peft: true\nlora_target_modules: all-linear\nmax_steps: 40\n"
        "per_device_train_batch_size: 4\ngeneration_batch_size: 64\nnum_iterations: 2\nreference_rounds: 3\n"
    )
    (found,) = planned("comal", "--config", str(file), "--parameters", "1B", "--lora_r", "64", capsys=capsys)
    run = found["run"]
    assert (run["strategy"], run["num_processes"], run["judge"], run["lora_r"]) == ("zero2", 4, "reward", 64)
    assert run["lora_target_modules"] == ["all-linear"] and run["steps_per_generation"] == 4
    assert run["rounds"] == 5  # 40 optimizer steps, 8 a round


def test_torch_dtype_is_dtype(tmp_path, capsys):
    """As in training, typed and in a file."""
    (typed,) = planned("--parameters", "1B", "--torch-dtype", "float16", capsys=capsys)
    (tmp_path / "run.yaml").write_text("torch_dtype: float16\n")
    (read,) = planned("--parameters", "1B", "--config", str(tmp_path / "run.yaml"), capsys=capsys)
    assert typed["run"]["dtype"] == read["run"]["dtype"] == "float16"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("learing_rate: 1", "unknown option learing_rate: did you mean learning_rate?"),
        ("lora_r: many", "lora_r: invalid value: 'many'"),
        ("pair_selection: best", "pair_selection: 'best' is none of all, iid"),
    ],
)
def test_yaml_errors_are_sentences(text, complaint, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["plan", "comal", "--config", str(file)]) == 2
    assert f"{file}: {complaint}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ("", "say which model"),
        ("--model_name_or_path org/never-downloaded", "is neither in the hub's cache nor known by its name. Nothing"),
        ("--model_name_or_path meta-llama/Llama-3-9B", "(known are llama-3-8b, "),
        ("--model_name_or_path ./nothing", "there is no such file or directory"),
        ("--parameters 7B --device H1000", "--device H1000 is unknown: did you mean H100?"),
        ("--parameters 7B --dvices 2", "unknown option --dvices: did you mean --devices?"),
        ("comal --parameters 7B --fits two", "--fits means nothing to comal: it is an option of onpo."),
        ("--parameters 7B --load_in_4bit", "add --use_peft"),
        ("--parameters 7B --optim sgd", "--optim sgd"),
        ("--parameters 7B --max_new_tokens 512", "--max_length 512 counts prompt and completion"),
        ("--parameters 7B --prompt_length 500", "between 1 and 448"),
        ("--parameters 7B --devices 0", "--num_processes must be at least 1, got 0."),
        ("--parameters 7B --devices 3 --generation_batch_size 32", "must be a multiple of"),
        ("nash-md --parameters 7B --steps_per_generation 4", "on-policy"),
        ("nash-md --parameters 7B --strategy zero3", "two policies at once under zero3: add --use_peft"),
        ("--parameters 7B --use_peft --load_in_4bit --strategy zero3", "under zero3: plan zero2 or ddp"),
        ("onpp --parameters 7B", "unknown algorithm onpp: did you mean onpo?"),
        ("--parameters 7B --use_peft --lora_target_modules query", "there are down_proj, gate_proj"),
        ("--parameters 7B --tflops 0", "--tflops must be positive"),
        ("--parameters 7B --judge openai:m --judge_kwargs {", "--judge_kwargs must be JSON"),
        ("--parameters 7B --dataset_size 4", "is less than a round of 8 prompts"),
        ("--parameters 7B --accelerate_config my.yaml", "say with --strategy which"),
        ("--parameters 1M", "leaves nothing for the layers"),
        ("--parameters 7B --strategy cpu ddp", "--strategy cpu trains on the CPU"),
        ("--parameters 7B --hidden_size 0", "--hidden_size must be at least 1"),
    ],
)
def test_errors_are_sentences(argv, complaint, capsys):
    assert main(["plan", *argv.split()]) == 2
    printed = capsys.readouterr().err
    assert complaint in printed and len(printed.splitlines()) == 1


def test_profiles_of_the_training_commands_are_known():
    from importlib.resources import files

    names = {file.name.removesuffix(".yaml") for file in files("trl_nash.accelerate_configs").iterdir()}
    assert {name for name in names if not name.startswith("_")} <= STRATEGY_OF.keys()
