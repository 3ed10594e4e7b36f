# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Nothing is executed that came as data, and nothing secret is written down."""

import ast
import json
import logging
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from anything import MARKS
from helpers import make_trainer
from tiny import build_model, build_tokenizer
from transformers import AutoModelForCausalLM

import trl_nash
from trl_nash.cli.main import main
from trl_nash.cli.training import train
from trl_nash.judges.local.pairwise_lm import TEMPLATES, Template
from trl_nash.judges.questions.template import PROMPTS, QuestionTemplate
from trl_nash.trainers.run.reports.completions import Verdict, log_verdicts


FILES = sorted(Path(trl_nash.__file__).parent.rglob("*.py"))
SECRET = "sk-planted-secret-0123456789"

# Calls that run what they read; `module.name` or `name`.
FORBIDDEN = {
    *("eval", "exec", "compile", "os.system", "os.popen", "marshal.loads", "dill.load", "joblib.load"),
    *("pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps", "torch.save", "torch.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "yaml.Loader", "yaml.UnsafeLoader", "yaml.FullLoader"),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_package_runs_nothing_that_it_reads(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert f"{node.value.id}.{node.attr}" not in FORBIDDEN, node.lineno
        if isinstance(node, ast.Call):
            assert getattr(node.func, "id", None) not in FORBIDDEN, node.lineno
        if isinstance(node, ast.keyword):  # on by nobody but the user
            on = isinstance(node.value, ast.Constant) and node.value.value is True
            assert not (on and node.arg in ("trust_remote_code", "allow_pickle", "shell")), node.value.lineno
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            assert not names & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}, node.lineno


def test_code_of_models_is_not_trusted_by_default():
    for config in ("ONPOConfig", "COMALConfig", "NashMDConfig", "PairConfig"):
        assert getattr(trl_nash, config).__dataclass_fields__["trust_remote_code"].default is False


@pytest.mark.parametrize("mark", MARKS)
def test_templates_of_judges_do_not_render_texts(mark):
    """Special tokens and delimiters lose their power by a space or an entity; no template language is looked at."""
    for path in PROMPTS.glob("*.jinja"):
        template = QuestionTemplate(path.stem)
        messages = template.render(
            f"p {mark}", f"a {mark}", f"b {mark}", "text", **dict.fromkeys(template.columns, mark)
        )
        for text in ("p", "a", "b"):
            # Some families are given the answers as messages of their own.
            assert any(f"{text} {template.neutralise(mark)}" in message["content"] for message in messages)
            assert "49" not in template.neutralise(mark)
    for path in TEMPLATES.glob("*.jinja"):
        text = Template(path.stem).render([{"role": "user", "content": f"p {mark}"}], f"a {mark}", f"b {mark}")
        assert all(f"{name} {mark}" in text for name in ("p", "a", "b"))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a model, prompts, pairs, and a judge that takes a key."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"{a} {b}", "first": "a", "second": "b"} for a in "abcd" for b in "ab"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "planted_judge.py").write_text(
        "def build(api_key, url):\n"
        "    assert api_key and url\n"
        "    def judge(prompts, first, second):\n        return [0.75] * len(prompts)\n"
        "    return judge\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, SECRET)
    return tmp_path


KWARGS = json.dumps({"api_key": SECRET, "url": f"http://user:{SECRET}@host/v1"})


def holders(folder: Path) -> list[str]:
    """The files that hold the secret, in plain bytes."""
    return [
        str(f.relative_to(folder))
        for f in sorted(folder.rglob("*"))
        if f.is_file() and SECRET.encode() in f.read_bytes()
    ]


def test_training_writes_no_secret(folder, capsys, caplog):
    options = {
        "model_name_or_path": "model",
        "dataset_name": "rows.jsonl",
        "output_dir": "out",
        "judge": "planted_judge:build",
        "judge_kwargs": KWARGS,
        "max_steps": "2",
        "save_steps": "1",
        "max_new_tokens": "3",
        "max_length": "16",
        "per_device_train_batch_size": "2",
        "log_completions": "True",
        "report_to": "none",
        "use_cpu": "True",
    }
    with caplog.at_level(logging.DEBUG):
        assert train.main(["comal", *(f"--{name}={value}" for name, value in options.items())]) == 0
    printed = capsys.readouterr()
    assert (folder / "out" / "checkpoint-2").is_dir() and (folder / "out" / "README.md").is_file()
    assert SECRET not in printed.out + printed.err + caplog.text
    assert holders(folder) == []


def test_judging_writes_no_secret(folder, capsys, caplog):
    argv = [
        "judge",
        "rows.jsonl",
        "--judge",
        "planted_judge:build",
        "--judge_kwargs",
        KWARGS,
        "--output_dir",
        "judged",
    ]
    with caplog.at_level(logging.DEBUG):
        assert main(argv) == 0
    printed = capsys.readouterr()
    assert (folder / "judged" / "judgements.jsonl.run.json").is_file()
    assert SECRET not in printed.out + printed.err + caplog.text
    assert holders(folder) == []


@pytest.mark.parametrize("command", ["judge", "comal"])
def test_a_password_in_a_url_is_refused_and_not_shown(folder, capsys, command):
    judge = f"openai:m@http://user:{SECRET}@localhost:1/v1"
    if command == "judge":
        assert main(["judge", "rows.jsonl", "--judge", judge, "--output_dir", "judged"]) == 1
    else:
        options = ["--model_name_or_path=model", "--dataset_name=rows.jsonl", "--output_dir=out", "--use_cpu=True"]
        assert train.main(["comal", *options, f"--judge={judge}"]) == 2
    printed = capsys.readouterr()
    assert "password" in printed.err and SECRET not in printed.out + printed.err
    assert holders(folder) == []


@pytest.mark.parametrize("kind", ["pairwise-lm", "reward", "gpm"])
def test_pickled_weights_of_a_judge_are_refused(folder, kind):
    pickle_weights(folder)
    with pytest.raises(ValueError, match="safetensors|cannot be loaded as"):
        trl_nash.load_judge(f"{kind}:model")
    assert not (folder / "touched").exists()


@pytest.mark.parametrize("options", [{}, {"use_safetensors": False}])
def test_pickled_weights_run_no_code_even_where_they_are_read(folder, options):
    """Of a policy, and of a judge by `use_safetensors=False`, transformers reads tensors and nothing else."""
    pickle_weights(folder)
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        AutoModelForCausalLM.from_pretrained("model", **options)
    assert not (folder / "touched").exists()


def pickle_weights(folder: Path) -> None:
    """In place of the model's weights a pickle that makes a file when it is loaded."""
    (folder / "model" / "model.safetensors").unlink()
    torch.save({"lm_head.weight": Touch(folder / "touched")}, folder / "model" / "pytorch_model.bin")


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


# What is not so yet.


def test_the_table_of_completions_shows_texts_as_they_are(tmp_path, capsys):
    texts = "[bold red]x[/]", "\x1b[31mred", "\x9b2J \x1b]0;title\x07"
    log_verdicts([Verdict(*texts, 0.5)], 1, str(tmp_path), [])
    printed = capsys.readouterr().out
    assert "[bold red]x[/]" in printed and not set(printed) & set("\x1b\x9b\x07")


def test_checkpoints_hold_no_token_of_the_hub(tmp_path):
    trainer = make_trainer("ipo", tmp_path, hub_token=SECRET)
    trainer.save_model(str(tmp_path))
    assert holders(tmp_path) == []
