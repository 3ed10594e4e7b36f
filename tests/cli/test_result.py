# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a training command says of itself: prompts held out, learning rate, a line a round, the result, the card."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from trl_nash.cli.command import COMMAND, shown_command
from trl_nash.cli.training import train
from trl_nash.cli.training.reports.round_lines import round_line
from trl_nash.evaluation.arena import read_contestants
from trl_nash.trainers.run.reports.result import kl_words, result


@pytest.fixture(autouse=True)
def one_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", COMMAND):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "fond_judge.py").write_text(
        "def fond(prompts, first, second, secret=None):\n"
        "    count = lambda text: text.split().count('a') - text.split().count('b')\n"
        "    return [0.5 + (count(x) > count(y)) / 2 - (count(x) < count(y)) / 2 for x, y in zip(first, second)]\n"
        "fond.symmetric = True\n"
    )


@pytest.fixture
def options(model_dir, write_rows) -> list[str]:
    rows = [{"prompt": f"{one} {two} {three}"} for one in "abcdef" for two in "abcd" for three in "abcdefgh"]
    options = {
        "model_name_or_path": model_dir,
        "dataset_name": write_rows(rows, "many.jsonl"),
        "judge": "fond_judge:fond",
        "output_dir": "out",
        "max_steps": "12",
        "max_new_tokens": "5",
        "max_length": "32",
        "per_device_train_batch_size": "16",
        "per_device_eval_batch_size": "16",
        "steps_per_generation": "1",
        "num_iterations": "4",
        "learning_rate": "0.003",
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": "True",
        "disable_tqdm": "True",
    }
    return [f"--{name}={value}" for name, value in options.items()]


def run(options: list[str], *more: str, algorithm: str = "comal") -> None:
    assert train.main([algorithm, *options, *more]) == 0


# ---- Held-out prompts and the result ----


def test_a_run_with_a_pool_ends_with_its_table(options, capsys, monkeypatch):
    """Beneath the result, which stays as it is; page and figures are in the output folder, and the arena takes it."""
    monkeypatch.setenv("COLUMNS", "120")
    run(options, "--opponent_pool_rounds=1", "--eval_strategy=steps", "--eval_steps=4")
    output = capsys.readouterr().out
    assert "n = 16 prompts)" in output.split("The opponent pool")[0]
    table = output.split("The opponent pool, with the policy that was evaluated last:")[1]
    assert sorted(re.findall(r"(?m)^(start|round_\d)  ", table)) == ["round_1", "round_2", "round_3", "start"]
    assert re.search(r"round_\d is the hardest to exploit", table)
    assert "out/pool/arena.html, with the tables and figures beside it. `trl-nash arena out/pool` plays" in table
    assert {"win_rates-light.svg", "win_rates-dark.svg", "arena.json"} <= {p.name for p in Path("out/pool").iterdir()}
    assert [one.name for one in read_contestants(["out/pool"])] == ["start", "round_1", "round_2", "round_3"]


def test_a_pool_needs_held_out_prompts(options, capsys):
    assert train.main(["comal", *options, "--opponent_pool_rounds=1", "--test_split_size=0"]) == 1
    assert "no prompts are held out for them: give an `eval_dataset`" in capsys.readouterr().err


def test_a_run_ends_with_an_honest_result(options, capsys):
    """16 of 192 prompts are held out; the policy plays the start on them, and three are shown side by side."""
    run(options)
    output = capsys.readouterr().out
    assert "hardly moved" not in output and "KL to the start about 0" not in output
    assert "held out 16 of the 192 prompts" in output and "176 rows of" in output
    said = re.search(
        r"Against the start it wins ([\d.]+)% ± [\d.]+% \(95 % interval ([\d.]+)% to [\d.]+%, n = 16 prompts\)", output
    )
    assert float(said[1]) > float(said[2]) > 50
    assert re.search(r"KL [\d.]+ nats, \d tokens an answer, the start's \d\.", output)
    shown = re.findall(r"  prompt +(.+)\n  start +(.+)\n  aligned +(.+)", output)
    assert len(shown) == 3 and all(len(text) > 2 for texts in shown for text in texts)


def test_a_run_that_moves_nothing_says_so(options, capsys):
    run(options, "--learning_rate=1e-9")
    output = capsys.readouterr().out
    assert "No measurable change: against the start it wins" in output
    assert "The fits reached 0% of their targets: the policy has hardly moved. Raise --learning_rate (1e-09)" in output
    assert re.search(r"In the last round: KL to the start about 0 \(estimate \S+ ± \S+\), ", output)


