# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import os
import re
import signal
import sys
from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from trl_nash.cli.training import train
from trl_nash.cli.training.launching import stop_signals
from trl_nash.cli.training.launching.stop_signals import StopSignals
from trl_nash.cli.training.reports.summary import result_text
from trl_nash.trainers.run.reports.advice import Facts


@pytest.fixture(autouse=True)
def one_process(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)


@pytest.fixture
def options(model_dir, prompts_file) -> list[str]:
    options = {
        "model_name_or_path": model_dir,
        "dataset_name": prompts_file,
        "output_dir": "out",
        "max_steps": "2",
        "max_new_tokens": "4",
        "max_length": "32",
        "per_device_train_batch_size": "2",
        "report_to": "none",
        "logging_steps": "1",
        "save_steps": "1",
        "use_cpu": "True",
    }
    return [f"--{name}={value}" for name, value in options.items()]


@pytest.mark.parametrize("algorithm", ["onpo", "comal", "nash-md", "iterative-ipo"])
def test_trains_saves_and_says_so(tmp_path, capsys, options, algorithm):
    assert train.main([algorithm, *options, "--judge", "random", "--eval_strategy=steps", "--test_split_size=4"]) == 0
    output = capsys.readouterr().out
    assert "Precision: fp32, chosen for the CPU" in output
    assert "Trained 2 steps in" in output
    assert "gainst the start it wins" in output
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "README.md").is_file()


def test_continues_from_the_last_checkpoint(capsys, options):
    """Of a run of 2 steps, which are a whole round; one that goes on keeps its rounds."""
    argv = ["comal", *options, "--judge", "random"]
    assert train.main(argv) == 0
    said = capsys.readouterr().out
    assert "then 2 optimizer steps (whole rounds of --max_steps 2; " in said and "round 1/1 |" in said
    assert train.main([*argv, "--max_steps=3", "--resume_from_checkpoint", "true"]) == 0
    said = capsys.readouterr().out
    assert "then 2 optimizer steps (" in said and "Trained 3 steps in" in said


@pytest.mark.parametrize("is_first", [True, False])
def test_each_process_chooses_its_threads_and_one_says_so(is_first, monkeypatch, capsys, options):
    asked = []
    monkeypatch.setattr(train, "choose_threads", lambda model: asked.append(model) or "Threads: some.")
    monkeypatch.setattr(train, "is_first_process", lambda: is_first)
    assert train.main(["comal", *options, "--judge", "random"]) == 0
    assert len(asked) == 1 and ("Threads: some." in capsys.readouterr().out) == is_first


def test_lora_and_a_judge_of_the_users(tmp_path, monkeypatch, options):
    pytest.importorskip("peft")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "judge_with_bonus.py").write_text(
        "def judge(prompts, first, second, source, bonus=0.0):\n"
        "    assert set(source) <= set('abcd') and bonus == 0.25\n"
        "    return [0.5 + bonus] * len(first)\n"
    )
    judge = ["--judge", "judge_with_bonus:judge", "--judge_kwargs", '{"bonus": 0.25}']
    assert train.main(["comal", *options, *judge, "--use_peft", "--lora_r", "2"]) == 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()


def test_dry_run_prints_the_plan_and_builds_nothing(tmp_path, capsys, monkeypatch, options):
    monkeypatch.setattr("trl_nash.COMALTrainer.__init__", lambda *args, **kwargs: pytest.fail("a trainer was built"))
    rounds = ["--gradient_accumulation_steps=2", "--steps_per_generation=4", "--num_generations=3"]
    argv = ["comal", *options, *rounds, "--judge=reward:nowhere", "--dry_run", "--prompt_column=source"]
    assert train.main(argv) == 0
    output = capsys.readouterr().out
    for part in (
        "(all weights), 1 process",
        "16 rows of",
        "column 'source'",
        '"<|im_start|>user a <eos> <|im_start|>assistant "',
        "8 prompts x 3 completions of up to 4 tokens, then 2 optimizer steps",
        "reward:nowhere",
        "1 round, 2 optimizer steps in fp32",
        "5e-07, linear",
        "96 generated",
        "24 calls of the judge",
        "of each device: it fits",
        "if cpu and its use are as `trl-nash plan` assumes",
        "nothing is trained",
    ):
        assert part in output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry", [["--dry_run"], []], ids=["dry", "real"])
