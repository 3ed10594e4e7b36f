# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The options are those of the dataclasses, whatever is in the cache."""

import inspect
import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest

from trl_nash.cli.options import table as option_table
from trl_nash.cli.options.arguments import arguments_of, dataclasses_of
from trl_nash.cli.options.parser import NashParser
from trl_nash.cli.options.reading import read_options
from trl_nash.cli.options.table import LAUNCHER, options_of
from trl_nash.cli.options.typed import ALGORITHMS, Algorithm
from trl_nash.usage import UsageError, did_you_mean


@pytest.fixture(scope="module")
def built():
    return option_table._build()


@pytest.fixture
def cache(monkeypatch, tmp_path, built):
    """An empty cache, and what is built where it has nothing, which counts."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    counted = []
    monkeypatch.setattr(option_table, "_build", lambda: counted.append(1) or built)
    option_table._table.cache_clear()
    yield counted
    option_table._table.cache_clear()


def test_it_has_every_field_and_its_default(built):
    table, _ = built
    for algorithm in ALGORITHMS:
        classes = dataclasses_of(algorithm)
        assert {option.dest for option in table[algorithm]} == {
            f.name for cls in classes for f in fields(cls) if f.init
        }
        # What a user who gives nothing gets is what the dataclasses have.
        options = NashParser(algorithm).parse_args(["--use_cpu", "--bf16=False"])
        config = arguments_of(algorithm, options).training
        assert config == classes[2](use_cpu=True, bf16=False)


def test_it_is_kept(cache, built):
    for _ in range(3):
        assert options_of("comal") == built[0]["comal"]
        option_table._table.cache_clear()
    assert cache == [1]


def test_the_list_of_algorithms_is_one_of_its_sources(built):
    assert inspect.getsourcefile(Algorithm) in built[1]


@pytest.mark.parametrize(
    "harm",
    ["nothing", "cut", "another", "not JSON", "a folder", "older sources", "no such sources"],
)
def test_a_harmed_file_is_made_again(cache, built, harm):
    options_of("comal")
    file = option_table._cache_file()
    text = file.read_text()
    kept = json.loads(text.partition("\n")[2])
    if harm == "a folder":
        file.unlink()
        file.mkdir()
    elif harm in ("older sources", "no such sources"):
        source = "nowhere.py" if harm == "no such sources" else next(iter(kept["sources"]))
        body = json.dumps(kept | {"sources": kept["sources"] | {source: [1, 1]}})
        file.write_text(f"{option_table._digest(body)}\n{body}")
    else:
        harmed = {"nothing": "", "cut": text[:-9], "another": text.replace("beta", "gamma"), "not JSON": "{]\n{]"}
        file.write_text(harmed[harm])
    option_table._table.cache_clear()
    assert options_of("comal") == built[0]["comal"]
    assert cache == [1, 1]
    if harm != "a folder":
        assert file.read_text() == text


def test_files_do_not_pile_up(cache, built):
    """One is kept for each environment, and the newest few of those."""
    file = option_table._cache_file()
    file.parent.mkdir()
    for age in range(9):
        old = file.with_name(f"options-{age:016x}.json")
        old.write_text("")
        os.utime(old, (age, age))
    options_of("comal")
    names = sorted(path.name for path in file.parent.iterdir())
    assert len(names) == option_table._KEPT and file.name in names and old.name in names


@pytest.mark.parametrize("change", ["version", "place"])
def test_another_trl_is_read_anew_into_the_same_file(cache, built, change, monkeypatch, tmp_path):
    """Another release, and another clone of the same version (of which the old one is still there)."""
    options_of("comal")
    if change == "version":
        monkeypatch.setattr(option_table, "version", lambda package: "1.99")
    else:
        (tmp_path / "clone" / "trl").mkdir(parents=True)
        (tmp_path / "clone" / "trl" / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path / "clone")
        monkeypatch.delitem(sys.modules, "trl")
    for _ in range(2):
        option_table._table.cache_clear()
        options_of("comal")
    assert cache == [1, 1]
    assert len(list(option_table._cache_file().parent.iterdir())) == 1


def test_a_place_that_cannot_be_written_does_not_matter(cache, built, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert options_of("comal") == built[0]["comal"]


@pytest.mark.parametrize(
    "argv, code, said",
    [
        (["--help"], 0, "--help-all` lists all"),
        (["--help-all"], 0, "--weight_decay"),
        (
            ["--model_name_or_path=m", "--dataset_name=d", "--judge=random", "--num_generations=1"],
            2,
            "at least 2, got 1",
        ),
        (["--model_name_or_path=m", "--dataset_name=d", "--judge=random", "--lora_r=8"], 2, "add --use_peft"),
        (["--model_name_or_path=m", "--dataset_name=d", "--judge=random", "--report_to=wandbb"], 2, "mean wandb?"),
        (["--num_proceses=2"], 2, "did you mean --num_processes?"),
    ],
)
def test_answers_without_torch(argv, code, said, tmp_path, built):
    """Once the options are kept, a fresh process helps, and says what is wrong, before anything starts."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        option_table._write(option_table._cache_file(), *built)
    code_of_it = (
        "import sys; from trl_nash.cli.main import main; code = main(sys.argv[1:]); "
        "found = {'torch', 'transformers', 'trl', 'accelerate', 'datasets'} & set(sys.modules)\n"
        "assert not found, found\nsys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code_of_it, "comal", *argv],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


MISTAKES = {
    "--dataset_name=promtps.jsonl": "--dataset_name promtps.jsonl: there is no such file.",
    "--dataset_name=empty.jsonl": "--dataset_name empty.jsonl: the file is empty.",
    "--dataset_name=columns.csv": "columns.csv has no prompt column among 'prompt', ",
    "--dataset_name=columns.csv --prompt_column=tetx": "columns.csv has no such column: did you mean text?",
    "--dataset_name=columns.csv --prompt_column=text": None,
    "--dataset_name=columns.csv --dataset_train_split=train[1:]": None,
    "--dataset_name=org/name": None,
    "--config=mixture.yaml": "datasets: promtps.csv: there is no such file.",
    "--config=columns.yaml": "prompts.jsonl has no prompt column among ",
    "--judge=rewrad:foo/bar": "Unknown judge 'rewrad:foo/bar', did you mean 'reward'?",
    "--judge=tast:shorter": "(No module named 'tast').",
    "--judge=taste:shortr": "The judge 'taste:shortr': taste.py has no `shortr`: did you mean taste:shorter?",
    "--judge=taste": "The judge 'taste' names a module: write taste:FUNCTION, with a name in it.",
    "--judge=taste:shorter": None,
    "--resume_from_checkpoint=out/checkpoint-9": "is not a complete checkpoint: there is no such folder.",
    "--resume_from_checkpoint=latest": "finds no complete checkpoint in trainer_output.",
}
READ_EACH = """
import json, sys
from trl_nash.cli.options.reading import read_options
from trl_nash.usage import UsageError
said = []
for argv in json.loads(sys.argv[1]):
    try:
        said.append(read_options("comal", argv) and None)
    except UsageError as error:
        said.append(str(error))
found = {'torch', 'transformers', 'trl', 'accelerate', 'datasets'} & set(sys.modules)
print(json.dumps([said, sorted(found)]))
"""


def test_what_files_and_judges_lack_is_said_without_torch(tmp_path, built):
    """One process reads all of them, and finds nothing wrong with a name that may be on the hub."""
    files = {
        "prompts.jsonl": '{"prompt": "a", "source": 1}\n',
        "empty.jsonl": "",
        "columns.csv": "text,label\na b,1\n",
        "columns.yaml": "datasets: [{path: prompts.jsonl}, {path: prompts.jsonl, columns: [source]}]\n",
        "mixture.yaml": "datasets: [{path: prompts.jsonl}, {path: org/name}, {path: promtps.csv}]\n",
        "taste.py": "def shorter(prompts, first, second):\n    return [0.5] * len(first)\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        option_table._write(option_table._cache_file(), *built)
    base, data = ["--model_name_or_path=m", "--judge=random"], ["--dataset_name=prompts.jsonl"]
    argv = [[*base, *([] if typed.startswith("--config") else data), *typed.split()] for typed in MISTAKES]
    here = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", READ_EACH, json.dumps(argv)],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": here},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    said, found = json.loads(done.stdout)
    assert found == []
    for (typed, expected), text in zip(MISTAKES.items(), said, strict=True):
        assert (text is None) if expected is None else expected in text, (typed, text)


def test_names_of_grpo(built):
    """Those that are called otherwise here lead to their name, and the others to no option of another meaning."""
    from trl import GRPOConfig

    known = [option.dest for algorithm in ("comal", LAUNCHER) for option in built[0][algorithm]]
    names = {field.name for field in fields(GRPOConfig)} - set(known) | {"max_prompt_length"}
    hints = {name: did_you_mean(name, known, "--") for name in names}
    meant = {
        "max_completion_length": ": did you mean --max_new_tokens?",
        "max_prompt_length": ": did you mean --max_length?",
        "num_generations_eval": ": did you mean --num_generations?",
        "use_transformers_paged": ": did you mean --use_transformers_continuous_batching?",
    }
    assert {name: hint for name, hint in hints.items() if hint and meant.get(name) != hint} == {}
    assert meant.keys() - hints.keys() <= {"use_transformers_paged"}  # which TRL is giving up


@pytest.mark.parametrize("yaml", [False, True])
def test_the_longest_completion_as_grpo_calls_it(yaml, tmp_path, built):
    (tmp_path / "run.yaml").write_text("max_completion_length: 32\n")
    typed = [f"--config={tmp_path / 'run.yaml'}"] if yaml else ["--max-completion-length", "32"]
    with pytest.raises(UsageError, match="unknown option .*: did you mean (--)?max_new_tokens\\?"):
        read_options("comal", typed)


def test_names_in_a_checkpoint_are_those_of_transformers():
    from transformers.trainer import TRAINER_STATE_NAME
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

    from trl_nash.trainers.run.checkpoints import files

    assert (files.TRAINER_STATE_NAME, files.PREFIX_CHECKPOINT_DIR) == (TRAINER_STATE_NAME, PREFIX_CHECKPOINT_DIR)