def test_the_same_prompts_are_held_out_again(options, capsys, monkeypatch):
    """By the seed: a resumed run is judged on prompts that none of its parts was trained on."""
    seen = []
    build = train.build_trainer

    def spy(*arguments):
        trainer = build(*arguments)
        seen.append(
            [{str(prompt) for prompt in rows["prompt"]} for rows in (trainer.eval_dataset, trainer.train_dataset)]
        )
        return trainer

    monkeypatch.setattr(train, "build_trainer", spy)
    saved = ["--save_strategy=steps", "--save_steps=2"]
    run(options, "--max_steps=4", *saved)
    run(options, "--max_steps=8", *saved, "--resume_from_checkpoint=out/checkpoint-4")
    run(options, "--max_steps=4", "--seed=1", "--output_dir=other")
    (first, trained), (again, _), (other, _) = seen
    assert first == again != other
    assert len(first) == 16 and not first & trained


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--test_split_size=0"], "none, as you set it"),
        (["--dataset_name=few.jsonl"], "none, as there are only 40 prompts"),
        (["--dataset_name=few.jsonl"], "--dataset_test_split NAME"),
        (["--steps_per_generation=12"], "none, as there are only 192 prompts"),
    ],
)
def test_where_nothing_is_held_out_it_is_said(options, write_rows, capsys, more, said):
    write_rows([{"prompt": f"{one} {two}"} for one in "abcde" for two in "abcdefgh"], "few.jsonl")
    run(options, *more, "--dry_run")
    assert said in capsys.readouterr().out


def test_a_share_of_ones_own(options, capsys):
    run(options, "--test_split_size=0.5", "--dry_run")
    assert "96 rows of" in (output := capsys.readouterr().out)
    assert "96 rows to evaluate on" in output and "held out" not in output


def test_every_eval_steps(options, capsys):
    """`eval_strategy` needs no prompts of its own; the round's line has the win rate."""
    run(options, "--eval_strategy=steps", "--eval_steps=4")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round ")]
    assert len(lines) == 3 and all("| win rate " in line for line in lines)


def test_what_is_said_of_a_result():
    names = ["policy/win_rate_reference", "policy/win_rate_reference_se", "policy/win_rate_reference_n"]

    def say(*values):
        return result([{"loss": 1.0}, {f"eval_{name}": v for name, v in zip(names, values, strict=False)}])

    assert say(0.75, 0.05, 64).startswith("Against the start it wins 75.0% ± 5.0% (95 % interval 63.9% to 83.6%,")
    assert say(0.5625, 0.12, 16).startswith("No measurable change: against the start it wins 56.2% ± 12.0%")
    assert "on one prompt" in say(1.0)
    assert result([{"loss": 1.0}, {"eval_loss": 0.0}]) is None


@pytest.mark.parametrize(
    ("kl", "error", "said"),
    [
        (0.5, 0.1, "0.5"),
        (-0.0333, 0.04, "about 0 (estimate -0.0333 ± 0.04)"),
        (0.05, 0.04, "about 0 (estimate 0.05 ± 0.04)"),
        (1.0, 0.6, "1 ± 0.6"),  # of a policy that is its start there is no error
        (-0.3, 0.4, "-0.3 ± 0.4"),
        (-0.9, 0.5, "-0.9 ± 0.5"),  # as far below 0 as it may be above
        (-3.0, None, "-3"),
        (-0.0333, None, "about 0 (estimate -0.0333)"),
        (0.0333, None, "0.0333"),
        (0.0333, math.nan, "0.0333"),
    ],
)
def test_a_kl_is_an_estimate(kl, error, said):
    assert kl_words(kl, error) == said
    name = "eval_policy/win_rate_reference"
    entry = {name: 0.5, f"{name}_se": 0.1, f"{name}_n": 8, "eval_policy/kl_reference": kl}
    assert f"KL {said} nats" in result([entry | ({} if error is None else {"eval_policy/kl_reference_se": error})])


# ---- The learning rate of adapters ----


@pytest.mark.parametrize(
    ("more", "rate"),
    [(["--use_peft"], 1e-4), (["--use_peft", "--learning_rate=5e-7"], 5e-7), ([], 5e-7), (["--config=a.yaml"], 3e-5)],
)
def test_an_adapter_gets_its_own_learning_rate(options, tmp_path, capsys, more, rate):
    pytest.importorskip("peft")
    (tmp_path / "a.yaml").write_text("use_peft: true\nlearning_rate: 3.0e-5\n")
    options = [option for option in options if not option.startswith("--learning_rate")]
    assert train.read_arguments("comal", [*options, *more]).training.learning_rate == rate
    assert ("Learning rate: 0.0001, chosen for an adapter" in capsys.readouterr().out) == (more == ["--use_peft"])


# ---- A line a round ----