@pytest.mark.parametrize(
    "judge, extra, complaint",
    [
        ("def judge(prompts, first, second, topic):\n    return []\n", [], "asks for the column 'topic', which"),
        ("def judge(prompts, first):\n    return []\n", [], "'my_judge:judge'"),
        (None, ["--per_device_train_batch_size=32"], "fewer than a round of 32"),
        (None, ["--model_name_or_path=gpt2", "--max_length=65"], "exceeds the 64 positions that the model has"),
        (None, ["--generation_kwargs", '{"num_beams": 2}'], "Pairs are sampled"),
    ],
)
def test_a_dry_run_refuses_what_a_run_refuses(judge, extra, complaint, dry, tmp_path, capsys, monkeypatch, options):
    """With the same sentence."""
    monkeypatch.syspath_prepend(tmp_path)
    if judge is not None:
        sys.modules.pop("my_judge", None)
        (tmp_path / "my_judge.py").write_text(judge)
    if "--max_length=65" in extra:
        tokenizer = AutoTokenizer.from_pretrained(options[0].partition("=")[2])
        model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=64, vocab_size=len(tokenizer)))
        model.save_pretrained("gpt2")
        tokenizer.save_pretrained("gpt2")
    named = "--judge=random" if judge is None else "--judge=my_judge:judge"
    assert train.main(["comal", *options, named, *extra, *dry]) == 1
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_a_dry_run_counts_what_the_run_does(tmp_path, capsys, monkeypatch, options):
    """Rounds, steps and judge calls, of a run whose number of steps is not given."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "counting_judge.py").write_text(
        "asked = []\n\ndef judge(prompts, first, second):\n    asked.extend(prompts)\n    return [0.5] * len(first)\n"
    )
    options = [option for option in options if not option.startswith("--max_steps")]
    options += ["--steps_per_generation=2", "--num_train_epochs=2", "--num_generations=3", "--max_new_tokens=16"]
    assert train.main(["comal", *options, "--judge=counting_judge:judge", "--dry_run"]) == 0
    said = capsys.readouterr().out
    trainer = train.build_trainer("comal", train.read_arguments("comal", [*options, "--judge=counting_judge:judge"]))
    trainer.train()
    rounds = max(entry.get("round", 0) for entry in trainer.state.log_history)
    assert f"8 rounds, {trainer.state.global_step} optimizer steps in fp32" in said
    assert trainer.state.global_step == 16 and rounds == 8
    import counting_judge

    calls = int(re.search(r"judged +([\d,]+) calls", said)[1].replace(",", ""))
    assert calls == 8 * 4 * 3 * 2  # rounds, prompts, pairs, orders
    assert 0.9 * calls <= len(counting_judge.asked) <= calls  # equal answers are not asked


def test_options_of_a_config_file(tmp_path, capsys, options):
    (tmp_path / "run.yaml").write_text("judge: random\nbeta: [1e-2, 0.005]\nstep_size: 10\nnum_processes: 2\n")
    assert train.main(["comal", *options, "--config=run.yaml", "--dry_run"]) == 0
    arguments = train.read_arguments("comal", [*options, "--config", "run.yaml"])
    assert arguments.training.beta == [0.01, 0.005]
    assert arguments.judge.judge == "random"


def test_a_mixture_of_judges_in_a_config_file(tmp_path, capsys, monkeypatch, options):
    """A list is a mixture, and each judge may have arguments of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "half_judge.py").write_text(
        "def judge(prompts, first, second, *, better=0.5):\n    return [better] * len(first)\n"
    )
    (tmp_path / "run.yaml").write_text(
        "judge: [{judge: random, seed: 1}, {judge: 'half_judge:judge', better: 0.75}]\n"
        "judge_kwargs: {weights: [1, 3]}\n"
    )
    assert train.main(["comal", *options, "--config=run.yaml", "--dry_run"]) == 0
    assert "judge    random and half_judge:judge" in capsys.readouterr().out
    arguments = train.read_arguments("comal", [*options, "--config", "run.yaml"])
    judge = train._load_judge(arguments.judge, "cpu")
    assert type(judge).__name__ == "EnsembleJudge" and list(judge.weights) == [0.25, 0.75]
    assert train.main(["comal", *options, "--judge", "random", "reward:nowhere", "--dry_run"]) == 0
    assert "random and reward:nowhere" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("extra", "code", "complaint"),
    [
        (["--judge=randm"], 2, "Unknown judge 'randm', did you mean 'random'?"),
        (["--judge=random", "--judge_kwargs", '{"sed": 1}'], 1, "'random' takes the arguments"),
        (["--judge=random", "--model_name_or_path=./nowhere"], 2, "--model_name_or_path ./nowhere: there is no such"),
        (
            ["--judge=random", "--model_name_or_path=smollm"],
            1,
            "the model smollm: there is no such folder, the hub can",
        ),
        (["--judge=random", "--dataset_name=nowhere.jsonl"], 2, "--dataset_name nowhere.jsonl: there is no such file"),
        (["--judge=random", "--prompt_column=prmpt"], 2, "did you mean prompt?"),
        (["--judge=random", "--num_generations=1"], 2, "`num_generations` must be at least 2, got 1."),
        (["--judge=random", "--per_device_train_batch_size=32"], 1, "fewer than a round of 32"),
        (["--judge=random", "--learing_rate=1"], 2, "unknown option --learing_rate: did you mean --learning_rate?"),
        ([], 2, "give either --judge"),
    ],
)
def test_the_users_errors_are_sentences(capsys, options, extra, code, complaint):
    assert train.main(["comal", *options, *extra]) == code
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("trl-nash comal: ")
    assert complaint in error.splitlines()[-1]


def test_a_run_that_stops_itself_says_why(tmp_path, capsys, monkeypatch, options):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "silent_judge.py").write_text(
        "def judge(prompts, first, second):\n    return [float('nan')] * len(first)\n"
    )
    assert train.main(["comal", *options, "--judge=silent_judge:judge"]) == 1
    assert "the judge abstained on" in capsys.readouterr().err.splitlines()[-1]


def test_a_fault_in_the_users_judge_keeps_its_traceback(tmp_path, monkeypatch, options):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "faulty_judge.py").write_text("def judge(prompts, first, second):\n    raise ValueError('mine')\n")
    with pytest.raises(ValueError, match="mine"):
        train.main(["comal", *options, "--judge=faulty_judge:judge"])


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
@pytest.mark.parametrize("where", ["fit", "round"])
def test_a_signal_ends_a_run_with_a_checkpoint(where, number, code, name, capsys, monkeypatch, options):
    """The step, or the samples that are under way, are finished; resumed, the run goes on to its end."""
    from trl_nash import COMALTrainer

    method = {"fit": "compute_loss", "round": "sample_pairs"}[where]
    original, calls = getattr(COMALTrainer, method), []

    def signalled(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(COMALTrainer, method, signalled)
    rounds = ["--steps_per_generation=2", "--per_device_generation_batch_size=2", "--max_steps=5"]
    assert train.main(["comal", *options, *rounds, "--judge=random"]) == code
    error = capsys.readouterr().err
    assert f"{name}: stopping at the next step, with a checkpoint." in error
    step = 2 if where == "fit" else 1
    assert f"Add --resume_from_checkpoint out/checkpoint-{step} to the same command" in error
    assert "Traceback" not in error and not os.path.exists("out/model.safetensors")
    resume = ["--resume_from_checkpoint", f"out/checkpoint-{step}"]
    assert train.main(["comal", *options, *rounds, "--judge=random", *resume]) == 0
    assert "Trained 5 steps" in capsys.readouterr().out


def test_a_second_ctrl_c_does_not_wait(capsys, monkeypatch):
    clock = iter([10.0, 10.9, 11.1])
    monkeypatch.setattr(stop_signals, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    signals = StopSignals()
    signals.trainer = SimpleNamespace(request_stop=lambda reason: None)
    signals(signal.SIGINT, None)
    signals(signal.SIGINT, None)  # the same Ctrl-C, from the launcher
    with pytest.raises(KeyboardInterrupt):
        signals(signal.SIGINT, None)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # a third one must not break the farewell
    assert capsys.readouterr().err.count("Ctrl-C again") == 1


def test_interrupting_says_how_to_resume(tmp_path, capsys, monkeypatch, options):
    def interrupted(trainer, arguments, signals):
        trainer.train()
        (tmp_path / "out" / "checkpoint-7").mkdir()  # which a kill has left half-written
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", interrupted)
    assert train.main(["comal", *options, "--judge=random"]) == 130
    error = capsys.readouterr().err
    assert "trl-nash comal: interrupted. Add --resume_from_checkpoint out/checkpoint-2 to the same command" in error


def test_interrupting_before_training(capsys, monkeypatch, options):
    monkeypatch.setattr(train, "read_arguments", lambda *args: signal.raise_signal(signal.SIGINT))
    assert train.main(["comal", *options]) == 130
    assert "interrupted. Nothing was trained yet." in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_result_text_without_evaluation():
    state = SimpleNamespace(log_history=[{"policy/kl_reference": 0.1, "step": 1}], global_step=2)
    text = result_text(state, "out", 3.4, Facts({"policy/kl_reference": 0.25, "judge/abstained": 0.0}))
    assert (
        text == "Trained 2 steps in 3 s. The model is in out.\n"
        "  In the last round: KL to the start 0.25, pairs without a verdict 0."
    )