def test_a_line_a_round(options, capsys):
    """Twelve steps are three rounds. The logs, of which the last is no round's end, go to trackers alone."""
    run(options, "--logging_steps=10")
    output = capsys.readouterr().out
    lines = [line for line in output.splitlines() if line.startswith("round ")]
    assert [line.split(" | ")[0] for line in lines] == ["round 1/3", "round 2/3", "round 3/3"]
    number = r"-?[\d.e-]+"
    kl = rf"({number}|{number} ± {number}|about 0 \(estimate {number} ± {number}\))"
    pattern = rf"\| KL {kl} \| R² {number} \| \d tokens \| \d+% clipped \| [\d.]+ s \(generate [\d.]+, judge "
    assert all(re.search(pattern, line) for line in lines)
    last = re.search(r"In the last round: KL to the start (.+?), ", output)[1]
    assert f" KL {last} " in lines[-1] and f" KL {last} " not in lines[-2]
    assert "{'loss'" not in output and "'train_runtime'" not in output


def test_the_numbers_of_a_line():
    metrics = {
        "round": 3,
        "policy/win_rate_reference": 0.5625,
        "policy/kl_reference": 0.03125,
        "fit/r2_end": 0.419,
        "completions/mean_length": 183.4,
        "completions/clipped_ratio": 0.124,
        "time/generate": 24.2,
        "time/judge": 3.25,
        "time/fit": 12.0,
    }
    assert round_line(metrics, 60, 2400) == (
        "round 3/60 | win rate 56.2% | KL 0.0312 | R² 0.42 | 183 tokens | 12% clipped | 39 s (generate 24, judge 3.2, "
        "score 0.0, fit 12) | 40 min left"
    )
    below = {"policy/kl_reference": -0.0012, "policy/kl_reference_se": 0.004}
    assert " | KL about 0 (estimate -0.0012 ± 0.004) | " in round_line(metrics | below, 60, 2400)


# ---- The card ----


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_card_says_what_came_of_what(options, tmp_path, lora):
    """In the output folder and in a checkpoint: base model, library, judge, command, result and answers."""
    kwargs = ["--judge_kwargs", '{"secret": "abc123"}', "--num_generations", "4"]
    saved = ["--save_strategy=steps", "--save_steps=12", "--eval_strategy=steps", "--eval_steps=12"]
    run(options, *kwargs, *saved, *(["--use_peft", "--lora_r=2"] if lora else []))
    for folder in ("out", "out/checkpoint-12"):
        card = ModelCard.load(tmp_path / folder / "README.md")
        assert card.data.library_name == ("peft" if lora else "transformers")
        assert "# Model Card for out" in card.text and "None" not in card.text.split("### Settings")[0]
        assert "fine-tuned version of `model`" in card.text
        assert ("An adapter was trained" in card.text) == lora
        assert "| `judge` | fond_judge:fond |" in card.text and "| `lr_scheduler_type` | linear |" in card.text
        assert "ainst the start it wins" in card.text and "n = 16 prompts" in card.text
        assert card.text.count("This model:\n") == 3
        command = card.text.split("### Command")[1]
        assert "trl-nash comal --model_name_or_path=" in command and "--num_generations 4" in command
        assert "abc123" not in card.text


def test_a_base_model_of_the_hub_is_in_the_metadata(tmp_path, options, monkeypatch):
    build = train.build_trainer

    def from_the_hub(*arguments):
        trainer = build(*arguments)
        trainer.model.config._name_or_path = trainer.started_from = "someone/their-model"  # what a hub gives
        return trainer

    monkeypatch.setattr(train, "build_trainer", from_the_hub)
    run(options, "--max_steps=4")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.base_model == "someone/their-model" and card.data.base_model_relation == "finetune"


def test_the_command_without_secrets():
    argv = ["--judge-kwargs", '{"temperature": 0.5, "headers": {"x": "s3"}, "tags": ["s3"]}', "--hub-token=s3"]
    argv += [
        "--eos_token",
        "</s>",
        "--model_init_kwargs",
        '{"token": "s3", "dtype": "float32"}',
        "--bf16",
        "--a",
        "b c",
    ]
    shown = shown_command("onpo", argv)
    assert "s3" not in shown
    assert shown.startswith('trl-nash onpo --judge-kwargs \'{"temperature": 0.5, ') and "--hub-token=..." in shown
    assert shown.endswith(
        '--eos_token \'</s>\' --model_init_kwargs \'{"token": "...", "dtype": "float32"}\' --bf16 --a \'b c\''
    )
    assert "..." in shown_command("onpo", ["--judge_kwargs", "not JSON"])
    servers = ["--vllm_server_base_url", "http://me:s3@host:1", "--judge=openai:m@https://s3@host/v1"]
    shown = shown_command("onpo", servers)
    assert "s3" not in shown and "http://...@host:1" in shown and "openai:m@https://...@host/v1" in shown


def test_answers_are_printed_and_not_obeyed():
    from trl_nash.cli.training.reports.summary import result_text
    from trl_nash.trainers.run.reports.advice import Facts
    from trl_nash.trainers.run.reports.completions import Verdict

    state = SimpleNamespace(log_history=[], global_step=1)
    text = result_text(state, "out", 1.0, Facts(), [Verdict("p", "\x1b[2Jpolicy", "start", 1.0)])
    assert "\x1b" not in text and "policy" in text
